"""The repair engine, and everything that plugs into MLflow."""
