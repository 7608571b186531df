"""Repairs of the training itself, for a model that is ill rather than out of date: a diagnosis, and searches."""

SEARCH_REPORT = "search.json"
"""File, in the folder of a search, that says what it tried."""
