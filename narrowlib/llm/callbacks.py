"""What happens between the steps of a training of a language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from narrowlib.devices import prepare_torchvision
from narrowlib.pruning import apply_masks
from narrowlib.units import UnitGroup

prepare_torchvision()  # transformers imports it on the way to its Trainer

from transformers import TrainerCallback, TrainingArguments  # noqa: E402


class Hold(TrainerCallback):
    """Units that masks remove stay at zero: before training and after every step of the optimiser."""

    def __init__(self, groups: Sequence[UnitGroup], model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        self.groups, self.parameters, self.masks = groups, dict(model.named_parameters()), masks

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        apply_masks(self.groups, self.parameters, self.masks)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        apply_masks(self.groups, self.parameters, self.masks)


class Step(TrainerCallback):
    """What a step draws at random, such as dropout, depends on its number alone, so that no state need be kept."""

    def on_step_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        torch.manual_seed(((args.seed * 1_000_003 + state.global_step) * 1009 + args.process_index) % 2**63)

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step == state.max_steps:  # the last record covers what is left
            control.should_log, control.should_evaluate = True, args.eval_strategy != "no"
        return control


class Resume(TrainerCallback):
    """The first record after a kill covers the steps before the checkpoint too that no record has covered."""

    def __init__(self, trainer: Any, since_record: Mapping[str, Any]) -> None:
        self.trainer, self.since_record = trainer, since_record

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        trainer, since = self.trainer, self.since_record
        if hasattr(trainer, "_tr_loss"):
            trainer._tr_loss += since["loss"]
            trainer._globalstep_last_logged = since["step"]
            trainer._hard_losses = [torch.tensor(loss, device=trainer.args.device) for loss in since["hard"]]


class Bar(TrainerCallback):
    """A progress bar with the last loss."""

    def __init__(self, progress: bool) -> None:
        self.progress, self.bar = progress, None

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        is_shown = self.progress and state.is_world_process_zero
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="train", unit="step", disable=not is_shown
        )

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.bar.update()

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        if self.bar is not None and "loss" in (logs or {}):
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.bar.close()


class Tell(TrainerCallback):
    """Calls a function with the number of steps done: before training, and at every record of its loss."""

    def __init__(self, on_record: Callable[[int], None]) -> None:
        self.on_record = on_record

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        self.on_record(state.global_step)

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        if "loss" in (logs or {}):
            self.on_record(state.global_step)
