"""The faults: each a training that goes wrong, and the same training as it should have been.

``study`` rebuilds the kinds of the real faults of the ICST 2023 study (activation, batch, optimiser, loss, learning
rate, epochs, missing activations, label scaling); ``mutant`` are DeepCrime's operators, named by their letters.
What each is meant to show (``injected``) was written down before any doctor looked at it; none where a training only
falls short and no problem of the doctor's list is meant.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from benchmarks.fault_networks import Build, biased, cnn, mlp, shrunk
from fieldrepair_plugin.training_repair.plan import TrainingPlan


@dataclass(frozen=True)
class Version:
    """One way to train."""

    data: str
    network: Build
    plan: TrainingPlan


@dataclass(frozen=True)
class Fault:
    """A faulty version and its correct one."""

    name: str
    kind: str
    """Where it comes from: ``study`` or ``mutant``, and what is wrong."""
    faulty: Version
    fixed: Version
    injected: str | None
    """The doctor's name for it."""
    larger: bool = False
    """One of the larger models."""

    @property
    def epochs(self) -> int:
        """Of one training: those of the correct version."""
        return self.fixed.plan.epochs


def _fault(
    name: str,
    kind: str,
    fixed: Version,
    injected: str | None,
    *,
    data: str | None = None,
    network: Build | None = None,
    larger: bool = False,
    **knobs: object,
) -> Fault:
    faulty = Version(data or fixed.data, network or fixed.network, fixed.plan.but(**knobs))
    return Fault(name, kind, faulty, fixed, injected, larger)


_ADAM = TrainingPlan(optimiser="adam", learning_rate=5e-3, batch_size=32, epochs=10)
_SGD = TrainingPlan(optimiser="sgd", learning_rate=0.1, momentum=0.9, batch_size=32, epochs=10)
_DIGITS = Version("digits", mlp((64, 32, 10)), _ADAM)
_DEEP = (64, 32, 32, 32, 32, 32, 32, 10)
_MNIST = (196, 32, 10)
_MNIST_IMAGES = (1, 6, 12)
_FASHION = (1, 8, 12)
_CIFAR = (3, 8, 16, 24)
_CIFAR_DEEP = (3, 8, 16, 24, 24, 24)


