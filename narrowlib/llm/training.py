"""Training of language models: recovery after pruning, distillation, and the group lasso.

On one device or, under ``torchrun``, on several; a run that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from narrowlib.llm.best import KeepBest
from narrowlib.llm.callbacks import Tell
from narrowlib.llm.compilation import compiled_layers
from narrowlib.llm.distillation import Distillation, as_teacher
from narrowlib.llm.settings import PAPER_GROUP_LASSO, PAPER_RECOVERY, LLMTrainingConfig
from narrowlib.llm.trainer import NarrowTrainer, TrainingArguments, checkpoints_in
from narrowlib.penalties import group_lasso_gradients_
from narrowlib.store.checkpoints import digest_of
from narrowlib.units import UnitGroup, check

COSTS = ("seconds", "joules")
N_TOLD_APART = 256  # blocks by which the checkpoints of one text are told from those of another


def recover(
    model: nn.Module,
    blocks: Any,
    config: LLMTrainingConfig = PAPER_RECOVERY,
    *,
    groups: Sequence[UnitGroup] = (),
    masks: Mapping[str, Tensor] | None = None,
    teacher: nn.Module | None = None,
    distillation: Distillation | None = None,
    on_record: Callable[[int], None] | None = None,
    held_out: Any = None,
    checkpoint: str | Path | None = None,
    keep_best: bool = False,
    tells_costs: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a model in place while what masks remove stays at zero; without masks, plain training or distillation.

    Parameters
    ----------
    model : PreTrainedModel
        On the device to train on; under ``torchrun`` each process takes its own.
    blocks : datasets.Dataset
        Token blocks of one length in the column ``input_ids``, see `narrowlib.data.tokens.code_blocks`; those of
        `narrowlib.llm.distillation.soft_targets` are a teacher.
    config : LLMTrainingConfig
    groups : sequence of UnitGroup
        Of the masks.
    masks : mapping of str to Tensor, bool, shape (n_units,), optional
        See `narrowlib.pruning.keep_masks`.
    teacher : PreTrainedModel, optional
        Distil from it.
    distillation : Distillation, optional
        Weights of that loss; the paper's by default.
    on_record : callable, optional
        Called with the number of steps done, before the first one and at every record; it may look at the model.
    held_out : datasets.Dataset, optional
        Blocks to read the loss on at every record, and before the first step.
    checkpoint : path, optional
        Folder to leave off in.  The same call, with the same model, masks, blocks and configuration, goes on from
        there; runs that differ keep out of each other's way.  What it holds of this run is removed at the end.
    keep_best : bool
        End with the parameters whose held-out loss was the lowest of all records, and not with the last ones.
    tells_costs : bool
        Add the columns ``seconds`` and ``joules``: what training took until then, before a kill too, without
        evaluation and, where it is compiled, without the first step of each process.  NaN where the device tells no
        energy, and in rows of the held-out loss.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        Columns ``step``, ``tokens`` (seen so far), ``split`` (``"train"`` or ``"held out"``) and ``loss`` in nats.  A
        loss on training blocks is the mean over the steps since the last record.  With a teacher it is that of
        `narrowlib.llm.distillation.Distillation`, and the split ``"train, hard"`` has the one without the teacher.

    Raises
    ------
    ValueError
        When a batch cannot be shared out evenly, blocks or masks do not fit the model, its parameters are not float32,
        or the best is to be kept without held-out blocks.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), section 5.
    """
    if keep_best and held_out is None:
        raise ValueError("keep_best is True and held_out is missing; what is best is told by held-out blocks")
    extras = {"teacher": teacher, "distillation": distillation}
    more = {"keeps_best": keep_best, "on_record": on_record}
    history = _train(model, blocks, config, groups, masks, None, held_out, checkpoint, progress, extras, **more)
    return _frame(history, config.batch_size * _block_length(blocks), COSTS if tells_costs else ())


