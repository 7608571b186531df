"""Alembic migrations of the case book: ``env.py`` and one file per schema revision in ``versions``."""
