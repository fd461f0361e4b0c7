"""Settings of the MNIST comparison, and what one method comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import pandas as pd
from pydantic import Field, model_validator

from narrowlib.chapters.folders import Folder
from narrowlib.data.digits import Digits
from narrowlib.settings import (
    Count,
    Device,
    NotNegative,
    Numbers,
    Positive,
    Rate,
    Seed,
    Settings,
    Share,
    Weight,
    part,
)
from narrowlib.stacks.gradients import LossAndGradient
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import Goal, StepConfig, train_to_goal

N_CLASSES = 10
EVEN, ODD = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)
CHECKS_PER_EPOCH = 16  # looks at the even test digits while the even training digits pass once
SCORE_BATCHES = 30  # of the size of a training batch, on which attribution scores are averaged
SEEDS = {"from scratch": 1_000_000, "distillation": 2_000_000, "attribution": 3_000_000, "group lasso": 4_000_000}
Even = Annotated[int, Field(ge=2, multiple_of=2)]


class TeacherConfig(Settings):
    """How the teacher of all ten digits is trained; the defaults are the paper's."""

    width: Count = Field(description="neurons in each of the hidden layers")
    n_epochs: Count = Field(description="passes over all training digits, at most")
    enough: Positive = Field(0.99, description="test accuracy at which training ends")
    dropout: Share = 0.2
    learning_rate: Rate = Field(1e-3, description="step size of Adam, halved after an epoch that brings nothing")
    weight_decay: NotNegative = 1e-4
    batch_size: Count = 128
    seed: Seed = 0


class MethodConfig(Settings):
    """The grid of one method: every size with every learning rate."""

    neurons: Numbers[Even] = Field(description="neurons kept in both hidden layers together, half in each")
    learning_rates: Numbers[Rate] = Field(description="step sizes")
    step: StepConfig = Field(description="everything else about an optimiser step")


class LassoConfig(Settings):
    """Group lasso with pruning while training."""

    method: MethodConfig = Field(description="targets, learning rates and the optimiser step")
    strengths: Numbers[NotNegative] = Field(description="lambda, weights of the penalty")
    dropped_below: Positive = Field(0.05, description="norm of a neuron's weights below which it is dropped")


class MnistConfig(Settings):
    """Settings of the comparison; the defaults are the paper's."""

    teacher: TeacherConfig
    scratch: MethodConfig
    distillation: MethodConfig
    attribution: MethodConfig
    lasso: LassoConfig
    max_points: Count = Field(description="training samples that a run may see")
    n_repeats: Count = Field(description="runs of every setting")
    relearning_points: Count = Field(description="samples of all digits in relearning")
    relearning_batch_size: Count = 16
    relearning_rate: Rate = 1e-3
    temperature: Positive = Field(20.0, description="of teacher and student in distillation")
    hard_weight: Weight = Field(0.1, description="of the true labels in distillation")
    goal: Positive = Field(0.97, description="accuracy on the even test digits")
    first_seed: Seed = 0

    @property
    def seeds(self) -> range:
        """Seeds of the repeats."""
        return range(self.first_seed, self.first_seed + self.n_repeats)


class Config(Settings):
    """Parameters of the chapter; the defaults are the paper's."""

    teacher_width: Count = Field(1_200, description="neurons in each of the teacher's hidden layers")
    teacher_epochs: Count = Field(20, description="passes over all training digits, at most")
    neurons: Numbers[Even] = Field(
        (30, 50, 70, 100, 190, 400, 600, 1_200, 2_400),
        description="sizes from scratch and by distillation: neurons, both layers, even",
    )
    pruned_neurons: Numbers[Even] = Field(
        (24, 36, 50, 70, 100, 130, 190, 300, 400, 600), description="sizes by attribution"
    )
    lasso_neurons: Numbers[Even] = Field((70, 100, 240, 400, 600), description="targets of group lasso")
    scratch_rates: Numbers[Rate] = Field((5e-3,), description="step sizes of Adam from scratch")
    distillation_rates: Numbers[Rate] = Field((1e-2,), description="step sizes of SGD in distillation")
    attribution_rates: Numbers[Rate] = Field(
        (4e-4, 1e-3, 3e-3, 6e-3), description="step sizes of Adam after pruning by attribution"
    )
    lasso_rates: Numbers[Rate] = Field(
        (4e-4, 8e-4, 1e-3, 2e-3, 3e-3, 5e-3, 8e-3), description="step sizes of Adam with group lasso"
    )
    lasso_strengths: Numbers[NotNegative] = Field(
        (1e-3, 3e-3, 4e-3, 5e-3, 6.5e-3, 8e-3), description="lambda, weights of the penalty"
    )
    n_repeats: Count = Field(10, description="runs of every setting")
    max_points: Count = Field(50_000, description="training samples that a run may see")
    relearning_points: Count = Field(2_000, description="samples of all digits in the last part")
    device: Device = Field("auto", description="where it runs")
    checkpoints: Folder = Field("", description="folder where progress is saved and resumed from; empty for none")

    @model_validator(mode="after")
    def _teacher_is_larger(self) -> Config:
        most = 2 * self.teacher_width
        for name in ("pruned_neurons", "lasso_neurons"):
            if max(getattr(self, name)) > most:
                raise ValueError(f"{name} holds {max(getattr(self, name))}; the teacher has {most} to keep some of")
        return self

    @part
    def comparison(self) -> MnistConfig:
        """The configuration of the experiment."""
        lasso = self._method("lasso", "lasso_neurons", StepConfig(batch_size=16, max_norm=1.0))
        return self.build(
            MnistConfig,
            teacher=self.build(TeacherConfig, {"width": "teacher_width", "n_epochs": "teacher_epochs"}),
            scratch=self._method("scratch", "neurons", StepConfig(batch_size=16)),
            distillation=self._method(
                "distillation", "neurons", StepConfig(batch_size=64, optimiser="sgd", momentum=0.9)
            ),
            attribution=self._method("attribution", "pruned_neurons", StepConfig(batch_size=16)),
            lasso=self.build(LassoConfig, {"strengths": "lasso_strengths"}, method=lasso),
        )

    def _method(self, name: str, neurons: str, step: StepConfig) -> MethodConfig:
        return self.build(MethodConfig, {"neurons": neurons, "learning_rates": f"{name}_rates"}, step=step)


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
