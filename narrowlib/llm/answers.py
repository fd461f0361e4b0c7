"""Answers of a language model: cloze and four-choice questions, scored as in lm-eval with less computation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from narrowlib.data.facts import Fact
from narrowlib.devices import moved
from narrowlib.llm.losses import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def answer_facts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    some: Sequence[Fact],
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> pd.DataFrame:
    r"""Whether a model completes each fact, and whether it chooses it among four.

    With the loss of a choice c given the prompt, :math:`L_c = -\sum_t \log p(c_t \mid \text{prompt}, c_{<t})`:

    - *cloze* is right when every token of the answer is the likeliest one where it stands,
    - *choice* is right when the answer has the lowest :math:`L_c` of the four, not divided by its length.

    These are ``acc`` of lm-eval's output types ``loglikelihood`` and ``multiple_choice``.  A prompt is computed once
    and its choices go on from there, prompts of equal length together.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model; evaluated without dropout and left in the mode it was in.
    tokenizer : PreTrainedTokenizerBase
        What it adds to a text by itself, such as a token for its start, stands before the prompt.
    some : sequence of Fact
    batch_size : int
        Facts per forward pass.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row per fact, in their order: ``category``, ``half``, ``prompt``, ``cloze`` and ``choice`` (bool),
        ``loss`` of the answer in nats, summed over its tokens.

    Raises
    ------
    ValueError
        When there is no fact, or ``batch_size`` is not positive.

    Notes
    -----
    Source: Gao et al. (2024), *The Language Model Evaluation Harness*.
    """
    if not some:
        raise ValueError("some is empty; it must hold at least one fact")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    rows: dict[int, dict] = {}
    with evaluating(model), tqdm(total=len(some), desc="answer", unit="fact", disable=not progress) as bar:
        for batch in _batches([_Question(tokenizer, fact) for fact in some], batch_size):
            for (number, question), outcome in zip(batch, _outcomes(model, [each for _, each in batch])):
                fact = question.fact
                rows[number] = {"category": fact.category, "half": fact.half, "prompt": fact.prompt, **outcome}
            bar.update(len(batch))
    return pd.DataFrame([rows[number] for number in range(len(some))])


class _Question:
    """Tokens of a fact: what all choices begin with, and how each goes on."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, fact: Fact) -> None:
        self.fact = fact
        n_prompt = len(tokenizer(fact.prompt)["input_ids"])
        whole = [tokenizer(f"{fact.prompt} {choice}")["input_ids"] for choice in fact.choices]
        n_equal = len(list(takewhile(lambda tokens: len(set(tokens)) == 1, zip(*whole))))
        n_shared = min(n_prompt, n_equal)
        self.shared = whole[0][:n_shared]
        self.rest = [ids[n_shared:] for ids in whole]
        self.n_unscored = n_prompt - n_shared  # tokens of the prompt that are split in another way before an answer


def _batches(questions: Sequence[_Question], batch_size: int) -> Iterator[list[tuple[int, _Question]]]:
    """Questions with their numbers, those of a batch with shared parts of one length and answers of similar ones."""

    def lengths(numbered: tuple[int, _Question]) -> tuple[int, int]:
        return len(numbered[1].shared), max(map(len, numbered[1].rest))

    for _, group in groupby(sorted(enumerate(questions), key=lengths), key=lambda numbered: lengths(numbered)[0]):
        equal = list(group)
        for start in range(0, len(equal), batch_size):
            yield equal[start : start + batch_size]


def _outcomes(model: PreTrainedModel, questions: Sequence[_Question]) -> Iterator[dict]:
    n_choices = len(questions[0].rest)
    rests = [rest for question in questions for rest in question.rest]  # (facts * choices)
    losses, greedy = _read(model, torch.tensor([question.shared for question in questions]), rests)
    for number, question in enumerate(questions):
        mine = slice(number * n_choices, (number + 1) * n_choices)
        loss = losses[mine, question.n_unscored :].sum(1)
        right = question.fact.choices.index(question.fact.answer)
        yield {
            "cloze": bool(greedy[mine][right, question.n_unscored :].all()),
            "choice": int(loss.argmin()) == right,
            "loss": float(loss[right]),
        }


def _read(model: PreTrainedModel, shared: Tensor, rests: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Loss of every token of every rest, and whether it is the likeliest: (facts, length) -> (rests, longest) twice.

    Where a rest has no more tokens, the loss is 0 and the answer True.
    """
    longest, n_choices = max(map(len, rests)), len(rests) // len(shared)
    targets = moved(torch.tensor([rest + [0] * (longest - len(rest)) for rest in rests]), model.device)
    is_there = torch.tensor([[place < len(rest) for place in range(longest)] for rest in rests])
    losses, greedy = torch.zeros_like(targets, dtype=torch.float32), torch.ones_like(targets, dtype=torch.bool)
    outputs = model.base_model(input_ids=moved(shared, model.device), use_cache=True)
    logits = _logits(model, outputs.last_hidden_state[:, -1])  # (facts, vocabulary), the same for all choices
    first = targets[:, 0].view(-1, n_choices)
    losses[:, 0] = -logits.log_softmax(-1).gather(1, first).flatten()
    greedy[:, 0] = (logits.argmax(-1, keepdim=True) == first).flatten()
    longer = is_there.sum(1).gt(1).nonzero().flatten()
    if len(longer):
        row, place = moved(is_there[longer, 1:].nonzero().T, model.device)  # of every token behind the first
        longer, cache = moved(longer, model.device), outputs.past_key_values
        cache.batch_select_indices(longer // n_choices)
        ids = targets[longer]
        hidden = model.base_model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True).last_hidden_state
        logits = _logits(model, hidden[row, place])  # (tokens, vocabulary)
        following = ids[row, place + 1]
        losses[longer[row], place + 1] = F.cross_entropy(logits, following, reduction="none")
        greedy[longer[row], place + 1] = logits.argmax(-1) == following
    losses, greedy = torch.stack([losses, greedy.float()]).cpu()  # one look at the device
    return losses, greedy.bool()


def _logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    return model.get_output_embeddings()(hidden).float()
