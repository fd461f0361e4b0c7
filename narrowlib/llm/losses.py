"""Losses of a language model: of the next token, per block of tokens, and per skill.

Token blocks are a data set with the columns ``input_ids`` and, where not every token counts, ``labels``: the ids again,
but ``narrowlib.data.chats.IGNORED`` for a token that no loss counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from narrowlib.data.chats import IGNORED
from narrowlib.devices import moved, tensor_cores
from narrowlib.llm.families import logits_from

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_AT_ONCE = 1_024  # tokens whose logits exist at a time: 0.2 GB of float32 for 50,000 words, 0.5 GB for 128,000


@contextmanager
def one_text_per_block() -> Iterator[None]:
    """Inside ``with``, transformers does not check at every forward pass whether a block holds packed sequences.

    None does here, and the look makes the host wait for the device.
    """
    from transformers import masking_utils

    looks = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = looks


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside ``with``, in TF32 on a GPU; the previous mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with one_text_per_block(), tensor_cores(next(model.parameters()).device):
            yield
    finally:
        model.train(was_training)


def rows_of(blocks: Sequence | Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Token ids of some blocks and their labels, which equal the ids if every token counts: (n, length) each."""
    if isinstance(blocks, Tensor):
        return blocks[start:stop], blocks[start:stop]
    rows = blocks[start:stop]
    ids, labels = (
        torch.as_tensor(np.asarray(rows[name], dtype=np.int64)) if name in rows else None
        for name in ("input_ids", "labels")
    )
    return ids, ids if labels is None else labels


def is_counted(labels: Tensor) -> Tensor:
    """Which tokens after the first a loss counts: (n, t) -> bool, (n, t - 1)."""
    return labels[:, 1:] != IGNORED


def tokens_counted(blocks: Sequence | Tensor) -> Tensor:
    """Tokens of every block that a loss counts, of those after its first: int64, (n_blocks,)."""
    if not len(blocks):
        raise ValueError("blocks is empty; there must be at least one block")
    if isinstance(blocks, Tensor) or "labels" not in blocks[0]:
        return torch.full((len(blocks),), rows_of(blocks, 0, 1)[0].shape[1] - 1)
    parts = (rows_of(blocks, start, start + ROWS_AT_ONCE)[1] for start in range(0, len(blocks), ROWS_AT_ONCE))
    return torch.cat([is_counted(labels).sum(1) for labels in parts])


def block_weights(blocks: Sequence | Tensor) -> Tensor:
    """Weight of every block in a mean over all tokens that count, 1 on average: float64, (n_blocks,).

    Raises
    ------
    ValueError
        When there is no block, or no token that counts.
    """
    counts = tokens_counted(blocks).double()
    if not counts.any():
        raise ValueError(f"labels of blocks are all {IGNORED}; at least one token must count")
    return counts / counts.mean()


