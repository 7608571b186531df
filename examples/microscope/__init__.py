"""A classifier of table rows, watched and repaired: run ``python -m examples.microscope``."""
