"""The Trainer of transformers for narrowing: units stay removed, a penalty joins the gradient, a teacher the loss.

Checkpoints are safetensors and json, written under another name and then renamed: where a run is killed, the last
checkpoint is whole.  Nothing is pickled.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from narrowlib.devices import prepare_torchvision
from narrowlib.llm.callbacks import Bar, Hold, Resume, Step
from narrowlib.llm.costs import joules_so_far
from narrowlib.llm.distillation import TOP_LOG_P, TOP_TOKENS, Distillation, top_of
from narrowlib.llm.scores import next_token_loss
from narrowlib.store.files import replacing
from narrowlib.units import UnitGroup

prepare_torchvision()  # transformers imports it on the way to its Trainer

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments  # noqa: E402

_STATE = "trainer_state.json"  # as the Trainer calls it
_PARAMETERS, _MOMENTS, _SCHEDULE = "parameters.safetensors", "optimizer.safetensors", "schedule.json"


class NarrowTrainer(Trainer):
    """Trains a causal language model on token blocks.

    Parameters
    ----------
    model : PreTrainedModel
        Trained in place.
    args : TrainingArguments
        With ``max_steps``; every optimiser step takes the same number of blocks.
    blocks : datasets.Dataset
        Token blocks of one length in the column ``input_ids``.  They are taken in an order that only ``args.seed``
        decides; when all were taken, they come again in another order.  With the columns of
        `narrowlib.llm.distillation.soft_targets` they are the teacher.
    held_out : datasets.Dataset, optional
        Blocks to evaluate on.
    groups, masks
        Units to hold at zero after every step, see `narrowlib.pruning.apply_masks`.
    penalty : callable, optional
        Adds a penalty's gradient to the ``grad`` of the parameters; called once per optimiser step, when gradients of
        all its blocks and processes are summed up, and before they are clipped.
    teacher : PreTrainedModel, optional
        Of the same vocabulary; its probabilities join the loss, see
        `narrowlib.llm.distillation.Distillation`.
    distillation : Distillation
    precision : {"float32", "bfloat16"}
        Of matrix products; parameters and losses are float32.  ``args.bf16`` is to stay False: it would have the
        model's logits copied into float32 once more.
    compiled : callable, optional
        Compiles the losses, see `narrowlib.llm.compilation.compiled_layers`.  The first step of the process, in which
        that happens, is left out of what training took.
    optimizers : tuple
        Optimiser and schedule in place of AdamW and what ``args`` says.
    progress : bool
        Show a progress bar.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        blocks: Any,
        *,
        held_out: Any = None,
        groups: Sequence[UnitGroup] = (),
        masks: Mapping[str, Tensor] | None = None,
        penalty: Callable[[], None] | None = None,
        teacher: nn.Module | None = None,
        distillation: Distillation | None = None,
        precision: str = "float32",
        compiled: Callable[[Callable], Callable] | None = None,
        optimizers: tuple = (None, None),
        progress: bool = True,
    ) -> None:
        super().__init__(
            model, args, data_collator=_stack, train_dataset=blocks, eval_dataset=held_out, optimizers=optimizers
        )
        self.penalty = penalty
        distillation = distillation or Distillation()
        self.hard_weight, self.precision = distillation.hard_weight, precision
        self._hard_loss, self._soft_loss, self._top_loss = map(
            compiled or (lambda loss: loss), (next_token_loss, distillation.soft_loss, distillation.top_loss)
        )
        self.teacher = None if teacher is None else teacher.to(args.device).eval()
        self._hard_losses: list[Tensor] = []  # of a step with a teacher, since the last record
        self._began, self._joules_began = time.perf_counter(), joules_so_far(args.device)
        self._compiles = compiled is not None  # until its first step is done
        self._earlier = {"seconds": 0.0, "joules": 0.0}  # before this process
        self._spent = self._earlier  # and less what evaluation took
        self.model_accepts_loss_kwargs = False  # a loss is a mean over its blocks, which are all equally long
        for noisy in (PrinterCallback, ProgressCallback):
            self.remove_callback(noisy)
        self.add_callback(Bar(progress))
        self.add_callback(Step())
        if masks:
            self.add_callback(Hold(groups, model, {name: mask.to(args.device) for name, mask in masks.items()}))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross entropy of the next token from float32 logits; in training with a teacher, the distillation loss."""
        ids = inputs["input_ids"]  # (blocks, tokens)
        is_taught = model.training and (self.teacher is not None or TOP_TOKENS in inputs)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            outputs = model(input_ids=ids, use_cache=False)
            if is_taught and TOP_TOKENS not in inputs:
                with torch.no_grad():
                    teacher_logits = self.teacher(input_ids=ids, use_cache=False).logits
        loss = self._hard_loss(outputs.logits, ids)
        if is_taught:
            self._hard_losses.append(loss.detach())
            if TOP_TOKENS in inputs:
                soft = self._top_loss(outputs.logits, *top_of(inputs))
            else:
                soft = self._soft_loss(outputs.logits, teacher_logits)
            loss = self.hard_weight * loss + (1 - self.hard_weight) * soft
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, *args, **more):
        """A record of training also holds the loss without a teacher, and what training has taken so far."""
        if "loss" in logs:
            if self._hard_losses:
                hard = torch.stack(self._hard_losses).mean()
                logs["hard_loss"] = float(self.accelerator.reduce(hard, "mean"))
                self._hard_losses = []
            logs |= self._taken()
            if self.args.world_size > 1:
                joules = torch.tensor(logs["joules"], dtype=torch.float64, device=self.args.device)
                logs["joules"] = float(self.accelerator.reduce(joules, "sum"))
        super().log(logs, *args, **more)

    def _taken(self) -> dict[str, float]:
        """Seconds and joules of training so far, those before a kill included and those of evaluation not."""
        here = {
            "seconds": time.perf_counter() - self._began,
            "joules": joules_so_far(self.args.device) - self._joules_began,
        }
        return {name: self._spent[name] + value for name, value in here.items()}

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Forward and backward; the penalty once the gradient of the whole optimiser step is there."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.penalty is not None and self.accelerator.sync_gradients:
            self.penalty()
        if self._compiles and self.accelerator.sync_gradients:
            self._compiles = False
            float(loss)  # the device is done
            self._spent = self._earlier
            self._began, self._joules_began = time.perf_counter(), joules_so_far(self.args.device)
        return loss

    def floating_point_ops(self, inputs):
        """Not counted: it would take longer than it tells."""
        return 0

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean loss of the held-out blocks, each counted once however many processes share them."""
        before = self._taken()
        was_training, size = self.model.training, self.args.per_device_eval_batch_size
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.args.device)
        first, stride = size * self.args.process_index, size * self.args.world_size
        for start in range(first, len(self.eval_dataset), stride):
            rows = [self.eval_dataset[place] for place in range(start, min(start + size, len(self.eval_dataset)))]
            total += len(rows) * self.compute_loss(self.model, self._prepare_inputs(_stack(rows))).double()
        self.model.train(was_training)
        metrics = {"eval_loss": float(self.accelerator.reduce(total, "sum")) / len(self.eval_dataset)}
        self.log(metrics)
        self._spent = {name: self._spent[name] - value + before[name] for name, value in self._taken().items()}
        return metrics

    def _get_train_sampler(self, train_dataset=None):
        n_blocks = self.args.max_steps * self.get_total_train_batch_size(self.args)
        return _Order(len(self.train_dataset), n_blocks, self.args.seed)

    def _save_checkpoint(self, model, trial):
        since_record = self._since_record()
        if not self.args.should_save:
            return
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with replacing(folder) as temporary:
            temporary.mkdir()
            self._write(temporary, since_record)
        for older in checkpoints_in(self.args.output_dir)[:-1]:
            shutil.rmtree(older, ignore_errors=True)

    def _since_record(self) -> dict[str, Any]:
        """Losses of the steps since the last record, of all processes, that the next one is to cover."""
        hard = [float(self.accelerator.reduce(loss, "mean")) for loss in self._hard_losses]
        if not hasattr(self, "_tr_loss"):  # another version of the Trainer: the next record begins at the checkpoint
            return {"step": self.state.global_step, "loss": 0.0, "hard": []}
        loss = float(self.accelerator.reduce(self._tr_loss.clone(), "mean"))
        return {"step": self._globalstep_last_logged, "loss": loss, "hard": hard}

    def _write(self, folder: Path, since_record: dict[str, Any]) -> None:
        """Parameters, what the optimiser remembers of them, its schedule, and the state of the run."""
        parameters = dict(self.model.named_parameters())
        save_file({name: values.detach().contiguous() for name, values in parameters.items()}, folder / _PARAMETERS)
        moments = {
            f"{key}/{name}": value.contiguous()
            for name, parameter in parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        save_file(moments, folder / _MOMENTS)
        about = {"schedule": self.lr_scheduler.state_dict(), "spent": self._taken(), "since record": since_record}
        (folder / _SCHEDULE).write_text(json.dumps(about), encoding="utf-8")
        self.state.save_to_json(folder / _STATE)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with safe_open(Path(resume_from_checkpoint) / _PARAMETERS, framework="pt") as file, torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(file.get_tensor(name))

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is None:
            return
        parameters = dict(self.model.named_parameters())
        fused = any(group.get("fused") or group.get("capturable") for group in self.optimizer.param_groups)
        with safe_open(Path(checkpoint) / _MOMENTS, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                moment, _, name = key.partition("/")
                device = "cpu" if moment == "step" and not fused else parameters[name].device
                self.optimizer.state[parameters[name]][moment] = file.get_tensor(key).to(device)
        about = json.loads((Path(checkpoint) / _SCHEDULE).read_text(encoding="utf-8"))
        self.lr_scheduler.load_state_dict(about["schedule"])
        self._spent = self._earlier = about["spent"]
        self.add_callback(Resume(self, about["since record"]))
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint):
        """Nothing to do: the seed of a step is made from its number."""


def checkpoints_in(folder: str | Path) -> list[Path]:
    """Checkpoints of a run that are whole, oldest first."""
    found = [path for path in Path(folder).glob("checkpoint-*") if (path / _STATE).is_file()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _stack(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    kinds = {"input_ids": torch.int64, TOP_TOKENS: torch.int64, TOP_LOG_P: torch.float32}
    there = [name for name in kinds if name in rows[0]]
    return {name: torch.stack([torch.as_tensor(row[name], dtype=kinds[name]) for row in rows]) for name in there}


class _Order(torch.utils.data.Sampler):
    """Passes over all blocks, each in an order of its own, up to ``n_samples``: one epoch in the Trainer's eyes."""

    def __init__(self, n_blocks: int, n_samples: int, seed: int) -> None:
        self.n_blocks, self.n_samples, self.seed = n_blocks, n_samples, seed

    def __len__(self) -> int:
        return self.n_samples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        left = self.n_samples
        while left:
            order = torch.randperm(self.n_blocks, generator=generator)[:left]
            yield from order.tolist()
            left -= len(order)