def train_group_lasso(
    model: nn.Module,
    blocks: Any,
    config: LLMTrainingConfig = PAPER_GROUP_LASSO,
    *,
    groups: Sequence[UnitGroup],
    strength: float,
    masks: Mapping[str, Tensor] | None = None,
    held_out: Any = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Train a model in place under a group lasso on its units.

    .. math:: \min_\theta\ L(\theta) + \lambda \sum_u \lVert\theta_u\rVert_2

    The penalty's gradient is added in closed form, once per optimiser step and before gradients are clipped.

    Parameters
    ----------
    model, blocks, config, held_out, checkpoint, progress
        See `recover`.
    groups : sequence of UnitGroup
        Units to penalise: neurons in the paper, or residual dimensions.
    strength : float
        Lambda, at least 0; the paper's are 1e-4 to 1e-3.
    masks : mapping of str to Tensor, bool, shape (n_units,), optional
        Units of these groups to hold at zero.

    Returns
    -------
    DataFrame
        See `recover`; losses are without the penalty.

    Raises
    ------
    ValueError
        For a negative strength, no groups, or what `recover` refuses.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), section 5, Fig 5.
    """
    if not groups:
        raise ValueError("groups is empty; it must hold the units to penalise")
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength < math.inf:
        raise ValueError(f"strength is {strength!r}; it must be a number of at least 0")
    history = _train(model, blocks, config, groups, masks, strength, held_out, checkpoint, progress, {})
    return _frame(history, config.batch_size * _block_length(blocks))


def _train(
    model: nn.Module,
    blocks: Any,
    config: LLMTrainingConfig,
    groups: Sequence[UnitGroup],
    masks: Mapping[str, Tensor] | None,
    strength: float | None,
    held_out: Any,
    checkpoint: str | Path | None,
    progress: bool,
    extras: dict[str, Any],
    keeps_best: bool = False,
    on_record: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    parameters = dict(model.named_parameters())
    for group in groups:
        check(group, parameters)
    _check_masks(groups, masks)
    _check_precision(parameters)
    _block_length(blocks)
    if held_out is not None:
        _block_length(held_out, "held_out")
    blocks = as_teacher(blocks, extras.get("distillation"), extras.get("teacher"))
    penalty = None if not strength else partial(group_lasso_gradients_, groups, parameters, strength)
    with TemporaryDirectory() as nowhere:
        texts = [_sampled(each) for each in (blocks, held_out)]
        run = digest_of(config, texts, model, groups, masks, strength, extras, keeps_best)
        folder = Path(nowhere) if checkpoint is None else Path(checkpoint) / f"run-{run}"
        last = (checkpoints_in(folder) or [None])[-1]
        arguments = _arguments(config, model, folder, held_out, saves=checkpoint is not None, resumes=last is not None)
        with _left_as_it_was(model), compiled_layers(model, config.compiled) as compiled:
            trainer = NarrowTrainer(
                model, arguments, blocks, held_out=held_out, groups=groups, masks=masks, penalty=penalty,
                precision=config.precision, compiled=compiled, progress=progress, **extras,
            )  # fmt: skip
            if keeps_best:
                trainer.add_callback(KeepBest(model, folder / "best.safetensors"))
            if on_record is not None:
                trainer.add_callback(Tell(on_record))
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
            trainer.accelerator.wait_for_everyone()
        if arguments.should_save:
            shutil.rmtree(folder, ignore_errors=True)
    return trainer.state.log_history


def _arguments(
    config: LLMTrainingConfig, model: nn.Module, folder: Path, held_out: Any, *, saves: bool, resumes: bool
) -> TrainingArguments:
    device = next(model.parameters()).device
    is_one_of_several = torch.distributed.is_torchelastic_launched() or torch.distributed.is_initialized()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=config.n_steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.n_warmup,
        lr_scheduler_type="constant_with_warmup" if config.schedule == "constant" else config.schedule,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        optim="adamw_torch_fused",
        logging_strategy="steps",
        logging_steps=config.record_every,
        logging_nan_inf_filter=False,  # it reads every loss back from the device
        eval_strategy="no" if held_out is None else "steps",
        eval_steps=config.evaluate_every or config.record_every,
        eval_on_start=held_out is not None and not resumes,
        prediction_loss_only=True,
        remove_unused_columns=False,
        save_strategy="steps" if saves else "no",
        save_steps=config.checkpoint_every,
        report_to="none",
        disable_tqdm=True,  # the bar is narrowlib's
        use_cpu=device.type == "cpu",
        ddp_backend="gloo" if device.type == "cpu" and is_one_of_several else None,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=device.type == "cuda",
        accelerator_config={"non_blocking": device.type == "cuda"},
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs take several processes, not copies of the model
    share, rest = divmod(config.batch_size, arguments.world_size)
    micro = min(config.micro_batch_size, share)
    if rest or share % micro:
        raise ValueError(
            f"batch_size is {config.batch_size}; it must be a multiple of micro_batch_size, which is "
            f"{config.micro_batch_size}, times the number of processes, which is {arguments.world_size}"
        )
    arguments.per_device_train_batch_size = arguments.per_device_eval_batch_size = micro
    arguments.gradient_accumulation_steps = share // micro
    return arguments


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Mode and config of the model, and torch's random state, are those from before; gradients are gone."""
    was_training, use_cache = model.training, model.config.use_cache
    with torch.random.fork_rng():
        try:
            yield
        finally:
            vars(model).pop("_is_accelerate_prepared", None)
            model.train(was_training)
            model.zero_grad()
            model.config.use_cache = use_cache


def _frame(history: Sequence[Mapping[str, Any]], tokens_per_step: int, costs: Sequence[str] = ()) -> pd.DataFrame:
    names = {"loss": "train", "hard_loss": "train, hard", "eval_loss": "held out"}
    rows = {}
    for entry in history:
        more = [entry.get(cost, math.nan) for cost in costs]
        rows |= {(entry["step"], split): (entry[key], *more) for key, split in names.items() if key in entry}
    return pd.DataFrame(
        [(step, step * tokens_per_step, split, *values) for (step, split), values in rows.items()],
        columns=["step", "tokens", "split", "loss", *costs],
    )


def _block_length(blocks: Any, name: str = "blocks") -> int:
    if not len(blocks) or "input_ids" not in blocks[0]:
        raise ValueError(f"{name} is empty or has no column input_ids; it must hold token blocks of one length there")
    length = len(blocks[0]["input_ids"])
    if length < 2:
        raise ValueError(f"{name} holds blocks of {length} token; they must have a token and one to predict from it")
    return length


def _sampled(blocks: Any) -> list[Any]:
    """Number of blocks, and some hundreds of them, evenly spaced, that tell one text from another."""
    if blocks is None:
        return []
    places = {*range(0, len(blocks), max(1, len(blocks) // N_TOLD_APART)), len(blocks) - 1}
    return [len(blocks), [torch.as_tensor(blocks[place]["input_ids"]) for place in sorted(places)]]


def _check_precision(parameters: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"{name} of the model is {parameter.dtype}; it must be float32, or rounding loses small steps: "
                "load the model in float32, and set precision to 'bfloat16' for fast matrix products"
            )


def _check_masks(groups: Sequence[UnitGroup], masks: Mapping[str, Tensor] | None) -> None:
    names = {group.name for group in groups}
    if masks and set(masks) != names:
        raise ValueError(f"masks are of {sorted(masks)}; they must be of groups, which are {sorted(names)}")
