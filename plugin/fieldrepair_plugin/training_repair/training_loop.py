"""One training by a plan, epoch by epoch, that can be stopped after any epoch and gone on with."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fieldrepair_plugin.randomness import derive_seed, generator_for, own_global_state
from fieldrepair_plugin.repairable import blocks, inference
from fieldrepair_plugin.training_repair.data import TrialData
from fieldrepair_plugin.training_repair.instruments import Instruments, Reading
from fieldrepair_plugin.training_repair.losses import loss_of
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_plugin.training_repair.transforms import Network, Scaling

_EVALUATED = 2048
"""Inputs per forward pass where nothing is trained."""


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training. Accuracies are shares in 0..1."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean over the epoch's batches, as it was minimised; NaN or infinite where the training broke."""
    train_accuracy: float
    """Over the epoch's batches, each before its step."""
    val_loss: float
    val_accuracy: float
    val_before: float | None
    """Validation accuracy before the epoch; none before the first where the training runs without instruments."""
    reading: Reading | None
    """Of the epoch's first batch; none where the training runs without instruments."""

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Epoch:
        """What :meth:`to_json` gave."""
        reading = stored["reading"]
        values: dict[str, Any] = {**stored, "reading": None if reading is None else Reading(**reading)}
        return cls(**values)


class Training:
    """A network being trained by a plan.

    Args:
        network: what a plan starts from; it is not changed.
        data: to train on, and to measure on after each epoch.
        plan: the plan.
        seed: of the batches' order, of dropout, and of weights that are drawn.
        instruments: whether each epoch's first batch is looked into.
        epochs: what the schedule ends at; default: the plan's.
    """

    def __init__(
        self,
        network: Network,
        data: TrialData,
        plan: TrainingPlan,
        seed: int,
        *,
        instruments: bool = True,
        epochs: int | None = None,
    ) -> None:
        self.plan = plan
        self.epochs = epochs or plan.epochs
        self.module = network.by(plan, derive_seed(seed, "weights"))
        self.done: list[Epoch] = []
        self.broken = False
        """Whether a loss, a gradient or a weight was NaN or infinite; it is of no use to go on then."""
        self._example = network.example
        self._seed = seed
        self._scaling = Scaling.of(data.train_x) if plan.inputs == "scaled" else None
        self._train_x = data.train_x if self._scaling is None else self._scaling.apply(data.train_x)
        self._val_x = data.val_x if self._scaling is None else self._scaling.apply(data.val_x)
        self._train_y = data.targets(plan.labels).to(data.train_x.device)
        self._val_y = torch.from_numpy(data.val_y).to(data.val_x.device)
        self._optimiser = _optimiser(self.module, plan)
        self._instruments = Instruments(self.module) if instruments else None
        self._start = self._measure()[1] if instruments else None

    def epoch(self) -> Epoch:
        """Train one epoch, and measure."""
        number = len(self.done) + 1
        for group in self._optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * _share_of_rate(self.plan.schedule, number, self.epochs)
        device = self._train_x.device
        with own_global_state(derive_seed(self._seed, "dropout", number), device):
            loss, right, reading = self._pass(number)
        before = self.done[-1].val_accuracy if self.done else self._start
        val_loss, val_accuracy = self._measure()
        self.broken = not math.isfinite(loss) or (reading is not None and not reading.finite)
        self.done.append(Epoch(number, loss, right, val_loss, val_accuracy, before, reading))
        return self.done[-1]

    def finished(self) -> nn.Module:
        """A copy of the module as it is now, in eval mode; it takes inputs as they came, scaled or not."""
        return self.with_state(self.module.state_dict())

    def with_state(self, state: dict[str, Tensor]) -> nn.Module:
        """The module with weights of an earlier epoch, in eval mode; see :meth:`finished`."""
        own = copy.deepcopy(self.module)
        own.load_state_dict(state)
        own.zero_grad(set_to_none=True)
        if self._scaling is not None:
            self._scaling.fold_into(own, self._example)
        return own.eval()

    def state(self) -> dict[str, Any]:
        """What the next epoch needs, for a checkpoint."""
        return {
            "module": self.module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "done": [each.to_json() for each in self.done],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after the epoch that left this state."""
        self.module.load_state_dict(state["module"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.done = [Epoch.from_json(each) for each in state["done"]]

    def _pass(self, number: int) -> tuple[float, float, Reading | None]:
        order = torch.randperm(len(self._train_x), generator=generator_for(self._seed, "order", number))
        size = min(self.plan.batch_size, len(order))
        if len(order) > size and len(order) % size == 1:  # batch norm cannot do with a single input
            order = order[:-1]
        inputs, targets = blocks(self._train_x[order], size), blocks(self._train_y[order], size)
        self.module.train()
        losses: list[Tensor] = []
        answers: list[Tensor] = []
        reading: Reading | None = None
        for x, y in zip(inputs, targets, strict=True):
            if not losses and self._instruments is not None:
                with self._instruments.listening():
                    loss, outputs = self._step(x, y)
                reading = self._instruments.read()
            else:
                loss, outputs = self._step(x, y)
            losses.append(loss)
            answers.append(outputs)
        right = torch.cat(answers).argmax(dim=1) == torch.cat(targets)
        return float(torch.stack(losses).mean()), float(right.double().mean()), reading

    def _step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self._optimiser.zero_grad(set_to_none=True)
        outputs = self.module(x)
        loss = loss_of(self.plan.loss, outputs, y)
        loss.backward()
        if self.plan.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.plan.clip_norm)
        self._optimiser.step()
        return loss.detach(), outputs.detach()

    def _measure(self) -> tuple[float, float]:
        with inference(self.module):
            outputs = torch.cat([self.module(block) for block in blocks(self._val_x, _EVALUATED)])
        right = (outputs.argmax(dim=1) == self._val_y) & outputs.isfinite().all(dim=1)
        return float(loss_of(self.plan.loss, outputs, self._val_y)), float(right.float().mean())


def _optimiser(module: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    parameters = [each for each in module.parameters() if each.requires_grad]
    rate, decay = plan.learning_rate, plan.weight_decay
    if plan.optimiser == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=plan.momentum, weight_decay=decay)
    if plan.optimiser == "rmsprop":
        return torch.optim.RMSprop(parameters, rate, momentum=plan.momentum, weight_decay=decay)
    if plan.optimiser == "adagrad":
        return torch.optim.Adagrad(parameters, rate, weight_decay=decay)
    if plan.optimiser == "adamw":
        return torch.optim.AdamW(parameters, rate, weight_decay=decay)
    return torch.optim.Adam(parameters, rate, weight_decay=decay)


def _share_of_rate(schedule: str, epoch: int, epochs: int) -> float:
    """Share of the learning rate in an epoch, from 1 to ``epochs``; past the end the last one's."""
    done = min(epoch - 1, epochs - 1) / epochs
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if schedule == "step":
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    return 1.0
