"""The plugin tests' registry, field log and case book, for workers that are hurt on purpose."""

from __future__ import annotations

from tests.plugin.conftest import field, registry, registry_file

__all__ = ["field", "registry", "registry_file"]