def mean_of_counted(losses: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of the tokens that count, 0 where none does: losses of all but the first, (n, t - 1), (n, t) -> ()."""
    counts = is_counted(labels)
    return losses.where(counts, 0).sum() / counts.sum().clamp(min=1)


def next_token_loss(logits: Tensor, labels: Tensor, *, reduction: str = "mean") -> Tensor:
    """Cross entropy of the next token in nats, from float32 logits: (n, t, vocabulary), (n, t) -> ().

    Mean or sum over the tokens that count; ``narrowlib.data.chats.IGNORED`` in place of others.  The mean of none is 0.
    """
    logits = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return total if reduction == "sum" else total / is_counted(labels).sum().clamp(min=1)


@torch.no_grad()
def token_losses(
    model: PreTrainedModel, input_ids: Tensor, labels: Tensor | None = None, *, rows_at_once: int = ROWS_AT_ONCE
) -> Tensor:
    r"""Loss of every token given those before it, in nats.

    .. math:: L_{b,t} = -\log p(x_{b,t+1} \mid x_{b,1}, \dots, x_{b,t})

    The logits of all tokens are never held at once: the last layer is applied to ``rows_at_once`` tokens at a time.
    The softmax is taken in float32, whatever the model's precision.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model whose logits are its output embedding applied to its last hidden state, scaled or
        capped as `narrowlib.llm.families.logits_from` knows.
    input_ids : Tensor, integer, shape (batch, length)
        On any device; length at least 2.
    labels : Tensor, integer, shape (batch, length), optional
        The same, but ``narrowlib.data.chats.IGNORED`` for tokens that are not counted: their loss is 0.
    rows_at_once : int
        Bounds the memory for logits.

    Returns
    -------
    Tensor, float32, shape (batch, length - 1), on the device of the model

    Raises
    ------
    ValueError
        When ``input_ids`` has another shape, or ``rows_at_once`` is not positive.
    """
    if input_ids.ndim != 2 or input_ids.shape[1] < 2:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}; it must be (batch, length), length at least 2")
    if rows_at_once < 1:
        raise ValueError(f"rows_at_once is {rows_at_once}; it must be at least 1")
    ids = moved(input_ids.long(), model.device)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (batch, length - 1, width)
    targets = (ids if labels is None else moved(labels.long(), model.device))[:, 1:].flatten()
    rows = hidden.flatten(0, 1)
    head, finished = model.get_output_embeddings(), logits_from(model.config)
    losses = [
        F.cross_entropy(finished(head(some)).float(), following, reduction="none")  # logits (rows, vocabulary)
        for some, following in zip(rows.split(rows_at_once), targets.split(rows_at_once))
    ]
    return torch.cat(losses).view_as(ids[:, 1:])


def block_losses(
    model: PreTrainedModel,
    blocks: Sequence | Tensor,
    *,
    batch_size: int = 8,
    progress: bool = True,
    description: str = "",
) -> Tensor:
    """Mean loss of every block over its tokens that count, in nats per token; 0 where none does.

    A mean over all tokens takes `block_weights`, see `mean_loss`.

    Parameters
    ----------
    model : PreTrainedModel
        Evaluated without dropout and left in the mode it was in.
    blocks : datasets.Dataset with a column ``input_ids`` and maybe ``labels``, or Tensor of shape (n_blocks, length)
    batch_size : int
        Blocks per forward pass.
    progress : bool
        Show a progress bar.
    description : str
        Its label.

    Returns
    -------
    Tensor, float32, shape (n_blocks,), on the CPU

    Raises
    ------
    ValueError
        When there is no block, or ``batch_size`` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    if not len(blocks):
        raise ValueError("blocks is empty; there must be at least one block")
    losses = []
    with evaluating(model), tqdm(total=len(blocks), desc=description, unit="block", disable=not progress) as bar:
        for start in range(0, len(blocks), batch_size):
            ids, labels = rows_of(blocks, start, min(start + batch_size, len(blocks)))  # (batch, length)
            more = (ids.shape[1] - 1) / is_counted(labels).sum(1).clamp(min=1)
            losses.append(token_losses(model, ids, labels).mean(1) * moved(more, model.device))
            bar.update(len(ids))
    return torch.cat(losses).cpu()


def mean_loss(model: PreTrainedModel, blocks: Sequence | Tensor, **options: Any) -> float:
    """Mean loss over all tokens of some blocks that count, in nats; options and errors as in `block_losses`."""
    return (block_losses(model, blocks, **options) * block_weights(blocks).float()).mean().item()


def loss_per_skill(
    model: PreTrainedModel,
    blocks_by_skill: Mapping[str, Sequence | Tensor],
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Loss of a language model on blocks of each skill.

    .. math::
        L = \frac1n \sum_b w_b L_b, \qquad
        \text{standard error} = \frac{1}{\sqrt n} \sqrt{\frac{\sum_b w_b^2 (L_b - L)^2}{n - 1}}, \qquad
        \text{perplexity} = e^L

    with w_b the tokens of a block that count, over their mean: 1 where every token does.

    Parameters
    ----------
    model : PreTrainedModel
    blocks_by_skill : mapping of str to blocks
        As `block_losses` takes them; see `narrowlib.data.tokens.skill_blocks`.
    batch_size : int
        Blocks per forward pass.
    progress : bool
        Show progress bars.

    Returns
    -------
    DataFrame
        One row per skill: ``skill``; ``loss`` and ``standard_error`` over the n blocks, in nats per token (the error is
        not a number for a single block); ``perplexity``; ``n_blocks``; ``n_tokens`` that were predicted and counted.

    Raises
    ------
    ValueError
        When there is no skill, a skill has no block or no token that counts, or ``batch_size`` is not positive.
    """
    if not blocks_by_skill:
        raise ValueError("blocks_by_skill is empty; it must hold blocks of at least one skill")
    rows = []
    for skill, blocks in blocks_by_skill.items():
        losses = block_losses(model, blocks, batch_size=batch_size, progress=progress, description=skill)
        losses, weights = losses.double().numpy(), block_weights(blocks).numpy()
        loss, n = (weights * losses).mean(), len(losses)
        spread = np.square(weights * (losses - loss)).sum()
        rows.append(
            {
                "skill": skill,
                "loss": loss,
                "standard_error": np.sqrt(spread / (n - 1)) / np.sqrt(n) if n > 1 else np.nan,
                "perplexity": np.exp(loss),
                "n_blocks": n,
                "n_tokens": int(tokens_counted(blocks).sum()),
            }
        )
    return pd.DataFrame(rows)
