r"""Distillation of a language model: the loss, and a teacher's predictions stored for many students.

Of the teacher's probabilities of the next token only the largest are kept, with the temperature already applied; all
other tokens count as one outcome, which gets the rest of the probability.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from narrowlib.devices import is_bfloat16, moved
from narrowlib.llm.losses import mean_of_counted, one_text_per_block

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

TOP_TOKENS, TOP_LOG_P, TEMPERATURE = "teacher_tokens", "teacher_log_p", "teacher_temperature"
_LEAST = 1e-6  # probability of the rest: below it rounding of the kept ones decides


@dataclass(frozen=True)
class Distillation:
    r"""Weights of a distillation loss.

    .. math:: L = w\, L_\text{hard} + (1 - w)\, T^2\, \mathrm{KL}(p_T^\text{teacher} \,\Vert\, p_T^\text{student})

    Parameters
    ----------
    temperature : float
        T, positive.
    hard_weight : float
        w, from 0 to 1, of the cross entropy with the next token.

    Notes
    -----
    Source: Hinton, Vinyals and Dean (2015); the values are those of Michaud, Parker-Sartori and Tegmark (2025).
    """

    temperature: float = 2.0
    hard_weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature!r}; it must be a positive number")
        if not 0 <= self.hard_weight <= 1:
            raise ValueError(f"hard_weight is {self.hard_weight!r}; it must be a number from 0 to 1")

    def soft_loss(self, logits: Tensor, teacher_logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean divergence over all predicted tokens, or those that labels count, times T squared.

        Shapes (n, t, vocabulary) twice, (n, t) -> ().
        """
        student, teacher = (
            F.log_softmax(each[:, :-1].float().flatten(0, 1) / self.temperature, dim=-1)
            for each in (logits, teacher_logits)
        )
        if labels is None:
            return self.temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
        return self.temperature**2 * mean_of_counted(divergence.view_as(labels[:, 1:]), labels)

    def top_loss(self, logits: Tensor, tokens: Tensor, log_p: Tensor, labels: Tensor | None = None) -> Tensor:
        r"""The same from the teacher's largest probabilities, with all other tokens as one outcome.

        .. math:: T^2 \Big( \sum_{v \in \text{top}} p_v \ln\frac{p_v}{q_v} + p_\text{rest} \ln\frac{p_\text{rest}}{q_\text{rest}} \Big)

        At most the divergence of the whole distributions, and equal to it when all tokens are kept.

        Parameters
        ----------
        logits : Tensor, shape (n, t, vocabulary)
            Of the student.
        tokens, log_p : Tensor, shape (n, t - 1, n_kept)
            See `soft_targets`.
        labels : Tensor, shape (n, t), optional
            Of the tokens that count; without it all do.

        Returns
        -------
        Tensor, float32, shape ()
        """  # noqa: E501 (a formula)
        scaled = logits[:, :-1].float() / self.temperature  # (n, t - 1, vocabulary)
        log_q = scaled.gather(-1, tokens) - scaled.logsumexp(-1, keepdim=True)  # (n, t - 1, n_kept)
        log_p = log_p.float()
        p = log_p.exp()
        rest_p, rest_q = ((1 - each.sum(-1)).clamp(min=_LEAST) for each in (p, log_q.exp()))
        divergence = (p * (log_p - log_q)).sum(-1) + rest_p * (rest_p.log() - rest_q.log())
        mean = divergence.mean() if labels is None else mean_of_counted(divergence, labels)
        return self.temperature**2 * mean


