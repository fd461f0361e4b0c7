"""Settings of the MNIST comparison, and the outcome of one method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import pandas as pd
from pydantic import Field, model_validator

from narrowlib.chapters.pages import Page
from narrowlib.data.digits import Digits
from narrowlib.settings import Count, NotNegative, Numbers, Positive, Rate, Seed, Settings, Share, Weight, part
from narrowlib.stacks.gradients import LossAndGradient
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import Goal, StepConfig, train_to_goal

N_CLASSES = 10
EVEN, ODD = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)
SCORE_BATCHES = 30  # of the size of a training batch, on which attribution scores are averaged
SEEDS = {"from scratch": 1_000_000, "distillation": 2_000_000, "attribution": 3_000_000, "group lasso": 4_000_000}
Even = Annotated[int, Field(ge=2, multiple_of=2)]


class TeacherConfig(Settings):
    """How the teacher of all ten digits is trained; the defaults are the paper's."""

    width: Count = Field(description="neurons in each of the hidden layers")
    n_epochs: Count = Field(description="largest number of passes over all training digits")
    enough: Positive = Field(0.99, description="test accuracy at which training ends")
    dropout: Share = 0.2
    learning_rate: Rate = Field(1e-3, description="step size of Adam, halved when the accuracy stops rising")
    patience: int = Field(2, ge=0, description="epochs without improvement before the step size is halved")
    weight_decay: NotNegative = 1e-4
    batch_size: Count = 128
    seed: Seed = 0


class MethodConfig(Settings):
    """The grid of one method: every size with every learning rate."""

    neurons: Numbers[Even] = Field(description="neurons kept in both hidden layers together, half in each")
    learning_rates: Numbers[Rate] = Field(description="step sizes")
    step: StepConfig = Field(description="everything else about an optimiser step")
    n_repeats: Count = Field(description="runs of every setting")
    max_points: Count = Field(description="training samples that a run may see")
    checks_per_epoch: Count = Field(
        16, description="checks on the even test digits per pass over the even training digits"
    )


class LassoConfig(Settings):
    """Group lasso with pruning during training; at every check, neurons of small norm are dropped."""

    method: MethodConfig = Field(description="targets, learning rates and the optimiser step")
    strengths: Numbers[NotNegative] = Field(description="lambda, weights of the penalty")
    dropped_below: Positive = Field(
        0.05, description="norm of a neuron's weights, without biases, below which it is dropped"
    )


class MnistConfig(Settings):
    """Settings of the comparison; the defaults are the paper's."""

    teacher: TeacherConfig
    scratch: MethodConfig
    distillation: MethodConfig
    attribution: MethodConfig
    lasso: LassoConfig
    tuned_rates: Numbers[Rate] = Field(description="step sizes over which the rivals are tuned, see `tuned_rivals`")
    relearning_points: Count = Field(description="samples of all digits in relearning")
    relearning_batch_size: Count = 16
    relearning_rate: Rate = 1e-3
    temperature: Positive = Field(20.0, description="temperature of teacher and student in distillation")
    hard_weight: Weight = Field(0.1, description="weight of the true labels in distillation")
    goal: Positive = Field(0.97, description="accuracy on the even test digits")
    first_seed: Seed = 0

    def seeds(self, name: str, n_repeats: int) -> range:
        """Seeds of the repeats of a method."""
        first = SEEDS[name] + self.first_seed
        return range(first, first + n_repeats)


class TeacherPage(Page):
    """Parameters of a teacher whose neurons a chapter cuts, down to no more than it has."""

    sizes: ClassVar[tuple[str, ...]] = ("neurons",)  # parameters that hold what is kept

    teacher_width: Count = Field(1_200, description="neurons in each of the teacher's hidden layers")
    teacher_epochs: Count = Field(20, description="largest number of passes over all training digits")

    @model_validator(mode="after")
    def _teacher_is_larger(self) -> Self:
        most = 2 * self.teacher_width
        for name in self.sizes:
            if max(getattr(self, name)) > most:
                raise ValueError(f"{name} holds {max(getattr(self, name))}; it must be at most the teacher's {most}")
        return self


