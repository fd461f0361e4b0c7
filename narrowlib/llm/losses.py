"""Losses of a language model: of the next token, per block of tokens, and per skill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from narrowlib.llm.families import logits_from

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_AT_ONCE = 1_024  # tokens whose logits exist at a time: 0.2 GB of float32 for 50,000 words, 0.5 GB for 128,000


@contextmanager
def one_text_per_block() -> Iterator[None]:
    """Transformers does not look, at every forward, whether a block holds several packed sequences.

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
    """Evaluation mode inside ``with``, the mode from before afterwards."""
    was_training = model.training
    model.eval()
    try:
        with one_text_per_block():
            yield
    finally:
        model.train(was_training)


def next_token_loss(logits: Tensor, ids: Tensor, *, reduction: str = "mean") -> Tensor:
    """Cross entropy of the next token in nats, from float32 logits, mean or sum: (n, t, vocabulary), (n, t) -> ()."""
    logits = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def token_losses(model: PreTrainedModel, input_ids: Tensor, *, rows_at_once: int = ROWS_AT_ONCE) -> Tensor:
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
    ids = input_ids.to(device=model.device, dtype=torch.long)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (batch, length - 1, width)
    rows, targets = hidden.flatten(0, 1), ids[:, 1:].flatten()
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
    """Mean loss of every block, in nats per token.

    Parameters
    ----------
    model : PreTrainedModel
        Evaluated without dropout and left in the mode it was in.
    blocks : datasets.Dataset with a column ``input_ids``, or Tensor of shape (n_blocks, length)
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
            ids = _rows(blocks, start, min(start + batch_size, len(blocks)))  # (batch, length)
            losses.append(token_losses(model, ids).mean(1))
            bar.update(len(ids))
    return torch.cat(losses).cpu()


def loss_per_skill(
    model: PreTrainedModel,
    blocks_by_skill: Mapping[str, Sequence | Tensor],
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Loss of a language model on blocks of each skill.

    .. math::
        L = \frac1n \sum_b L_b, \qquad
        \text{standard error} = \frac{1}{\sqrt n} \sqrt{\frac{\sum_b (L_b - L)^2}{n - 1}}, \qquad
        \text{perplexity} = e^L

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
        not a number for a single block); ``perplexity``; ``n_blocks``; ``n_tokens`` that were predicted.

    Raises
    ------
    ValueError
        When there is no skill, a skill has no block, or ``batch_size`` is not positive.
    """
    if not blocks_by_skill:
        raise ValueError("blocks_by_skill is empty; it must hold blocks of at least one skill")
    rows = []
    for skill, blocks in blocks_by_skill.items():
        losses = block_losses(model, blocks, batch_size=batch_size, progress=progress, description=skill)
        losses = losses.double().numpy()
        loss, n = losses.mean(), len(losses)
        rows.append(
            {
                "skill": skill,
                "loss": loss,
                "standard_error": losses.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan,
                "perplexity": np.exp(loss),
                "n_blocks": n,
                "n_tokens": n * (_rows(blocks, 0, 1).shape[1] - 1),
            }
        )
    return pd.DataFrame(rows)


def _rows(blocks: Sequence | Tensor, start: int, stop: int) -> Tensor:
    if isinstance(blocks, Tensor):
        return blocks[start:stop]
    return torch.as_tensor(np.asarray(blocks[start:stop]["input_ids"], dtype=np.int64))
