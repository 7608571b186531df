"""The numbers of a repair: every constant of the HybridRepair paper, by name, with the paper's value as default.

All strategies are set by them, so that a comparison differs in what is compared and in nothing else.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Recipe = Literal["paper", "default"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class HybridSettings:
    """Settings of one repair. The defaults are the paper's (Li, Chen, Xu: HybridRepair, ISSTA 2022).

    Raises:
        pydantic.ValidationError: for a value out of range or an unknown name.
    """

    recipe: Recipe = "paper"
    """Which recipe ``hybridrepair`` follows: ``paper`` is the published one, ``default`` ours."""
    keep_reference: Literal["strict", "balanced", "off"] = "off"
    """How much of the old world the repaired model must keep."""
    seed: int = 0
    """Fixes every random draw. Two runs with one seed are bit-equal on CPU (same thread count, same versions)."""

    # Step 1, unsmoothness.
    copies: int = Field(default=8, ge=1)
    """AugMix copies of an input, besides the input itself (K)."""
    severity: int = Field(default=3, ge=1, le=10)
    """AugMix severity."""

    # Step 2, the threshold tau.
    neighbours: int = Field(default=100, ge=1)
    """Nearest training inputs whose mean cosine distance is an input's density."""
    average_inputs: int = Field(default=1000, ge=1)
    """Pool inputs of most average density whose mean unsmoothness is tau."""

    # Step 3, regions.
    min_samples: int = Field(default=3, ge=1)
    """HDBSCAN's min_samples: how dense a neighbourhood must be not to be noise."""
    density_inputs: int = Field(default=10_000, ge=10)
    """Most inputs that HDBSCAN looks at; a larger pool is judged by a random sample of this size."""
    region_size: int = Field(default=10, ge=1)
    """Average members of a region."""

    # Step 5, what is learned from without a label.
    unlabelled: Literal["smooth", "all"] = "smooth"
    """Which inputs without a label take part: the smooth ones, more likely the smoother; or all of them alike, as the
    paper's baselines have it."""

    # Step 7, which epoch is kept.
    kept: Literal["smoothest", "last"] = "smoothest"
    """The epoch with the smallest total unsmoothness on the pool, or the last one."""

    # Step 6, training.
    consistency: bool = True
    """Run the MixMatch-style pass; without it only labels are learned from."""
    epochs: int = Field(default=10, ge=1)
    """Epochs, each one supervised and one consistency pass."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """SGD's learning rate."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's momentum."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """SGD's weight decay."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of a label's mass spread over all classes."""
    temperature: float = Field(default=0.5, gt=0)
    """Sharpening temperature of guessed labels (T)."""
    mixup_alpha: float = Field(default=0.75, gt=0)
    """MixUp's weight is drawn from Beta(alpha, alpha)."""
    mixed_targets: bool = False
    """Mix the targets of replayed inputs as the inputs are, as MixMatch does and the published code does not.
    Measured, the code's way is better: nine in ten partners are field inputs, whose targets are guessed and often
    wrong, and mixing those in costs accuracy in the field and in the reference world."""
    unlabelled_weight: float = Field(default=100.0, ge=0)
    """Weight of the squared error on field inputs against the cross-entropy on replayed ones."""
    batch_size: int = Field(default=64, ge=2)
    """Replayed, labelled and propagated inputs per step."""
    unlabelled_batch_size: int = Field(default=64, ge=1)
    """Field inputs per step of the consistency pass; each stands there K+1 times."""

    bfloat16: bool | None = None
    """Train and measure unsmoothness in bfloat16 where precision allows (autocast). Default: where the processor does,
    and the model can."""
    inference_batch_size: int = Field(default=512, ge=1)
    """Inputs per forward pass where nothing is trained; costs memory, changes results by rounding only."""
