"""The loop that trains a language model: units stay removed, a penalty joins the gradient, a teacher the loss.

It stands on accelerate: one process or several, of which the first writes.  What a step draws at random depends on its
number alone, and a checkpoint holds everything else, so that a resumed training ends at the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from tqdm.auto import tqdm

from narrowlib.llm.checkpoints import Checkpoint
from narrowlib.llm.costs import joules_so_far
from narrowlib.llm.distillation import TOP_LOG_P, TOP_TOKENS, Distillation, top_of
from narrowlib.llm.scores import next_token_loss
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.pruning import apply_masks
from narrowlib.units import UnitGroup

_COLUMNS = {"input_ids": torch.int64, TOP_TOKENS: torch.int64, TOP_LOG_P: torch.float32}
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW remembers of a parameter
_SPENT = ("seconds", "joules")


class Loop:
    """One training of a causal language model on token blocks.

    Parameters
    ----------
    model : PreTrainedModel
        Trained in place.
    blocks : datasets.Dataset
        As `narrowlib.llm.distillation.as_teacher` returns them; with soft targets they are the teacher.
    config : LLMTrainingConfig
    held_out : datasets.Dataset, optional
        Blocks to evaluate on.
    groups, masks
        Units to hold at zero, see `narrowlib.pruning.apply_masks`.
    penalty : callable, optional
        Adds a penalty's gradient to the ``grad`` of the parameters: once per optimiser step, when the gradients of all
        its blocks and processes are summed up, and before they are clipped.
    teacher : PreTrainedModel, optional
    distillation : Distillation, optional
    compiled : callable, optional
        Compiles the losses, see `narrowlib.llm.compilation.compiled_layers`.
    on_record : callable, optional
        Called with the number of steps done, before the first one and at every record.
    progress : bool

    Raises
    ------
    ValueError
        When the processes cannot share a batch evenly.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Any,
        config: LLMTrainingConfig,
        *,
        held_out: Any = None,
        groups: Sequence[UnitGroup] = (),
        masks: Mapping[str, Tensor] | None = None,
        penalty: Callable[[], None] | None = None,
        teacher: nn.Module | None = None,
        distillation: Distillation | None = None,
        compiled: Callable[[Callable], Callable] | None = None,
        on_record: Callable[[int], None] | None = None,
        progress: bool = True,
    ) -> None:
        is_on_cpu = next(model.parameters()).device.type == "cpu"
        is_launched = torch.distributed.is_torchelastic_launched() or torch.distributed.is_initialized()
        # Without a launcher the model stays where it is, whatever device accelerate would choose.
        self.accelerator = Accelerator(
            mixed_precision="no", cpu=is_launched and is_on_cpu, device_placement=is_launched
        )
        self.n_rows, self.n_parts = self._shares(config)
        self.model, self.config, self.blocks = model, config, blocks
        self.held_out = held_out and held_out.with_format("numpy", columns=["input_ids"])
        self.replica = self.accelerator.prepare_model(model)  # averages gradients over processes
        self.parameters = dict(model.named_parameters())
        self.device = next(model.parameters()).device
        self.groups, self.penalty, self.on_record, self.progress = groups, penalty, on_record, progress
        self.masks = {name: mask.to(self.device) for name, mask in (masks or {}).items()}
        distillation = distillation or Distillation()
        self.teacher, self.hard_weight = (
            None if teacher is None else teacher.to(self.device).eval(),
            distillation.hard_weight,
        )
        losses = (next_token_loss, distillation.soft_loss, distillation.top_loss)
        self._hard_loss, self._soft_loss, self._top_loss = map(compiled, losses) if compiled else losses
        self.optimizer = _adamw(self.parameters, config)
        self.order = order_of(len(blocks), config.n_steps * config.batch_size, config.seed)
        self.rows: list[dict[str, Any]] = []  # the records
        self.recorded = 0  # step of the last record of the training loss
        self.loss = torch.zeros((), device=self.device)  # sum over the steps since then
        self.hard: list[Tensor] = []  # losses without the teacher of each part of these steps
        self.best_loss = math.inf
        self.clock = Clock(self.device)

    def run(self, checkpoint: Checkpoint, best: Checkpoint | None, *key: Any) -> list[dict[str, Any]]:
        """Train, from where a checkpoint of the same key left off.

        Parameters
        ----------
        checkpoint : Checkpoint
            Removed at the end.
        best : Checkpoint, optional
            Keeps the parameters whose held-out loss was the lowest; the model ends with them.
        *key : Any
            Everything that the training depends on.

        Returns
        -------
        list of dict
            ``step``, ``split`` and ``loss`` of every record; of the training loss also ``seconds`` and ``joules``.
        """
        config, is_first = self.config, self.accelerator.is_main_process
        key += (self.device.type, self.accelerator.num_processes)
        start = self._resume(checkpoint.resume(*key), best and best.resume(*key))
        self._hold()
        self._tell(start)
        if self.held_out is not None and not start:
            self._evaluate(0, best)
        hidden = not (self.progress and is_first)
        with tqdm(total=config.n_steps, initial=start, desc="train", unit="step", disable=hidden) as bar:
            for step in range(start, config.n_steps):
                self._step(step)
                if config.compiled and step == start:
                    float(self.loss)  # the device is done; compilation is not counted
                    self.clock.restart()
                done, is_last = step + 1, step + 1 == config.n_steps
                bar.update()
                if is_last or done % config.record_every == 0:
                    bar.set_postfix(loss=f"{self._record(done):.3f}")
                if self.held_out is not None and (
                    is_last or done % (config.evaluate_every or config.record_every) == 0
                ):
                    self._evaluate(done, best)
                if not is_last and done % config.checkpoint_every == 0:
                    self._save(checkpoint, done)
        if best is not None and self.best_loss < math.inf:
            self._take(best.resume(*key))
        self.accelerator.wait_for_everyone()
        for kept in (checkpoint, best):
            if kept is not None:
                kept.remove()
        return self.rows

    def _shares(self, config: LLMTrainingConfig) -> tuple[int, int]:
        """Blocks that go through the model at once in this process, and how often per step."""
        n_processes = self.accelerator.num_processes
        share, rest = divmod(config.batch_size, n_processes)
        n_rows = min(config.micro_batch_size, share)
        if rest or share % n_rows:
            raise ValueError(
                f"batch_size is {config.batch_size}; it must be a multiple of micro_batch_size, which is "
                f"{config.micro_batch_size}, times the number of processes, which is {n_processes}"
            )
        return n_rows, share // n_rows

    def _step(self, step: int) -> None:
        """One step of the optimiser; nothing in it waits for the device."""
        config, rank, n_processes = self.config, self.accelerator.process_index, self.accelerator.num_processes
        torch.manual_seed(((config.seed * 1_000_003 + step) * 1009 + rank) % 2**63)
        for part in range(self.n_parts):
            first = ((step * self.n_parts + part) * n_processes + rank) * self.n_rows
            batch = self._batch(self.blocks, self.order[first : first + self.n_rows].tolist())
            is_last = part == self.n_parts - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.replica):
                loss = self._training_loss(batch) / self.n_parts
                self.accelerator.backward(loss)
            self.loss += loss.detach()
        if self.penalty is not None:
            self.penalty()
        if config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, config)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._hold()

    def _batch(self, blocks: Any, places: Sequence[int]) -> dict[str, Tensor]:
        rows = blocks[places]
        batch = {name: torch.tensor(rows[name], dtype=dtype) for name, dtype in _COLUMNS.items() if name in rows}
        if self.device.type == "cuda":
            batch = {name: values.pin_memory() for name, values in batch.items()}
        return {name: values.to(self.device, non_blocking=True) for name, values in batch.items()}

    def _logits(self, model: nn.Module, ids: Tensor) -> Tensor:
        """(n, t) -> (n, t, vocabulary), in the precision of matrix products."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            return model(input_ids=ids, use_cache=False).logits

    def _training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Cross entropy of the next token, with a teacher the distillation loss."""
        ids = batch["input_ids"]
        logits = self._logits(self.replica, ids)
        hard = self._hard_loss(logits, ids)
        if TOP_TOKENS in batch:
            soft = self._top_loss(logits, *top_of(batch))
        elif self.teacher is not None:
            with torch.no_grad():
                taught = self._logits(self.teacher, ids)
            soft = self._soft_loss(logits, taught)
        else:
            return hard
        self.hard.append(hard.detach())
        return self.hard_weight * hard + (1 - self.hard_weight) * soft

    def _hold(self) -> None:
        if self.masks:
            apply_masks(self.groups, self.parameters, self.masks)

    def _record(self, step: int) -> float:
        """The mean training loss since the last record, and what training took."""
        reduced = self.accelerator.reduce
        losses = {"train": float(reduced(self.loss, "mean")) / (step - self.recorded)}
        if self.hard:
            losses["train, hard"] = float(reduced(torch.stack(self.hard).mean(), "mean"))
        spent = torch.tensor(self.clock.read(), dtype=torch.float64, device=self.device)
        costs = dict(zip(_SPENT, (float(spent[0]), float(reduced(spent[1], "sum"))), strict=True))
        self.rows += [{"step": step, "split": split, "loss": loss, **costs} for split, loss in losses.items()]
        self.recorded, self.hard = step, []
        self.loss.zero_()
        self._tell(step)
        return losses["train"]

    def _tell(self, step: int) -> None:
        if self.on_record is not None:
            with self.clock.stopped():
                self.on_record(step)
        self.replica.train()

    @torch.no_grad()
    def _evaluate(self, step: int, best: Checkpoint | None) -> None:
        """The mean loss of the held-out blocks, each counted once however many processes share them."""
        with self.clock.stopped():
            self.model.eval()
            total, n_blocks = torch.zeros((), dtype=torch.float64, device=self.device), len(self.held_out)
            n_at_once = self.n_rows * self.accelerator.num_processes
            for start in range(self.n_rows * self.accelerator.process_index, n_blocks, n_at_once):
                places = range(start, min(start + self.n_rows, n_blocks))
                ids = self._batch(self.held_out, places)["input_ids"]
                total += len(places) * self._hard_loss(self._logits(self.model, ids), ids).double()
            loss = float(self.accelerator.reduce(total, "sum")) / n_blocks
            self.rows.append({"step": step, "split": "held out", "loss": loss})
            if best is not None and loss < self.best_loss:
                self.best_loss = loss
                best.save(self.parameters, loss)
            self.replica.train()

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters, and what the optimiser remembers of them."""
        state = self.optimizer.state
        moments = {f"{moment}/{name}": state[p][moment] for name, p in self.parameters.items() for moment in _MOMENTS}
        return {**{f"parameter/{name}": p for name, p in self.parameters.items()}, **moments}

    def _save(self, checkpoint: Checkpoint, step: int) -> None:
        losses = torch.stack([self.loss, *self.hard]).double()
        own = torch.cat([torch.tensor(self.clock.read(), dtype=torch.float64, device=self.device), losses])
        own = self.accelerator.gather(own[None])  # (processes, 3 + losses)
        about = {"step": step, "rows": self.rows, "recorded": self.recorded, "best": self.best_loss}
        checkpoint.save({**self._tensors(), "own": own}, about)

    def _resume(self, found: tuple[dict[str, Tensor], Any] | None, best: tuple[dict[str, Tensor], Any] | None) -> int:
        """Put everything back as it was saved; the step to go on from, 0 when what was found is not of this run."""
        if found is None:
            return 0
        tensors, about = found
        own = tensors.pop("own", torch.empty(0))
        shapes = {f"parameter/{name}": p.shape for name, p in self.parameters.items()}
        for moment in _MOMENTS:
            shapes |= {f"{moment}/{name}": p.shape if moment != "step" else () for name, p in self.parameters.items()}
        if {name: tensor.shape for name, tensor in tensors.items()} != shapes or len(
            own
        ) <= self.accelerator.process_index:
            return 0
        if about["best"] < math.inf and (best is None or best[1] > about["best"]):
            return 0  # the best parameters are gone
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter/{name}"])
                moments = {moment: tensors[f"{moment}/{name}"].to(self.device) for moment in _MOMENTS}
                self.optimizer.state[parameter] = moments
        self.rows, self.recorded, self.best_loss = (
            about["rows"],
            about["recorded"],
            min(about["best"], best[1]) if best else math.inf,
        )
        *spent, loss = own[self.accelerator.process_index, :3].tolist()
        self.clock = Clock(self.device, spent)
        self.loss.fill_(loss)
        self.hard = list(own[self.accelerator.process_index, 3:].float().to(self.device))
        return about["step"]

    def _take(self, best: tuple[dict[str, Tensor], Any] | None) -> None:
        """Give the model the best parameters, which the first process has on its disk."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if self.accelerator.is_main_process:
                    parameter.copy_(best[0][name])
                broadcast(parameter.detach())


