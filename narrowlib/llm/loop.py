"""The loop that trains a language model, on accelerate: in one process or several, of which the first writes.

What a step draws at random depends on its number alone, and a checkpoint holds everything else, so that a resumed
training ends at the same bits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch._inductor.exc import InductorError
from tqdm.auto import tqdm
from transformers import get_scheduler

from narrowlib.devices import is_bfloat16, moved
from narrowlib.llm.compilation import is_removed
from narrowlib.llm.costs import Clock
from narrowlib.llm.distillation import TOP_LOG_P, TOP_TOKENS, Distillation, as_arrays
from narrowlib.llm.losses import block_weights, next_token_loss
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.penalties import group_lasso_gradients_
from narrowlib.pruning import apply_masks
from narrowlib.store.unfinished import Checkpoint, check_loss
from narrowlib.units import UnitGroup

Found = tuple[dict[str, Tensor], Any] | None
_COLUMNS = {"input_ids": torch.int64, "labels": torch.int64, TOP_TOKENS: torch.int64, TOP_LOG_P: torch.float32}


class Loop:
    """One training of a model in place; its parameters are those of `narrowlib.llm.training.recover`.

    Parameters
    ----------
    compiled : callable
        Compiles a loss, see `narrowlib.llm.compilation.compiled_layers`.
    strength : float
        Of a group lasso on the groups.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Any,
        config: LLMTrainingConfig,
        compiled: Callable[[Callable], Callable],
        *,
        held_out: Any = None,
        groups: Sequence[UnitGroup] = (),
        masks: Mapping[str, Tensor] | None = None,
        strength: float = 0.0,
        teacher: nn.Module | None = None,
        distillation: Distillation | None = None,
        on_record: Callable[[int], None] | None = None,
        progress: bool = True,
    ) -> None:
        device = next(model.parameters()).device
        is_launched = torch.distributed.is_torchelastic_launched() or torch.distributed.is_initialized()
        self.accelerator = Accelerator(  # without a launcher the model stays where it is
            mixed_precision="no", cpu=is_launched and device.type == "cpu", device_placement=is_launched
        )
        self.n_rows, self.n_parts = _shares(config, self.accelerator.num_processes)
        is_alone = self.accelerator.num_processes == 1
        self.model, self.replica = model, model if is_alone else self.accelerator.prepare_model(model)
        self.device = device = next(model.parameters()).device
        self.config, self.blocks, self.on_record, self.progress = config, blocks, on_record, progress
        self.is_low = is_bfloat16(config.precision, device)
        self.held_out = held_out and as_arrays(held_out)
        self.weights, self.held_out_weights = block_weights(blocks), held_out and block_weights(held_out)
        self.groups, self.strength = groups, strength
        self.masks = {name: mask.to(device) for name, mask in (masks or {}).items()}
        self.teacher, self.distillation = teacher and teacher.to(device).eval(), distillation or Distillation()
        losses = (next_token_loss, self.distillation.soft_loss, self.distillation.top_loss)
        self._hard_loss, self._soft_loss, self._top_loss = map(compiled, losses)
        self.parameters = dict(model.named_parameters())
        self.optimizer = _adamw(self.parameters, config)
        schedule = "constant_with_warmup" if config.schedule == "constant" else config.schedule
        self.rate = get_scheduler(schedule, self.optimizer, config.n_warmup, config.n_steps).lr_lambdas[0]
        self.order = order_of(len(blocks), config.n_steps * config.batch_size, config.seed)
        self.rows: list[dict[str, Any]] = []  # what was recorded
        self.recorded = 0  # step of the last record; the losses are of the steps since then
        self.loss, self.hard_losses = torch.zeros((), device=device), []
        self.best_loss = math.inf
        self.clock = Clock(device)

    def run(self, checkpoint: Checkpoint, best: Checkpoint | None, key: str) -> list[dict[str, Any]]:
        """Train, continuing from a checkpoint of the same key, and return the records.

        The second checkpoint keeps the parameters whose held-out loss was the lowest; the model then ends with them.
        """
        config, self.best = self.config, best
        key = f"{key}, {self.accelerator.num_processes} on {self.device.type}"
        start = self._resume(checkpoint.resume(key), best and best.resume(key))
        earlier = self.clock.read()
        self._hold()
        self._tell(start)
        if not start:
            self._whole(self._evaluate, 0)
        is_shown = self.progress and self.accelerator.is_main_process
        each = config.batch_size * len(self.blocks[0]["input_ids"])  # tokens of a step
        shown = {"total": config.n_steps * each, "initial": start * each, "unit": "token", "unit_scale": True}
        with tqdm(desc="train", **shown, disable=not is_shown) as bar:
            for step in range(start + 1, config.n_steps + 1):
                self._whole(self._step, step - 1)
                bar.update(each)
                is_last = step == config.n_steps
                if config.compiled and step == start + 1:
                    float(self.loss)  # the device is done
                    self.clock.set(earlier)
                if is_last or step % config.record_every == 0:
                    bar.set_postfix(loss=f"{self._record(step):.3f}", refresh=False)
                if is_last or step % (config.evaluate_every or config.record_every) == 0:
                    self._whole(self._evaluate, step)
                if not is_last and step % config.checkpoint_every == 0:
                    self._save(checkpoint, step)
        if best is not None and self.best_loss < math.inf:
            self._take(best.resume(key))
        self.accelerator.wait_for_everyone()
        for kept in filter(None, (checkpoint, best)):
            kept.remove()
        return self.rows

    def _whole(self, do: Callable[[int], None], step: int) -> None:
        """A step or an evaluation, from its beginning when it meets compiled code that a killed run left unfinished."""
        while True:
            try:
                return do(step)
            except InductorError as error:
                if not is_removed(error):
                    raise
                self.optimizer.zero_grad()

    def _step(self, step: int) -> None:
        """One step of the optimiser; nothing in it waits for the device."""
        rank, n_processes = self.accelerator.process_index, self.accelerator.num_processes
        torch.manual_seed(((self.config.seed * 1_000_003 + step) * 1009 + rank) % 2**63)
        size = self.config.batch_size
        whole = self.weights[self.order[step * size : (step + 1) * size]].mean()
        for part in range(self.n_parts):
            first = ((step * self.n_parts + part) * n_processes + rank) * self.n_rows
            places = self.order[first : first + self.n_rows]
            batch = self._batch(self.blocks, places.tolist())
            share = float(self.weights[places].mean() / whole) if whole else 0.0  # of the tokens that count, over even
            is_last = part == self.n_parts - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.replica):
                loss = self._training_loss(batch, share) / self.n_parts
                self.accelerator.backward(loss)
            self.loss += loss.detach()
        if self.strength:
            group_lasso_gradients_(self.groups, self.parameters, self.strength)
        if self.config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._hold()

    def _batch(self, blocks: Any, places: Sequence[int]) -> dict[str, Tensor]:
        rows = blocks[places]
        batch = {name: torch.tensor(rows[name], dtype=dtype) for name, dtype in _COLUMNS.items() if name in rows}
        return {name: moved(values, self.device) for name, values in batch.items()}

    def _logits(self, model: nn.Module, ids: Tensor) -> Tensor:
        """(n, t) -> (n, t, vocabulary)"""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_low):
            return model(input_ids=ids, use_cache=False).logits

    def _training_loss(self, batch: dict[str, Tensor], share: float) -> Tensor:
        """Mean over what counts, times a share: cross entropy of the next token; with a teacher, distillation loss."""
        ids, labels = batch["input_ids"], batch.get("labels")
        logits = self._logits(self.replica, ids)
        hard = share * self._hard_loss(logits, ids if labels is None else labels)
        if TOP_TOKENS in batch:
            top = (batch[name].unflatten(1, (ids.shape[1] - 1, -1)) for name in (TOP_TOKENS, TOP_LOG_P))
            soft = self._top_loss(logits, *top, labels)
        elif self.teacher is not None:
            with torch.no_grad():
                teacher_logits = self._logits(self.teacher, ids)
            soft = self._soft_loss(logits, teacher_logits, labels)
        else:
            return hard
        self.hard_losses.append(hard.detach())
        return self.distillation.hard_weight * hard + (1 - self.distillation.hard_weight) * share * soft

    def _hold(self) -> None:
        if self.masks:
            apply_masks(self.groups, self.parameters, self.masks)

    def _tell(self, step: int) -> None:
        """What is told reads the model at shapes of its own, for which nothing is compiled."""
        with self.clock.stopped(), torch.compiler.set_stance("force_eager"):
            if self.on_record is not None:
                self.on_record(step)
        self.replica.train()

    def _record(self, step: int) -> float:
        """The mean training loss since the last record, and what training took."""
        hard = [torch.stack(self.hard_losses).mean()] if self.hard_losses else []
        told = torch.cat([moved(self.clock.read(), self.device), torch.stack([self.loss, *hard]).double()])
        seconds, joules, total, *hard = self.accelerator.reduce(told, "mean").tolist()  # the one look at the device
        losses = dict(zip(("train", "train, hard"), (total / (step - self.recorded), *hard)))
        check_loss(losses["train"], step, self.config.learning_rate)
        costs = {"seconds": seconds, "joules": joules * self.accelerator.num_processes}
        self.rows += [{"step": step, "split": split, "loss": loss, **costs} for split, loss in losses.items()]
        self.recorded, self.hard_losses = step, []
        self.loss.zero_()
        self._tell(step)
        return losses["train"]

    @torch.no_grad()
    def _evaluate(self, step: int) -> None:
        """The mean loss of the held-out tokens that count, each once however many processes share them."""
        if self.held_out is None:
            return
        with self.clock.stopped():
            self.model.eval()
            total, n_blocks = torch.zeros((), dtype=torch.float64, device=self.device), len(self.held_out)
            first, stride = (self.n_rows * n for n in (self.accelerator.process_index, self.accelerator.num_processes))
            for start in range(first, n_blocks, stride):
                places = range(start, min(start + self.n_rows, n_blocks))
                batch, share = self._batch(self.held_out, places), float(self.held_out_weights[list(places)].sum())
                logits = self._logits(self.model, batch["input_ids"])
                total += share * self._hard_loss(logits, batch.get("labels", batch["input_ids"])).double()
            self.model.train()
            loss = float(self.accelerator.reduce(total, "sum")) / n_blocks
            check_loss(loss, step, self.config.learning_rate)
            self.rows.append({"step": step, "split": "held out", "loss": loss})
            if self.best is not None and loss < self.best_loss:
                self.best_loss = loss
                self.best.save(self.parameters, loss)

    def _state(self) -> dict[str, Tensor]:
        """Parameters, and what the optimiser remembers of them."""
        held = {f"parameter {name}": parameter for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            held |= {f"{kind} {name}": moment for kind, moment in self.optimizer.state[parameter].items()}
        return held

    def _save(self, checkpoint: Checkpoint, step: int) -> None:
        since = torch.stack([self.loss, *self.hard_losses])  # of this process, since the last record
        own = self.accelerator.gather(torch.cat([self.clock.read().to(self.device), since])[None]).tolist()
        about = {"step": step, "own": own, "rows": self.rows, "recorded": self.recorded, "best": self.best_loss}
        checkpoint.save(self._state(), about)

    def _resume(self, found: Found, best: Found) -> int:
        """Put everything back as it was saved, and return the step, 0 where this training cannot go on from it."""
        found, best = _fitting(found, self._state()), _fitting(best, self.parameters)
        if found is None or (found[1]["best"] < math.inf and (best is None or best[1] > found[1]["best"])):
            return 0
        tensors, about = found
        with torch.no_grad():
            for name, tensor in self._state().items():
                tensor.copy_(tensors[name])
        seconds, joules, loss, *hard_losses = about["own"][self.accelerator.process_index]
        self.clock.set(torch.tensor([seconds, joules], dtype=torch.float64))
        self.loss.fill_(loss)
        self.hard_losses = list(torch.tensor(hard_losses, device=self.device))
        self.rows, self.recorded, self.best_loss = about["rows"], about["recorded"], best[1] if best else math.inf
        return about["step"]

    @torch.no_grad()
    def _take(self, best: Found) -> None:
        """The best parameters, which the first process has on its disk, in all processes."""
        for name, parameter in self.parameters.items():
            if best is not None:
                parameter.copy_(best[0][name])
            broadcast(parameter.detach())


def _fitting(found: Found, state: Mapping[str, Tensor]) -> Found:
    """What was found in a checkpoint, when it has the same tensors."""
    shapes, wanted = ({name: t.shape for name, t in each.items()} for each in (found[0] if found else {}, state))
    return found if shapes == wanted else None


def order_of(n_blocks: int, n_samples: int, seed: int) -> Tensor:
    """Indices of the blocks in training order: passes over all blocks, each in its own order."""
    generator = torch.Generator().manual_seed(seed)
    n_passes = -(-n_samples // n_blocks)
    return torch.cat([torch.randperm(n_blocks, generator=generator) for _ in range(n_passes)])[:n_samples]


def _shares(config: LLMTrainingConfig, n_processes: int) -> tuple[int, int]:
    """Blocks that go through the model at once in one process, and how often per step."""
    share, rest = divmod(config.batch_size, n_processes)
    n_rows = min(config.micro_batch_size, share)
    if rest or share % n_rows:
        raise ValueError(
            f"batch_size is {config.batch_size}; it must be a multiple of micro_batch_size, which is "
            f"{config.micro_batch_size}, times the number of processes, which is {n_processes}"
        )
    return n_rows, share // n_rows


def _adamw(parameters: Mapping[str, nn.Parameter], config: LLMTrainingConfig) -> torch.optim.AdamW:
    """Matrices decay, norms and biases do not; what it remembers is there from the start."""
    matrices, vectors = ([p for p in parameters.values() if (p.ndim > 1) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    for p in parameters.values():
        step = torch.zeros((), device=p.device)
        optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return optimizer