def soft_targets(
    blocks: Dataset,
    teacher: nn.Module,
    *,
    temperature: float = 2.0,
    n_kept: int = 32,
    precision: str = "float32",
    batch_size: int = 4,
    path: str | Path | None = None,
    progress: bool = True,
) -> Dataset:
    """Blocks with a teacher's predictions for each of their tokens, for any number of students of the same blocks.

    Parameters
    ----------
    blocks : datasets.Dataset
        Token blocks of one length in the column ``input_ids``, and ``labels`` where not every token counts.
    teacher : PreTrainedModel
        Runs on its device and in the mode it is in.
    temperature : float
        T, positive.
    n_kept : int
        Largest probabilities kept per token; 6 bytes each.
    precision : {"auto", "float32", "bfloat16"}
        Of the teacher's matrix products.
    batch_size : int
        Blocks at once; logits of so many are in memory.
    path : path, optional
        A file to write to, from which the result is read as it is needed; in memory without it.
    progress : bool
        Show a progress bar.

    Returns
    -------
    datasets.Dataset
        The columns ``input_ids`` and, where it is there, ``labels``; and of every token but the last the ``n_kept``
        likeliest next tokens (``teacher_tokens``) and the logarithms of their probabilities (``teacher_log_p``,
        float16), one after the other; beside them ``teacher_temperature``.

    Raises
    ------
    ValueError
        When the temperature is not positive, or more tokens are to be kept than the vocabulary has.

    Notes
    -----
    Source: keeping the top of a teacher's distribution is common practice for large vocabularies; the one outcome for
    all others makes what is left a divergence again.
    """
    import pyarrow as pa
    from datasets import Dataset

    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature!r}; it must be a positive number")
    if not 1 <= n_kept <= teacher.config.vocab_size:
        raise ValueError(f"n_kept is {n_kept}; it must be from 1 to the vocabulary's {teacher.config.vocab_size}")
    schema = _schema(len(blocks[0]["input_ids"]), n_kept, _text_columns(blocks))
    with tqdm(total=len(blocks), desc="teacher", unit="block", disable=not progress) as bar:
        batches = _batches(
            blocks, teacher, temperature, n_kept, is_bfloat16(precision, teacher.device), batch_size, schema, bar
        )
        if path is None:
            return Dataset(pa.Table.from_batches(batches, schema))
        with Path(path).open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    return Dataset.from_file(str(path))


def as_teacher(blocks: Dataset, distillation: Distillation | None = None, teacher: nn.Module | None = None) -> Dataset:
    """Blocks as training takes them, as arrays; soft targets only when they and the loss belong together.

    Raises
    ------
    ValueError
        When blocks hold soft targets of another temperature than the loss has, or there is a teacher as well.
    """
    if TEMPERATURE not in blocks.column_names:
        return as_arrays(blocks)
    if teacher is not None:
        raise ValueError("blocks hold soft targets and a teacher is given; only one of them is allowed")
    temperature, asked = float(blocks[0][TEMPERATURE]), (distillation or Distillation()).temperature
    if not math.isclose(temperature, asked, rel_tol=1e-6):
        raise ValueError(f"distillation has the temperature {asked}; it must be that of the blocks, {temperature:g}")
    return as_arrays(blocks, TOP_TOKENS, TOP_LOG_P)


def as_arrays(blocks: Dataset, *more: str) -> Dataset:
    """Blocks whose rows are arrays, with their token ids, labels where they are there, and more columns."""
    return blocks.with_format("numpy", columns=[*_text_columns(blocks), *more])


def _text_columns(blocks: Dataset) -> list[str]:
    return [name for name in ("input_ids", "labels") if name in blocks.column_names]


def _schema(length: int, n_kept: int, text_columns: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    n_values = (length - 1) * n_kept
    lists = {name: (pa.int32(), length) for name in text_columns}
    lists |= {TOP_TOKENS: (pa.int32(), n_values), TOP_LOG_P: (pa.float16(), n_values)}
    return pa.schema({name: pa.list_(*kind) for name, kind in lists.items()} | {TEMPERATURE: pa.float32()})


@torch.no_grad()
def _batches(
    blocks: Dataset,
    teacher: nn.Module,
    temperature: float,
    n_kept: int,
    is_bfloat16: bool,
    batch_size: int,
    schema: pa.Schema,
    bar: tqdm,
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    device = teacher.device
    for start in range(0, len(blocks), batch_size):
        rows = blocks[start : start + batch_size]
        text = [torch.tensor(rows[name]) for name in _text_columns(blocks)]
        ids = moved(text[0], device)  # (n, t)
        with one_text_per_block(), torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16):
            logits = teacher(input_ids=ids, use_cache=False).logits[:, :-1]
        scaled = logits.float() / temperature  # (n, t - 1, vocabulary)
        top = scaled.topk(n_kept, dim=-1)
        log_p = top.values - scaled.logsumexp(-1, keepdim=True)
        tokens, log_p = torch.stack([top.indices.double(), log_p.double()]).cpu()  # one look at the device
        values = [*(each.int() for each in text), tokens.int(), log_p.half()]
        columns = [
            pa.FixedSizeListArray.from_arrays(pa.array(each.numpy().ravel()), each[0].numel()) for each in values
        ]
        yield pa.record_batch([*columns, pa.array([temperature] * len(ids), pa.float32())], schema=schema)
        bar.update(len(ids))
