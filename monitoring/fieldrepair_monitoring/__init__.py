"""Notices when the field no longer looks like the reference, and whether that hurts."""