class Config(TeacherPage):
    """Parameters of the chapter; the defaults are the paper's."""

    sizes = ("pruned_neurons", "lasso_neurons")

    neurons: Numbers[Even] = Field(
        (30, 50, 70, 100, 190, 400, 600, 1_200, 2_400),
        description="sizes from scratch and by distillation: neurons in both layers, even",
    )
    pruned_neurons: Numbers[Even] = Field(
        (24, 36, 50, 70, 100, 130, 190, 300, 400, 600, 800, 1_200), description="sizes pruned by attribution"
    )
    lasso_neurons: Numbers[Even] = Field(
        (24, 36, 50, 70, 100, 130, 190, 240, 300, 400, 600, 1_190), description="target sizes of group lasso"
    )
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
    tuned_rates: Numbers[Rate] = Field(
        (4e-4, 8e-4, 1e-3, 2e-3, 3e-3, 5e-3, 8e-3),
        description="in the record: step sizes over which scratch and distillation are tuned, with six other settings",
    )
    n_repeats: Count = Field(10, description="runs of every setting")
    scratch_repeats: Count = Field(50, description="runs of every setting from scratch")
    max_points: Count = Field(50_000, description="training samples that a run of a pruned network may see")
    rival_points: Count = Field(
        589_840, description="training samples that a run from scratch or distilled may see; the paper's 20 passes"
    )
    relearning_points: Count = Field(2_000, description="samples of all digits for relearning")

    @part
    def comparison(self) -> MnistConfig:
        """The configuration of the experiment."""
        clipped = StepConfig(batch_size=16, max_norm=1.0)
        sgd = StepConfig(batch_size=64, optimiser="sgd", momentum=0.9)
        rivals = {"max_points": "rival_points"}
        scratch = rivals | {"n_repeats": "scratch_repeats"}
        lasso = self._method("lasso", "lasso_neurons", clipped)
        return self.build(
            MnistConfig,
            teacher=self.build(TeacherConfig, {"width": "teacher_width", "n_epochs": "teacher_epochs"}),
            scratch=self._method("scratch", "neurons", StepConfig(batch_size=64), scratch),
            distillation=self._method("distillation", "neurons", sgd, rivals, checks_per_epoch=8),
            attribution=self._method("attribution", "pruned_neurons", clipped),
            lasso=self.build(LassoConfig, {"strengths": "lasso_strengths"}, method=lasso),
        )

    def _method(
        self, name: str, neurons: str, step: StepConfig, names: Mapping[str, str] | None = None, **values: int
    ) -> MethodConfig:
        fields = {"neurons": neurons, "learning_rates": f"{name}_rates", **(names or {})}
        return self.build(MethodConfig, fields, step=step, **values)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a method.

    Parameters
    ----------
    runs : DataFrame
        One row per run: ``method``, ``neurons``, ``learning_rate``, ``strength`` (of group lasso, else NaN),
        ``repeat``, ``points`` (training samples seen, those for scores counted), ``accuracy`` (on the even test
        digits, at the end), ``reached`` (whether that is the goal), ``network`` (its place in ``networks``, -1 where
        it was not kept).  A run of group lasso that never comes down to a size has a row that misses it, without an
        accuracy.
    networks : dict of int to MLPStack
        By ``neurons``; networks at their end.
    """

    runs: pd.DataFrame
    networks: dict[int, MLPStack]


def even_goal(config: MnistConfig, method: MethodConfig, even: Digits) -> Goal:
    """The goal that all methods share: an accuracy on the even test digits, checked several times per epoch."""
    every = max(1, len(even.train_labels) // method.checks_per_epoch)
    return Goal(inputs=even.test_images, labels=even.test_labels, accuracy=config.goal, check_every=every)


def recover_to_goal(
    name: str,
    config: MnistConfig,
    method: MethodConfig,
    even: Digits,
    stack: MLPStack,
    loss: LossAndGradient,
    labels: Sequence[tuple[float, int]],
    n_before: Sequence[int],
    neurons: int,
    progress: bool,
    **remembered: Any,
) -> pd.DataFrame:
    """Train a stack, and how its runs ended, with the samples each had seen before counted; see `Outcome`.

    ``remembered`` is what the optimiser goes on from, see `narrowlib.stacks.training.train_to_goal`.
    """
    history = train_to_goal(
        stack,
        even.train_images,
        loss,
        even_goal(config, method, even),
        method.step,
        learning_rates=[rate for rate, _ in labels],
        seeds=[SEEDS[name] + 500_000 + config.first_seed + repeat for _, repeat in labels],
        max_points=[method.max_points - before for before in n_before],
        **remembered,
        progress=progress,
        description=f"{name}, {neurons} neurons",
    )
    ends = history.groupby("run").last()
    about = pd.DataFrame(labels, columns=["learning_rate", "repeat"]).assign(method=name, neurons=neurons)
    return about.assign(
        points=ends["points"] + pd.Series(n_before),
        accuracy=ends["accuracy"],
        reached=ends["accuracy"] >= config.goal,
        network=range(len(about)),
    )
