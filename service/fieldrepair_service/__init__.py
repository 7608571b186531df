"""What runs beside the model server: sidecar, field log, case book and the control port's API."""
