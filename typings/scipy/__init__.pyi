"""The part of SciPy that fieldrepair uses."""
