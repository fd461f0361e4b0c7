"""Training of language models: recovery after pruning, distillation, and the group lasso.

On one device or, under ``torchrun``, on several; a run that was killed goes on from its last checkpoint.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from narrowlib.llm.compilation import compiled_layers, written_attention
from narrowlib.llm.distillation import Distillation, as_teacher
from narrowlib.llm.loop import Loop
from narrowlib.llm.losses import one_text_per_block
from narrowlib.llm.settings import PAPER_GROUP_LASSO, PAPER_RECOVERY, LLMTrainingConfig
from narrowlib.store.digests import digest_of
from narrowlib.store.unfinished import Checkpoint, check_loss, not_finite
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
    """Train a model in place while masked units stay zero; without masks, plain training or distillation.

    Parameters
    ----------
    model : PreTrainedModel
        On the device to train on; under ``torchrun`` each process takes its own.
    blocks : datasets.Dataset
        Token blocks of one length in the column ``input_ids``, see `narrowlib.data.tokens.skill_blocks`; those of
        `narrowlib.llm.distillation.soft_targets` are a teacher.  Where there is a column ``labels``, losses are means
        over the tokens that count, see `narrowlib.llm.losses`, in a step over those of all its blocks.
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
        the best is to be kept without held-out blocks, or no token of the blocks counts.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), section 5.
    """
    if keep_best and held_out is None:
        raise ValueError(
            "keep_best is True and held_out is missing; it must be given, since the lowest held-out loss is the best"
        )
    how = {"teacher": teacher, "distillation": distillation, "on_record": on_record}
    how |= {"groups": groups, "masks": masks, "held_out": held_out, "progress": progress}
    return _trained(model, blocks, config, checkpoint, keep_best, COSTS if tells_costs else (), **how)


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
    how = {"groups": groups, "masks": masks, "strength": strength, "held_out": held_out, "progress": progress}
    return _trained(model, blocks, config, checkpoint, False, (), **how)


def _trained(
    model: nn.Module,
    blocks: Any,
    config: LLMTrainingConfig,
    checkpoint: str | Path | None,
    keep_best: bool,
    costs: Sequence[str],
    **how: Any,
) -> pd.DataFrame:
    """Check everything, train, and make the records a table; ``how`` is what `Loop` takes."""
    parameters, names = dict(model.named_parameters()), {group.name for group in how["groups"]}
    for group in how["groups"]:
        check(group, parameters)
    if how["masks"] and set(how["masks"]) != names:
        raise ValueError(f"masks are of {sorted(how['masks'])}; they must be of the groups {sorted(names)}")
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"{name} of the model is {parameter.dtype}; it must be float32, or rounding loses small steps: "
                "load the model in float32, and set precision to 'bfloat16' for fast matrix products"
            )
    held_out, distillation, teacher = (how.get(name) for name in ("held_out", "distillation", "teacher"))
    texts = [_sampled(blocks), None if held_out is None else _sampled(held_out, "held_out")]
    told = {name: value for name, value in how.items() if name not in ("held_out", "on_record", "progress")}
    key = digest_of(model, config, texts, keep_best, told)
    path = Path(checkpoint, f"{key}.safetensors") if checkpoint else None
    with ExitStack() as stack:
        nowhere = stack.enter_context(TemporaryDirectory())
        stack.enter_context(_left_as_it_was(model))
        if config.compiled:
            stack.enter_context(written_attention(model, len(blocks[0]["input_ids"]), config.precision))
        compiled = stack.enter_context(compiled_layers(model, config.compiled))
        loop = Loop(model, as_teacher(blocks, distillation, teacher), config, compiled, **how)
        best = Checkpoint(Path(checkpoint or nowhere, f"{key}-best.safetensors")) if keep_best else None
        frame = pd.DataFrame(loop.run(Checkpoint(path), best, key), columns=["step", "split", "loss", *costs])
    if not_finite(parameters):  # after the last step, whose loss nobody has read
        check_loss(math.nan, config.n_steps, config.learning_rate)
    frame.insert(1, "tokens", frame["step"] * config.batch_size * len(blocks[0]["input_ids"]))
    return frame


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Mode of the model and torch's random state are those from before; gradients are gone."""
    was_training, device = model.training, next(model.parameters()).device
    with one_text_per_block(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            model.train(was_training)
            model.zero_grad()


def _sampled(blocks: Any, name: str = "blocks") -> list[Any]:
    """Number of blocks, and some hundreds of them, evenly spaced, that tell one text from another."""
    if not len(blocks) or "input_ids" not in blocks[0]:
        raise ValueError(f"{name} is empty or has no column input_ids; it must hold token blocks of equal length in it")
    length = len(blocks[0]["input_ids"])
    if length < 2:
        raise ValueError(f"{name} holds blocks of {length} token; they must have at least 2")
    places = sorted({*range(0, len(blocks), max(1, len(blocks) // N_TOLD_APART)), len(blocks) - 1})
    rows = blocks[places]
    return [len(blocks), *(list(torch.as_tensor(rows[column])) for column in ("input_ids", "labels") if column in rows)]
