"""Training of stacks: a number of steps on fresh samples, or on fixed samples until a goal is reached."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from tqdm.auto import tqdm

from narrowlib.settings import AutoPrecision, Count, NotNegative, Positive, Settings, Share
from narrowlib.stacks.cohort import Cohort, run_chunks
from narrowlib.stacks.gradients import LossAndGradient, cross_entropy
from narrowlib.stacks.networks import MLPStack, accuracies
from narrowlib.stacks.steps import DrawBatch, EpochSampler, Sampler, records_per_graph
from narrowlib.store.unfinished import Checkpoint, check_loss

BITS_PER_NAT = 1 / math.log(2)


class TrainingConfig(Settings):
    """Adam on fresh samples."""

    n_steps: Count = Field(description="optimiser steps")
    learning_rate: Positive = Field(1e-3, description="step size of Adam")
    eps: Positive = Field(1e-5, description="epsilon of Adam, added to its denominator")
    record_every: Count = Field(100, description="steps between records, each the mean loss since the last one")
    precision: AutoPrecision = Field(
        "float32", description="precision of matrix products and activations; all else is float32"
    )


class StepConfig(Settings):
    """One optimiser step on fixed samples."""

    batch_size: Count = Field(description="samples per step of each run")
    optimiser: Literal["adam", "sgd"] = Field("adam", description="optimiser")
    momentum: Share = Field(0.9, description="momentum of SGD")
    weight_decay: NotNegative = Field(0.0, description="weight in the loss of half the squared norm of the parameters")
    max_norm: Positive | None = Field(None, description="norm at which gradients are clipped")

    def cohort(
        self,
        stack: MLPStack,
        inputs: Tensor,
        loss: LossAndGradient,
        learning_rates: Sequence[float],
        seeds: Sequence[int],
        **options: Any,
    ) -> Cohort:
        """Runs that train with these steps, each in its own order of the samples.

        See `narrowlib.stacks.cohort.Cohort` for the options.
        """
        settings: dict[str, Any] = {"weight_decay": self.weight_decay}
        if self.optimiser == "sgd":
            settings["momentum"] = self.momentum
        sampler, generators = EpochSampler(inputs, self.batch_size), make_generators(seeds, inputs.device)
        options |= {"loss": loss, "max_norm": self.max_norm}
        return Cohort(stack, sampler, generators, learning_rates, self.optimiser, settings, **options)


class Goal(Settings):
    """When a run is done."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    inputs: Tensor = Field(description="held-out samples, (n, n_inputs)")
    labels: Tensor = Field(description="their classes, int64 (n,)")
    accuracy: Positive = Field(description="accuracy at which a run is done; above 1: never")
    check_every: Count = Field(description="training samples between measurements of the accuracy")

    def steps_between(self, step: StepConfig) -> int:
        """Steps between two evaluations on the held-out samples."""
        return max(1, round(self.check_every / step.batch_size))


def make_generators(seeds: Sequence[int], device: str | torch.device) -> list[torch.Generator]:
    """One seeded generator per run, on ``device``."""
    return [torch.Generator(device=device).manual_seed(seed) for seed in seeds]


