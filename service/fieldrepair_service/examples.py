"""Reference examples of the classes, as the worker attaches them to a case for its labellers.

Of images one sheet of pictures per class (``reference-0.png``, ``reference-1.png`` ...), and ``examples.json``, which
says which classes have one. Of table rows and texts ``examples.json`` has them all, in words. Both sides read and write
them through this module.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

EXAMPLES = "examples.json"
"""Name of the attachment that says which classes have examples."""


def example_name(index: int) -> str:
    """Name of the attachment with the examples of a class."""
    return f"reference-{index}.png"


class ExampleIndex(BaseModel):
    """What ``examples.json`` says."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    counts: dict[int, int]
    """Class index -> how many examples it has."""
    tile: int = 0
    """Pixels per side of one picture on a sheet."""
    words: dict[int, tuple[str, ...]] = Field(default_factory=dict[int, tuple[str, ...]])
    """Class index -> its examples in words; empty for images."""
    left_out: int = 0
    """Classes that have examples for which there was no room."""
    without: int = 0
    """Classes of which the reference data has no example."""
