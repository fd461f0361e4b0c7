"""Plain facts, written for this book, to test what a language model knows besides its skills.

Every fact is a cloze, a prompt and its answer, and with three wrong answers a question with four choices.  Half of the
facts of each category are for training, the other half for tests; halves and choices are the same in every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from narrowlib.data.tokens import end_of_text
from narrowlib.texts import load_yaml

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

HALVES = ("train", "test")
N_CHOICES = 4
CHANCE = 1 / N_CHOICES  # of a blind choice; a blind cloze is next to never right
HELD_BACK = 4  # every so many of the facts of a category may be held back from training, to choose settings by
_FACTS = Path(__file__).with_name("facts.yaml")


@dataclass(frozen=True)
class Fact:
    """One fact.

    Parameters
    ----------
    category : str
    half : {"train", "test"}
    prompt : str
        The sentence up to the answer, without a space at its end.
    answer : str
    choices : tuple of str
        The answer and three wrong ones, in an order that tells nothing.
    """

    category: str
    half: str
    prompt: str
    answer: str
    choices: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        return f"{self.prompt} {self.answer}."


def facts(half: str | None = None, *, per_category: int | None = None) -> tuple[Fact, ...]:
    """The facts of this book, in a fixed order.

    Parameters
    ----------
    half : {"train", "test"}, optional
        Only these; by default all.
    per_category : int, optional
        At most so many of each category in each half, always the same ones; by default all.

    Raises
    ------
    ValueError
        For another half, or a number below 1.
    """
    if half is not None and half not in HALVES:
        raise ValueError(f"half is {half!r}; it must be one of {', '.join(HALVES)}")
    if per_category is not None and per_category < 1:
        raise ValueError(f"per_category is {per_category}; it must be at least 1")
    by_category: dict[tuple[str, str], list[Fact]] = {}
    for fact in _all_facts():
        by_category.setdefault((fact.category, fact.half), []).append(fact)
    chosen = [fact for some in by_category.values() for fact in some[:per_category]]
    return tuple(fact for fact in chosen if half in (None, fact.half))


def without_some(learned: Sequence[Fact]) -> tuple[list[Fact], list[Fact]]:
    """Facts to learn from, and those held back to choose settings by: every `HELD_BACK`-th of a category, or its last.

    Where a category has a single fact it is in both.
    """
    by_category: dict[str, list[Fact]] = {}
    for fact in learned:
        by_category.setdefault(fact.category, []).append(fact)
    rest: list[Fact] = []
    back: list[Fact] = []
    for some in by_category.values():
        mine = some[HELD_BACK - 1 :: HELD_BACK] or some[-1:]
        back += mine
        rest += [fact for fact in some if fact not in mine] or some
    return rest, back


def documents(**_: Any) -> dict[str, Dataset]:
    """The facts by half as data sets with columns ``prompt``, ``answer``, ``choices``, ``label`` and ``category``.

    In the form that tasks of lm-eval ask for; see ``narrowlib/tasks``.
    """
    from datasets import Dataset

    return {
        half: Dataset.from_list(
            [
                {
                    "category": fact.category,
                    "prompt": fact.prompt,
                    "answer": fact.answer,
                    "choices": list(fact.choices),
                    "label": fact.choices.index(fact.answer),
                }
                for fact in facts(half)
            ]
        )
        for half in HALVES
    }


def fact_blocks(
    tokenizer: PreTrainedTokenizerBase, some: Sequence[Fact], *, n_tokens: int, block_length: int = 64
) -> Dataset:
    """Blocks of tokens to learn facts from: all sentences repeatedly, each time in another order.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    some : sequence of Fact
    n_tokens : int
        How many tokens; what does not fill a block is left out.
    block_length : int
        Tokens per block; sentences run over its ends.

    Returns
    -------
    datasets.Dataset
        One column, ``input_ids``.

    Raises
    ------
    ValueError
        When there is no fact, or ``n_tokens`` does not fill a block.
    """
    from datasets import Dataset

    if not some:
        raise ValueError("some is empty; it must hold at least one fact")
    if not 2 <= block_length <= n_tokens:
        raise ValueError(f"block_length is {block_length}; it must be at least 2 and at most n_tokens, {n_tokens}")
    end, order, ids = end_of_text(tokenizer), np.random.default_rng(0), []
    sentences = [tokenizer(fact.sentence, add_special_tokens=False)["input_ids"] + [end] for fact in some]
    while len(ids) < n_tokens:
        ids += [token for place in order.permutation(len(sentences)) for token in sentences[place]]
    n_blocks = n_tokens // block_length
    rows = np.array(ids[: n_blocks * block_length], dtype=np.int64).reshape(n_blocks, block_length)
    return Dataset.from_dict({"input_ids": rows})


@cache
def _all_facts() -> tuple[Fact, ...]:
    categories = load_yaml(_FACTS)
    found = []
    for category, groups in categories.items():
        questions = [question for group in groups for question in _questions(group)]
        questions.sort(key=lambda question: _hash(question[0]))
        found += [
            Fact(category, HALVES[number % 2], prompt, answer, choices)
            for number, (prompt, answer, choices) in enumerate(questions)
        ]
    return tuple(found)


def _questions(group: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Prompt, answer and choices; wrong ones are other answers of the group, but none that could pass for this."""
    answers = set(group["answers"].values())
    for subject, answer in group["answers"].items():
        prompt = group["prompt"].format(subject)
        alike = {answer}.union(*(some for some in group.get("alike", ()) if answer in some))
        wrong = sorted(answers - alike, key=lambda other: _hash(prompt, other))[: N_CHOICES - 1]
        yield prompt, answer, tuple(sorted([answer, *wrong], key=lambda choice: _hash(choice, prompt)))


def _hash(*texts: str) -> bytes:
    """What orders facts and choices: the same in every run, and blind to what they say."""
    return hashlib.sha256("\n".join(texts).encode()).digest()