def train_stack(
    stack: MLPStack,
    draw_batch: DrawBatch | Sampler,
    generators: Sequence[torch.Generator],
    config: TrainingConfig,
    *,
    loss: LossAndGradient = cross_entropy,
    penalty: Callable[[], None] | None = None,
    constraint: Callable[[], None] | None = None,
    leave: Callable[[Tensor], Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
    description: str = "train",
) -> Tensor:
    """Train every run of a stack with Adam, each on its own batches.

    The loss of a run is the mean over its tasks of the mean over their samples.  Runs share no
    parameter, so the gradient of the summed loss is the gradient of each.

    Parameters
    ----------
    stack : MLPStack
        Trained in place.
    draw_batch : callable or Sampler
        From the generators to inputs (n_runs, n_tasks, batch, n_inputs) and labels (n_runs, n_tasks, batch),
        fresh at every call.  A `narrowlib.stacks.steps.Sampler` lets a GPU take many steps at a time.
    generators : sequence of torch.Generator
        One per run; the only source of randomness.
    config : TrainingConfig
    loss : callable
        Per-sample losses and their gradient in the logits, see `narrowlib.stacks.gradients.cross_entropy`.
    penalty : callable, optional
        Called after every gradient; adds a penalty's gradient to the ``grad`` of the parameters.
    constraint : callable, optional
        Called after every step; changes the parameters in place, to hold removed units at zero or to take a proximal
        step.
    leave : callable, optional
        From a record on the CPU (n_runs, n_tasks) to whether each run is done, bool (n_runs).  A run that is done
        trains no more, and costs nothing.  Not together with a penalty or constraint, which know the whole stack.
    checkpoint : Checkpoint, optional
        Where everything is saved about once a minute, see `narrowlib.store.kept.Kept.checkpoint`.  When it was left by
        the same training, this goes on from it, to the same result bit for bit.  It is removed at the end.
    progress : bool
        Show a progress bar.
    description : str
        Its label.

    Returns
    -------
    Tensor, float32, shape (n_records, n_runs, n_tasks), on the CPU
        Training loss in nats, every record a mean over ``config.record_every`` steps (the last one over
        what is left); NaN for a run that has left.  Samples are never reused, so this is also the loss on held-out
        data.

    Raises
    ------
    ValueError
        When runs may leave and there is a penalty or constraint.
    DivergedError
        When a loss is no longer finite, see `narrowlib.store.unfinished.check_loss`.
    """
    if leave is not None and (penalty or constraint):
        raise ValueError("leave is given together with a penalty or constraint; runs can leave only without them")
    store = checkpoint or Checkpoint(None)
    begun = [stack, [generator.get_state() for generator in generators]]
    hooks = {"precision": config.precision, "loss": loss, "penalty": penalty, "constraint": constraint}
    rates = [config.learning_rate] * stack.n_runs
    cohort = Cohort(stack, draw_batch, generators, rates, settings={"eps": config.eps}, **hooks)
    records: list[Tensor] = []
    if found := store.resume(config, *begun, stack.weights[0].device.type):
        losses = found[0].pop("records", torch.empty(0))
        if cohort.restore(*found):
            records = list(losses)
    with tqdm(total=config.n_steps, initial=cohort.n_steps, desc=description, unit="step", disable=not progress) as bar:
        while cohort.n_steps < config.n_steps and cohort.runs:
            n_left, present = config.n_steps - cohort.n_steps, cohort.runs
            n_steps = min(config.record_every, n_left)
            n_records = 1 if leave else min(records_per_graph(n_steps), n_left // n_steps)
            losses = cohort.records(n_steps, n_records).cpu()  # the one look at the device
            check_loss(losses.transpose(0, 1), cohort.n_steps, config.learning_rate)
            found = losses
            if len(present) < stack.n_runs:
                found = losses.new_full((n_records, stack.n_runs, losses.shape[-1]), torch.nan)
                found[:, present] = losses
            records += found
            bar.update(n_steps * n_records)
            if leave is not None:
                cohort.leave(leave(records[-1])[present].tolist())
            if store.is_due():
                tensors, about = cohort.saved()
                store.save({**tensors, "records": torch.stack(records)}, about)
    cohort.bring_back()
    store.remove()
    absent = [torch.full_like(records[-1], torch.nan)] * (len(record_steps(config)) - len(records))
    return torch.stack(records + absent)


def record_steps(config: TrainingConfig) -> list[int]:
    """Steps at which `train_stack` records, in order."""
    steps = list(range(config.record_every, config.n_steps + 1, config.record_every))
    return steps if steps and steps[-1] == config.n_steps else [*steps, config.n_steps]


def train_to_goal(
    stack: MLPStack,
    inputs: Tensor,
    loss: LossAndGradient,
    goal: Goal,
    config: StepConfig,
    *,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    max_points: Sequence[int],
    moments: Mapping[str, Mapping[str, Tensor]] | None = None,
    steps_before: Sequence[int] | None = None,
    progress: bool = True,
    description: str = "train",
) -> pd.DataFrame:
    """Train every run in place until it reaches the goal, or its samples are used up.

    A run that is done leaves, with the parameters it has then, and the others go on without paying for it.  On the
    CPU few runs train at a time, so that what a step touches stays in the caches.

    Parameters
    ----------
    stack : MLPStack
    inputs : Tensor, shape (n_rows, n_inputs)
        Training samples.
    loss : callable
        From logits (n_runs, batch, n_classes) and the numbers of their rows (n_runs, batch) to per-sample losses and
        their gradient in the logits; see `labelled`.
    goal : Goal
        Looked at before the first step and from then on after every ``goal.check_every`` samples.
    config : StepConfig
    learning_rates : sequence of float
        One per run.
    seeds : sequence of int
        One per run, of the order of its samples.
    max_points : sequence of int
        Training samples that each run may see; it stops at the last look before.
    moments, steps_before
        What the optimiser goes on from, see `narrowlib.stacks.cohort.Cohort`; a fresh one by default.
    progress : bool
        Show a progress bar.
    description : str
        Its label.

    Returns
    -------
    DataFrame
        One row per run and look: ``run``, ``points`` (training samples seen by then), ``accuracy``.  The last of each
        run says how it ended.
    """
    rows, n_between = [], goal.steps_between(config)
    values = {name: parameter.detach() for name, parameter in stack.named_parameters()}
    with tqdm(total=stack.n_runs, desc=description, unit="run", disable=not progress) as bar:
        for chunk in run_chunks(stack, range(stack.n_runs)):
            part = MLPStack.from_state({name: tensor[chunk] for name, tensor in values.items()})
            rates, its_seeds, ages = (
                [given[run] for run in chunk] for given in (learning_rates, seeds, steps_before or [0] * stack.n_runs)
            )
            its_moments = moments and {
                kind: {name: tensor[chunk] for name, tensor in tensors.items()} for kind, tensors in moments.items()
            }
            cohort = config.cohort(part, inputs, loss, rates, its_seeds, moments=its_moments, steps_before=ages)
            while cohort.runs:
                runs, n_points = [chunk[run] for run in cohort.runs], cohort.n_steps * config.batch_size
                found = accuracies(cohort.stack, goal.inputs, goal.labels).tolist()
                rows += [(run, n_points, share) for run, share in zip(runs, found, strict=True)]
                after = n_points + n_between * config.batch_size  # at the next look
                is_done = [s >= goal.accuracy or after > max_points[run] for run, s in zip(runs, found, strict=True)]
                cohort.leave(is_done)
                bar.update(sum(is_done))
                if cohort.runs:
                    cohort.run(n_between)
            cohort.bring_back()
            for name, tensor in part.named_parameters():
                values[name][chunk] = tensor.detach()
    return pd.DataFrame(rows, columns=["run", "points", "accuracy"])


def labelled(labels: Tensor, loss: LossAndGradient = cross_entropy) -> LossAndGradient:
    """Turn a loss of logits and labels into a loss of logits and row indices; ``labels`` are those of all rows."""
    return lambda logits, rows: loss(logits, labels[rows])