class Clock:
    """Seconds and joules that training took, without the times in which it is stopped."""

    def __init__(self, device: torch.device, earlier: Sequence[float] = (0.0, 0.0)) -> None:
        self.device, self.earlier = device, tuple(earlier)
        self.restart()

    def restart(self) -> None:
        """Forget what came after the times before."""
        self._set(self.earlier)

    def read(self) -> tuple[float, float]:
        """Seconds, and joules or NaN."""
        return tuple(
            spent + now - began for spent, now, began in zip(self._spent, self._now(), self._began, strict=True)
        )

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens within is not counted."""
        before = self.read()
        yield
        self._set(before)

    def _set(self, spent: tuple[float, ...]) -> None:
        self._spent, self._began = spent, self._now()

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), joules_so_far(self.device)


def learning_rate_at(step: int, config: LLMTrainingConfig) -> float:
    """Rises from 0 over the warmup, then stays, or falls to 0 at the end along a line or a cosine."""
    if step < config.n_warmup:
        return config.learning_rate * (step / config.n_warmup)
    n_left = max(1, config.n_steps - config.n_warmup)
    falling = {
        "linear": max(0.0, (config.n_steps - step) / n_left),
        "cosine": max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((step - config.n_warmup) / n_left)))),
        "constant": 1.0,
    }
    return config.learning_rate * falling[config.schedule]


def order_of(n_blocks: int, n_samples: int, seed: int) -> Tensor:
    """Places of blocks in the order in which they are taken: passes over all, each in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    passes = [torch.randperm(n_blocks, generator=generator) for _ in range(-(-n_samples // n_blocks))]
    return torch.cat(passes)[:n_samples]


def _adamw(parameters: Mapping[str, Tensor], config: LLMTrainingConfig) -> torch.optim.AdamW:
    """Norms and biases, which are vectors, do not decay."""
    groups = [
        {"params": [p for p in parameters.values() if (p.ndim > 1) == decays], "weight_decay": decay}
        for decays, decay in ((True, config.weight_decay), (False, 0.0))
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.learning_rate, fused=True)
