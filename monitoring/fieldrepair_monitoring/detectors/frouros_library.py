"""The parts of frouros (BSD-3-Clause) that detectors use, imported in one place.

frouros calls ``logging.basicConfig`` when it is imported, which does nothing where the root logger has a handler. How a
process logs is not for an import to decide.
"""

from __future__ import annotations

import logging

_placeholder = logging.NullHandler()
logging.getLogger().addHandler(_placeholder)
try:
    from frouros.detectors.data_drift import MMD, KSTest
    from frouros.utils.kernels import rbf_kernel
finally:
    logging.getLogger().removeHandler(_placeholder)

__all__ = ["MMD", "KSTest", "rbf_kernel"]
