"""The parts of alibi-detect that detectors use, imported in one place.

alibi-detect compiles two helpers with ``torch.jit.script`` when it is imported, which torch deprecates.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="`torch.jit.script` is", category=FutureWarning)
    from alibi_detect.cd import KSDrift
    from alibi_detect.cd.preprocess import classifier_uncertainty
    from alibi_detect.cd.pytorch.context_aware import ContextMMDDriftTorch
    from alibi_detect.cd.pytorch.learned_kernel import LearnedKernelDriftTorch
    from alibi_detect.cd.pytorch.lsdd import LSDDDriftTorch
    from alibi_detect.cd.pytorch.mmd import MMDDriftTorch
    from alibi_detect.utils.pytorch.distance import permed_lsdds
    from alibi_detect.utils.pytorch.kernels import DeepKernel, GaussianRBF

__all__ = [
    "ContextMMDDriftTorch",
    "DeepKernel",
    "GaussianRBF",
    "KSDrift",
    "LSDDDriftTorch",
    "LearnedKernelDriftTorch",
    "MMDDriftTorch",
    "classifier_uncertainty",
    "permed_lsdds",
]
