"""The part of frouros that fieldrepair uses."""
