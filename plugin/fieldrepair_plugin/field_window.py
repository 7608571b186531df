"""Where everybody takes :class:`FieldLogWindow` from: MLflow has to be loaded before the class is.

MLflow loads the class itself, by its entry point, while it is being imported. Were the class's own module what imports
MLflow, MLflow would find it half made.
"""

from __future__ import annotations

import mlflow.data  # noqa: F401  # pyright: ignore[reportUnusedImport] - see above

from fieldrepair_plugin.field_log_source import FieldLogWindow

__all__ = ["FieldLogWindow"]
