"""Settings of the MNIST comparison, and what one method comes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from narrowlib.data.digits import Digits
from narrowlib.stacks.gradients import LossAndGradient
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import Goal, StepConfig, train_to_goal

N_CLASSES = 10
EVEN, ODD = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)
CHECKS_PER_EPOCH = 16  # looks at the even test digits while the even training digits pass once
SCORE_BATCHES = 30  # of the size of a training batch, on which attribution scores are averaged
SEEDS = {"from scratch": 1_000_000, "distillation": 2_000_000, "attribution": 3_000_000, "group lasso": 4_000_000}


@dataclass(frozen=True)
class TeacherConfig:
    """How the teacher of all ten digits is trained; the defaults are the paper's."""

    width: int = 1_200  # of both hidden layers
    n_epochs: int = 20  # at most
    enough: float = 0.99  # test accuracy at which training ends
    dropout: float = 0.2
    learning_rate: float = 1e-3  # halved after an epoch that brings nothing
    weight_decay: float = 1e-4
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "n_epochs", "batch_size"):
            _check_count(name, getattr(self, name))


@dataclass(frozen=True)
class MethodConfig:
    """The grid of one method: every size with every learning rate.

    Parameters
    ----------
    neurons : tuple of int
        Neurons that are kept, of both hidden layers together; even, since the layers share them equally.
    learning_rates : tuple of float
    step : StepConfig
        Everything else about an optimiser step.
    """

    neurons: tuple[int, ...]
    learning_rates: tuple[float, ...]
    step: StepConfig

    def __post_init__(self) -> None:
        for name in ("neurons", "learning_rates"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or not all(value > 0 for value in values):
                raise ValueError(f"{name} is {values}; it must hold positive numbers")
        for value in self.neurons:
            if value != int(value) or value % 2:
                raise ValueError(f"neurons holds {value}; every one must be an even whole number, half in each layer")


@dataclass(frozen=True)
class LassoConfig:
    """Group lasso with pruning while training; the defaults are the paper's.

    Parameters
    ----------
    method : MethodConfig
        Targets (``neurons``), learning rates, and the optimiser step.
    strengths : tuple of float
        Lambda, weight of the penalty.
    dropped_below : float
        Norm of a neuron's weights below which it is dropped.
    """

    method: MethodConfig = field(
        default_factory=lambda: MethodConfig(
            (70, 100, 240, 400, 600),
            (4e-4, 8e-4, 1e-3, 2e-3, 3e-3, 5e-3, 8e-3),
            StepConfig(batch_size=16, max_norm=1.0),
        )
    )
    strengths: tuple[float, ...] = (1e-3, 3e-3, 4e-3, 5e-3, 6.5e-3, 8e-3)
    dropped_below: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "strengths", tuple(self.strengths))
        if not self.strengths or not all(strength >= 0 for strength in self.strengths):
            raise ValueError(f"strengths is {self.strengths}; it must hold numbers of at least 0")
        if not self.dropped_below > 0:
            raise ValueError(f"dropped_below is {self.dropped_below!r}; it must be a positive number")


_SIZES = (30, 50, 70, 100, 190, 400, 600, 1_200, 2_400)
_TARGETS = (24, 36, 50, 70, 100, 130, 190, 300, 400, 600)


@dataclass(frozen=True)
class MnistConfig:
    """Settings of the comparison; the defaults are the paper's."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    scratch: MethodConfig = MethodConfig(_SIZES, (5e-3,), StepConfig(batch_size=16))
    distillation: MethodConfig = MethodConfig(_SIZES, (1e-2,), StepConfig(batch_size=64, optimiser="sgd"))
    attribution: MethodConfig = MethodConfig(_TARGETS, (4e-4, 1e-3, 3e-3, 6e-3), StepConfig(batch_size=16))
    lasso: LassoConfig = field(default_factory=LassoConfig)
    relearning_batch_size: int = 16
    relearning_rate: float = 1e-3
    relearning_points: int = 2_000  # samples of all digits
    temperature: float = 20.0
    hard_weight: float = 0.1
    goal: float = 0.97  # accuracy on the even test digits
    max_points: int = 50_000  # training samples that a run may see
    n_repeats: int = 10
    first_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_points", "n_repeats", "relearning_batch_size", "relearning_points"):
            _check_count(name, getattr(self, name))
        for value in (*self.attribution.neurons, *self.lasso.method.neurons):
            if value > 2 * self.teacher.width:
                raise ValueError(f"neurons holds {value}; the teacher has {2 * self.teacher.width} to keep some of")

    @property
    def seeds(self) -> range:
        """Seeds of the repeats."""
        return range(self.first_seed, self.first_seed + self.n_repeats)


@dataclass(frozen=True)
class Outcome:
    """What a method came to.

    Parameters
    ----------
    runs : DataFrame
        One row per run: ``method``, ``neurons``, ``learning_rate``, ``strength`` (of group lasso, else NaN),
        ``repeat``, ``points`` (training samples seen, those for scores counted), ``accuracy`` (on the even test
        digits, at the end), ``reached`` (whether that is the goal).
    networks : dict of int to MLPStack
        By ``neurons``; the networks at their end, in the order of the rows.
    """

    runs: pd.DataFrame
    networks: dict[int, MLPStack]


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")


def numbers(text: str, kind: Callable[[str], float] = int) -> tuple[float, ...]:
    """Numbers that are written with spaces between them, as in a parameters cell: ``"16 32 64"``.

    Raises
    ------
    ValueError
        For an empty text, or a word that is not such a number.
    """
    try:
        found = tuple(kind(word) for word in text.split())
    except ValueError:
        found = ()
    if not found:
        raise ValueError(f"numbers is {text!r}; it must hold numbers ({kind.__name__}) with spaces between them")
    return found


def even_goal(config: MnistConfig, even: Digits) -> Goal:
    """The rule that all methods share: so much of the even test digits, looked at 16 times an epoch."""
    every = max(1, len(even.train_labels) // CHECKS_PER_EPOCH)
    return Goal(inputs=even.test_images, labels=even.test_labels, accuracy=config.goal, check_every=every)


def recover_to_goal(
    name: str,
    config: MnistConfig,
    step: StepConfig,
    even: Digits,
    stack: MLPStack,
    loss: LossAndGradient,
    labels: Sequence[tuple[float, int]],
    n_before: Sequence[int],
    neurons: int,
    progress: bool,
) -> pd.DataFrame:
    """Train a stack, and how its runs ended, with the samples each had seen before counted; see `Outcome`."""
    history = train_to_goal(
        stack,
        even.train_images,
        loss,
        even_goal(config, even),
        step,
        learning_rates=[rate for rate, _ in labels],
        seeds=[SEEDS[name] + 500_000 + config.first_seed + repeat for _, repeat in labels],
        max_points=[config.max_points - before for before in n_before],
        progress=progress,
        description=f"{name}, {neurons} neurons",
    )
    ends = history.groupby("run").last()
    about = pd.DataFrame(labels, columns=["learning_rate", "repeat"]).assign(method=name, neurons=neurons)
    return about.assign(
        points=ends["points"] + pd.Series(n_before),
        accuracy=ends["accuracy"],
        reached=ends["accuracy"] >= config.goal,
    )