def faults() -> list[Fault]:
    """All of them, in the order of the table."""
    return [
        _fault(
            "digits_hidden_softmax", "study: activation",
            Version("digits", mlp((64, 24, 24, 10)), _ADAM), "slow_convergence",
            network=mlp((64, 24, 24, 10), lambda: nn.Softmax(dim=1)), optimiser="sgd", learning_rate=0.01,
        ),
        _fault(
            "mnist_full_batch", "study: batch",
            Version("mnist", mlp(_MNIST), _SGD.but(learning_rate=0.05)), "slow_convergence",
            batch_size=800, learning_rate=0.001,
        ),
        _fault(
            "mnist_adagrad", "study: optimiser",
            Version("mnist", mlp((196, 24, 10)), _ADAM), "slow_convergence",
            optimiser="adagrad", learning_rate=1e-5,
        ),
        _fault(
            "digits_squared_error", "study: loss",
            Version("digits", mlp((64, 48, 10)), _SGD.but(learning_rate=0.05)), "loss_mismatch",
            loss="mse", learning_rate=0.01, momentum=0.0,
        ),
        _fault(
            "digits_low_rate", "study: learning rate",
            Version("digits", mlp((64, 24, 10)), _ADAM), "slow_convergence",
            learning_rate=1e-6,
        ),
        _fault("digits_one_epoch", "study: epochs", _DIGITS, None, epochs=1, learning_rate=3e-4),
        _fault(
            "circles_no_activations", "study: missing activations",
            Version("circles", mlp((2, 24, 24, 2)), _ADAM.but(learning_rate=1e-2)), "no_activation",
            network=mlp((2, 24, 24, 2), None),
        ),
        _fault(
            "digits_scaled_labels", "study: label scaling",
            Version("digits", mlp((64, 40, 10)), _ADAM), "labels_scaled",
            data="digits_fractions",
        ),
        _fault(
            "moons_no_activations", "study: missing activations and rate",
            Version("moons", mlp((2, 16, 16, 2)), _ADAM.but(learning_rate=1e-2, epochs=15)), "no_activation",
            network=mlp((2, 16, 16, 2), None), learning_rate=1e-4,
        ),
        _fault(
            "digits_deep_sigmoid", "mutant ACH: activation",
            Version("digits", mlp(_DEEP, nn.Tanh), _ADAM), "vanishing_gradient",
            network=mlp(_DEEP, nn.Sigmoid),
        ),
        _fault(
            "digits_zero_weights", "mutant WCI: initialisation",
            Version("digits", mlp((64, 32, 32, 10), nn.Tanh), _SGD.but(learning_rate=0.05)), "vanishing_gradient",
            network=mlp((64, 32, 32, 10), nn.Tanh, draw=shrunk(0.0)),
        ),
        _fault(
            "digits_negative_biases", "mutant WCI: initialisation",
            Version("digits", mlp((64, 32, 32, 10)), _SGD.but(learning_rate=0.03)), "dying_relu",
            network=mlp((64, 32, 32, 10), draw=biased(-3.0)),
        ),
        _fault(
            "digits_large_weights", "mutant WCI: initialisation",
            Version("digits", mlp((64, 32, 32, 10), nn.LeakyReLU), _SGD.but(learning_rate=0.05)), "exploding_gradient",
            network=mlp((64, 32, 32, 10), nn.LeakyReLU, draw=shrunk(50.0)),
        ),
        _fault(
            "digits_high_rate", "mutant HLR: learning rate",
            Version("digits", mlp((64, 32, 10), nn.Tanh), _SGD), "oscillating_loss",
            learning_rate=0.6, batch_size=16,
        ),
        _fault(
            "fashion_high_rate", "mutant HLR: learning rate",
            Version("fashion", cnn(_FASHION, 14), _ADAM), "dying_relu",
            learning_rate=1.0,
        ),
        _fault(
            "digits_softmax_twice", "mutant LCH: loss",
            Version("digits", mlp((64, 32, 10), softmax=True), _SGD.but(loss="nll", learning_rate=0.03)),
            "loss_mismatch",
            loss="cross_entropy",
        ),
        _fault(
            "digits_heavy_dropout", "mutant RCD: dropout",
            Version("digits", mlp((64, 48, 48, 10), dropout=0.1), _ADAM), "heavy_dropout",
            network=mlp((64, 48, 48, 10), dropout=0.9),
        ),
        _fault(
            "mnist_heavy_decay", "mutant RAW: weight decay",
            Version("mnist", mlp((196, 40, 10)), _SGD.but(learning_rate=0.03)), "slow_convergence",
            weight_decay=0.5,
        ),
        _fault(
            "wine_unscaled", "mutant: inputs unscaled",
            Version("wine", mlp((13, 16, 3)), _SGD.but(batch_size=16, epochs=15)), "inputs_unscaled",
            data="wine_raw",
        ),
        _fault(
            "cancer_unscaled", "mutant: inputs unscaled",
            Version("cancer", mlp((30, 16, 2)), _SGD.but(learning_rate=0.05)), "inputs_unscaled",
            data="cancer_raw",
        ),
        _fault(
            "fashion_unscaled", "mutant: inputs unscaled",
            Version("fashion", cnn((1, 6, 12), 14), _SGD.but(learning_rate=0.05)), "inputs_unscaled",
            data="fashion_raw",
        ),
        _fault(
            "mnist_small_weights", "mutant WCI: initialisation",
            Version("mnist", cnn(_MNIST_IMAGES, 14, activation=nn.ELU), _SGD.but(learning_rate=0.05)),
            "vanishing_gradient",
            network=cnn(_MNIST_IMAGES, 14, activation=nn.ELU, draw=shrunk(1e-3)),
        ),
        _fault(
            "cifar10_low_rate", "larger: learning rate",
            Version("cifar10", cnn(_CIFAR, 32), _ADAM.but(learning_rate=2e-3, epochs=9)), "slow_convergence",
            larger=True, learning_rate=1e-7,
        ),
        _fault(
            "cifar10_sigmoid", "larger: activation",
            Version("cifar10", cnn(_CIFAR_DEEP, 32), _ADAM.but(learning_rate=2e-3, epochs=9)), "vanishing_gradient",
            network=cnn(_CIFAR_DEEP, 32, activation=nn.Sigmoid), larger=True, optimiser="sgd", learning_rate=0.01,
        ),
    ]  # fmt: skip


def healthy() -> list[Version]:
    """Correct versions, each once: a doctor should find nothing in any."""
    return [fault.fixed for fault in faults()]
