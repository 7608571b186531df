"""The numbers of our own recipe. Each idea in it is a switch, so that an ablation can take it out."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Keeping:
    """How much of the old world a repair keeps: decided in training, in the weights, and in the batch norms."""

    shared_statistics: bool
    """Train reference and field inputs in one batch, under the statistics of both; else each under its own (which the
    labels may overrule)."""
    weight: float = Field(ge=0, le=1)
    """How far to go from the old weights (0) to the trained ones (1)."""
    reference_share: float = Field(ge=0, le=1)
    """Share of reference inputs among those the served batch-norm statistics are measured on at the end; the labels may
    choose another, see :attr:`DefaultSettings.labels_choose_statistics`."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class DefaultSettings:
    """Settings of :mod:`fieldrepair_plugin.default_recipe` that the other recipe has not.

    Raises:
        pydantic.ValidationError: for a value out of range or an unknown name.
    """

    # Selection.
    adapt_before_selection: bool = True
    """Measure batch norms on the pool before it is looked at: embeddings that know the field."""
    selection: Literal["coverage", "random"] = "coverage"
    """The inputs nearest the centres of as many clusters as there are labels; or random ones."""
    clusters: int = Field(default=2000, ge=1)
    """Most clusters; where more labels are asked for, the others are drawn from the clusters by their size."""
    cluster_inputs: int = Field(default=50_000, ge=1)
    """Most inputs that clusters are computed from; a larger pool is sampled for that, and then assigned as a whole."""

    # Training.
    replay_batch: int = Field(default=64, ge=0)
    """Reference inputs per step; 0 trains on the field alone. Of images half as many are shown as the field would show
    them: with ``off`` in place of half of these, else on top of them."""
    replay_old_answers: float = Field(default=0.5, ge=0, le=1)
    """``strict`` and ``balanced``: how much of what a replayed input is learned towards is the old model's whole answer
    for it; the rest is its label."""
    labelled_batch: int = Field(default=32, ge=2)
    """Labelled field inputs per step."""
    unlabelled_batch: int = Field(default=48, ge=0)
    """Unlabelled field inputs per step; 0 learns from labels only."""
    unlabelled_batch_without_batch_norm: int = Field(default=96, ge=0)
    """The same for models without batch norm. With 48 a repair of the demo's network lost more of the reference than it
    may, and one of a small text classifier made it worse."""
    learning_rate: float = Field(default=0.05, gt=0)
    """SGD's largest learning rate; it rises over the first twentieth of the steps and then falls along a cosine."""
    learning_rate_without_batch_norm: float = Field(default=0.01, gt=0)
    """The same for models without batch norm: what batch norm divides out, a large step would break for good. With 0.05
    the demo's network, which has group norms, kept 79 % of 100 % on its reference; with 0.01 it kept 99.5 %."""
    epoch_passes: float = Field(default=1.2, gt=0)
    """Passes over the unlabelled inputs in an epoch, within the next two bounds."""
    steps_least: int = Field(default=30, ge=1)
    """Fewest steps of an epoch."""
    steps_most: int = Field(default=132, ge=1)
    """Most steps of an epoch: it bounds the time a large pool takes."""
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    """Share of a label's mass spread over all classes."""
    average: float = Field(default=0.99, ge=0, lt=1)
    """Share of the averaged weights that a step leaves as it was; 0 takes the last weights instead of an average."""
    teacher_weight: float = Field(default=0.5, ge=0, le=1)
    """How far from the old weights to the averaged ones the teacher stands, which answers for unlabelled inputs."""
    targets: Literal["soft", "confident"] = "soft"
    """Learn the teacher's whole answer for every unlabelled input; or its first choice, weighted by how sure it is."""
    strong_views: bool = True
    """Vary inputs in geometry, light, colour and with cut-outs; without, all views are weak."""
    replay_field_look: bool = True
    """Give these the field's contrast, sharpness and noise."""
    replay_field_pose: bool = True
    """Turn and scale them as the field is, which the labels tell."""
    class_chance: float = Field(default=0.01, ge=0, le=1)
    """Where labels of unchanged class shares would differ from the reference's so much with a smaller chance, the
    teacher's answers are aligned with the labels' shares, and with ``off`` replayed inputs count as if they came in
    these; 0 never does so."""

    # Statistics: what the labels decide.
    labels_choose_statistics: bool = True
    """Try the unrepaired model on the labels under several batch-norm statistics. With ``off``, statistics of the field
    alone are taken where labels say that they are better than mixed ones, and reference ones likewise. With the others,
    more of the reference than the ``reference_share`` is taken where its accuracy fell and labels do not object."""
    evidence: float = Field(default=1.0, ge=0)
    """Standard errors of a difference on the labels, from which on statistics other than mixed ones are taken."""
    objection: float = Field(default=2.0, ge=0)
    """Standard errors by which labels must be answered worse to keep more of the reference out of the statistics."""
    reference_margin: float = Field(default=0.01, ge=0, le=1)
    """``strict`` and ``balanced``: accuracy on replayed training inputs that may be lost (upper 95 % bound) before more
    of the reference is taken into the statistics. It bounds the loss on new inputs only for a model that did not learn
    its training inputs by heart."""

    # What the user chooses between.
    strict: Keeping = Keeping(shared_statistics=True, weight=0.5, reference_share=0.4)
    """The old accuracy is to stay."""
    balanced: Keeping = Keeping(shared_statistics=False, weight=0.75, reference_share=0.5)
    """Both worlds alike."""
    off: Keeping = Keeping(shared_statistics=False, weight=0.75, reference_share=0.0)
    """Only the field matters."""

    def keeping(self, keep_reference: Literal["strict", "balanced", "off"]) -> Keeping:
        """What a user's choice means."""
        return {"strict": self.strict, "balanced": self.balanced, "off": self.off}[keep_reference]
