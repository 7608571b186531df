"""Examples that anyone can run."""
