"""``fieldrepair log``: look at the field log, count what is in it, and take it along."""
