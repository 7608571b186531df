"""Runs trials on a budget of epochs, remembers each, and keeps the best: what all searches have in common.

Every finished trial is a line in a file. A search that is started again asks for the same trials in the same order,
because its draws come from its seed; those it has run already are answered from the file, and the one it was stopped in
goes on after its last epoch. So a search that was stopped ends with exactly what it would have found.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fieldrepair_plugin.errors import PluginError
from fieldrepair_plugin.progress import Progress, ProgressEvent, silent
from fieldrepair_plugin.randomness import derive_seed
from fieldrepair_plugin.training_repair.data import TrialData
from fieldrepair_plugin.training_repair.plan import TrainingPlan, vars_of
from fieldrepair_plugin.training_repair.training_loop import Epoch, Training
from fieldrepair_plugin.training_repair.transforms import Network
from fieldrepair_service.errors import InputError

log = logging.getLogger(__name__)

Origin = Literal["given", "random", "model", "remedy"]
"""Who thought of a trial: it is the training as given, a random draw, a model of earlier trials, or a rule."""
Ending = Literal["finished", "pruned", "diagnosed", "broken", "budget", "impossible"]
Stop = Callable[[Sequence[Epoch]], Ending | None]
"""Looks at the epochs so far, after each; says why to stop, or None to go on."""

_UNFIT = (RuntimeError, IndexError, InputError)
"""What PyTorch and this package raise where shapes, classes or numbers do not fit."""


class BudgetSpent(PluginError):  # noqa: N818 - the end that every search comes to
    """No epoch is left for another trial."""


@dataclass(frozen=True)
class Trial:
    """One training of a search."""

    number: int
    """From 0; trial 0 is the training as it was given."""
    plan: TrainingPlan
    origin: Origin
    epochs: tuple[Epoch, ...]
    ended: Ending
    why: str = ""
    """For trials that could not be run: what was in the way."""

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation accuracy, of equals the first; 0 without epochs."""
        scores = [each.val_accuracy for each in self.epochs]
        return 1 + int(np.argmax(scores)) if scores else 0

    @property
    def score(self) -> float:
        """Validation accuracy of that epoch; 0 without epochs."""
        return self.epochs[self.best_epoch - 1].val_accuracy if self.epochs else 0.0

    @property
    def loss(self) -> float:
        """Validation loss of that epoch, which tells apart trials of equal accuracy; infinite without epochs."""
        return self.epochs[self.best_epoch - 1].val_loss if self.epochs else float("inf")

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and numbers."""
        return {
            "number": self.number,
            "plan": vars_of(self.plan),
            "origin": self.origin,
            "epochs": [each.to_json() for each in self.epochs],
            "ended": self.ended,
            "why": self.why,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Trial:
        """What :meth:`to_json` gave."""
        epochs = tuple(Epoch.from_json(each) for each in stored["epochs"])
        values: dict[str, Any] = {**stored, "plan": TrainingPlan(**stored["plan"]), "epochs": epochs}
        return cls(**values)


@dataclass(frozen=True)
class Best:
    """The best trial so far, and its module."""

    trial: Trial
    module: nn.Module
    """In eval mode, with the weights of the trial's best epoch; it takes inputs as they came."""


@dataclass
class _Kept:
    """The best epoch of a trial that is running."""

    score: float = -1.0
    state: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])

    def offer(self, training: Training) -> None:
        score = training.done[-1].val_accuracy
        if score > self.score:
            self.score = score
            self.state = {name: each.detach().clone() for name, each in training.module.state_dict().items()}


