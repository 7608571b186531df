"""Whether sidecar and mirror serve the console's pages and the case API, or leave them to ``fieldrepair console``."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Literal

from fieldrepair_service.errors import ConfigurationError

logger = logging.getLogger(__name__)

ConsoleChoice = Literal["auto", "on", "off"]

NEEDED = {"sqlalchemy": "sqlalchemy", "alembic": "alembic", "pyarrow": "pyarrow", "PIL": "pillow"}
"""What case book, field-log reader and pictures are made with: name of the module -> name of the package."""

EXTRA = "fieldrepair[service]"
"""The extra that brings them."""


def missing_packages() -> list[str]:
    """Packages of :data:`NEEDED` that are not installed here; nothing is imported."""
    return [package for module, package in NEEDED.items() if not _is_installed(module)]


def require_packages(what: str) -> None:
    """Make sure that pages and API can be served.

    Args:
        what: asks for it, as messages name it.

    Raises:
        ConfigurationError: packages are missing; the message names them and the extra.
    """
    missing = missing_packages()
    if missing:
        raise ConfigurationError(
            f"{what} needs packages that are not installed here: {', '.join(missing)}; "
            f"install the extra that brings them: pip install '{EXTRA}'"
        )


def why_left_out(choice: ConsoleChoice) -> str | None:
    """Why pages and API are left out, in words for whoever asks for them; None if they are served.

    Raises:
        ConfigurationError: they must be served, and packages for it are missing.
    """
    if choice == "off":
        return (
            "there is no console and no case API on this control port (console=off); `fieldrepair console` serves both"
        )
    if choice == "on":
        require_packages("console=on")
        return None
    missing = missing_packages()
    if not missing:
        return None
    reason = (
        f"there is no console and no case API on this control port, because packages for them are not installed here "
        f"({', '.join(missing)}); install {EXTRA}, or run `fieldrepair console` where it is installed"
    )
    logger.info("%s", reason)
    return reason


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a finder that keeps the module out says so like this
        return False