class Trials:
    """The trials of one search.

    Args:
        network: the network under repair.
        data: what trials train on and are chosen by.
        budget: epochs that may be trained, over all trials.
        seed: each trial derives its own.
        folder: where trials, the best module and the running trial's checkpoint are kept; none: nowhere, and a stopped
            search starts anew.
        progress: told of each epoch, as stage ``training``, out of the budget.

    Raises:
        InputError: for a budget of no epoch.
    """

    def __init__(
        self,
        network: Network,
        data: TrialData,
        budget: int,
        seed: int,
        *,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        if budget < 1:
            raise InputError(f"expected a budget of at least 1 epoch, got {budget}")
        self.network, self.data, self.budget, self.seed = network, data, budget, seed
        self.done: list[Trial] = []
        self.spent = 0
        self.best: Best | None = None
        self.resumed = 0
        """Trials that were not run again."""
        self._tell = progress or silent
        self._folder = None if folder is None else _Folder(folder, self._fingerprint())
        self._stored = [] if self._folder is None else self._folder.trials()

    @property
    def left(self) -> int:
        """Epochs left."""
        return self.budget - self.spent

    def run(
        self,
        plan: TrainingPlan,
        origin: Origin,
        *,
        epochs: int | None = None,
        stop: Stop | None = None,
        instruments: bool = False,
    ) -> Trial:
        """Run one trial, or remember it.

        Args:
            plan: how to train.
            origin: who thought of it.
            epochs: at most so many; default: the plan's. The budget may end it earlier.
            stop: asked after each epoch.
            instruments: whether epochs have readings.

        Raises:
            BudgetSpent: before it, if nothing is left.
        """
        if self.left < 1:
            raise BudgetSpent(f"the budget of {self.budget} epochs is spent, on {len(self.done)} trials")
        number = len(self.done)
        if number < len(self._stored) and self._stored[number].plan == plan:
            trial = self._stored[number]
            for at in range(len(trial.epochs)):  # whoever prunes keeps books of what was reported
                if stop is not None:
                    stop(trial.epochs[: at + 1])
            self.resumed += 1
            self._take(trial, None)
            return trial
        if number < len(self._stored):  # a search that asks otherwise than before goes its own way from here
            self._stored = self._stored[:number]
            if self._folder is not None:
                self._folder.keep(self._stored)
        trial, module = self._train(number, plan, origin, epochs or plan.epochs, stop, instruments)
        self._take(trial, module)
        return trial

    def _train(
        self, number: int, plan: TrainingPlan, origin: Origin, epochs: int, stop: Stop | None, instruments: bool
    ) -> tuple[Trial, nn.Module | None]:
        seed = derive_seed(self.seed, "trial", number)
        try:
            training = Training(self.network, self.data, plan, seed, instruments=instruments, epochs=epochs)
        except _UNFIT as error:
            return _impossible(number, plan, origin, error), None
        kept = _Kept()
        if self._folder is not None:
            self._folder.resume(number, plan, training, kept)
        ended: Ending | None = None
        for at in range(len(training.done)):  # what prunes has to hear again of the epochs before the stop
            ended = stop(training.done[: at + 1]) if stop is not None else None
        while ended is None:
            try:
                training.epoch()
            except _UNFIT as error:
                return _impossible(number, plan, origin, error), None
            kept.offer(training)
            ended = self._ended(training, epochs, stop)
            if self._folder is not None and ended is None:
                self._folder.checkpoint(number, plan, training, kept)
            done = self.spent + len(training.done)
            measured = {"val_accuracy": training.done[-1].val_accuracy}
            self._tell(ProgressEvent("training", done, self.budget, measured))
        trial = Trial(number, plan, origin, tuple(training.done), ended)
        better = self.best is None or (trial.score, -trial.loss) > (self.best.trial.score, -self.best.trial.loss)
        return trial, training.with_state(kept.state) if better and kept.state else None

    def _ended(self, training: Training, epochs: int, stop: Stop | None) -> Ending | None:
        """Why a training ends after the epoch it has just finished; None if it goes on."""
        if training.broken:
            return "broken"
        if (why := stop(training.done) if stop is not None else None) is not None:
            return why
        if len(training.done) >= epochs:
            return "finished"
        return "budget" if self.spent + len(training.done) >= self.budget else None

    def _take(self, trial: Trial, module: nn.Module | None) -> None:
        """Count a trial, and keep its module if it is the best."""
        remembered = trial.number < len(self._stored)
        # A trial that could not be run counts as one epoch: a search that finds nothing else must come to an end, too.
        self.spent += max(1, len(trial.epochs))
        self.done.append(trial)
        if module is not None:
            self.best = Best(trial, module)
            if self._folder is not None:
                self._folder.save_best(trial.number, module)
        elif remembered and self._folder is not None and (stored := self._folder.best(trial.number)) is not None:
            self.best = Best(trial, stored)
        if not remembered and self._folder is not None:
            self._folder.add(trial)

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.budget, self.seed, self.data.classes)).encode())
        data = self.data
        arrays: list[npt.NDArray[Any]] = [
            data.train_x.cpu().numpy(),
            data.train_y,
            data.val_x.cpu().numpy(),
            data.val_y,
        ]
        arrays += [each.detach().cpu().numpy() for each in self.network.module.state_dict().values()]
        for array in arrays:
            digest.update(f"{array.shape} {array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class _Folder:
    """What a search leaves on disk: ``trials.jsonl``, ``best.pt``, ``running.pt``; each whole or not at all."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines, self._best, self._running = folder / "trials.jsonl", folder / "best.pt", folder / "running.pt"
        self._fingerprint = fingerprint
        first = self._lines.read_text(encoding="utf-8").splitlines()[:1] if self._lines.exists() else []
        if first != [json.dumps({"search": fingerprint})]:
            if first:
                log.warning(
                    "the trials in %s are of another model, data, budget or seed: the search starts anew", folder
                )
            for path in (self._best, self._running):
                path.unlink(missing_ok=True)
            _write_whole(self._lines, lambda draft: draft.write_text(json.dumps({"search": fingerprint}) + "\n"))

    def trials(self) -> list[Trial]:
        """Those that were finished; a last line that was cut off is left out."""
        found: list[Trial] = []
        for line in self._lines.read_text(encoding="utf-8").splitlines()[1:]:
            trial = _read_trial(line)
            if trial is None:
                log.warning("a line of %s cannot be read: its trial, and those after it, are run again", self._lines)
                break
            found.append(trial)
        self.keep(found)
        return found

    def keep(self, trials: Sequence[Trial]) -> None:
        """Let the file hold these and no others."""
        lines = [json.dumps({"search": self._fingerprint}), *(json.dumps(each.to_json()) for each in trials)]
        _write_whole(self._lines, lambda draft: draft.write_text("\n".join(lines) + "\n", encoding="utf-8"))

    def add(self, trial: Trial) -> None:
        with self._lines.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(trial.to_json()) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._running.unlink(missing_ok=True)

    def save_best(self, number: int, module: nn.Module) -> None:
        _write_whole(self._best, lambda draft: torch.save({"number": number, "module": module}, draft))

    def best(self, number: int) -> nn.Module | None:
        """The best module, if it is of this trial."""
        if not self._best.exists():
            return None
        # A module of the user's own classes, written by this very search: not tensors only.
        stored = cast(dict[str, Any], torch.load(self._best, map_location="cpu", weights_only=False))
        return cast(nn.Module, stored["module"]) if stored["number"] == number else None

    def checkpoint(self, number: int, plan: TrainingPlan, training: Training, kept: _Kept) -> None:
        state = {"number": number, "plan": vars_of(plan), "training": training.state(), "kept": asdict(kept)}
        _write_whole(self._running, lambda draft: torch.save(state, draft))

    def resume(self, number: int, plan: TrainingPlan, training: Training, kept: _Kept) -> None:
        """Bring a training to where it was stopped, if it was."""
        if not self._running.exists():
            return
        state = cast(dict[str, Any], torch.load(self._running, map_location="cpu", weights_only=True))
        if (state["number"], state["plan"]) != (number, vars_of(plan)):
            return
        training.restore(state["training"])
        kept.score, kept.state = state["kept"]["score"], state["kept"]["state"]
        log.info("continuing trial %d after epoch %d", number, len(training.done))


def _impossible(number: int, plan: TrainingPlan, origin: Origin, error: Exception) -> Trial:
    """A plan that does not go together with this model or its data: the trial's result, not the search's end."""
    log.info("trial %d cannot be run: %s", number, error)
    return Trial(number, plan, origin, (), "impossible", str(error).splitlines()[0])


def _read_trial(line: str) -> Trial | None:
    try:
        return Trial.from_json(json.loads(line))
    except (ValueError, TypeError, KeyError):
        return None


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        write(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
