"""Documents that a user brings, in three splits, cut into token blocks.

Models are trained, units scored and refits computed on ``train``; parameters, refits and the depth of a cut are chosen
on ``select``; ``held-out`` is only reported.

Of chats, losses count the answers alone; of other documents every token.

What counts as a document is decided in `narrowlib.recipe.reading`.  Of documents that are equal, white space aside,
only the first is taken.  The documents are put in the order of the sha256 sums of seed and text; the first of them are
held out, as many of the next are for choices, so that the split depends on the texts alone.  Where sources overlap, a
document that one of them holds back is in no earlier split of another.  Skills and data sets of the hub have held-out
documents of their own; one in `SELECTED` of the others is for choices.  Of a data set of the hub whose rows name
files, those of Python are taken.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from narrowlib.data.documents import CHAT, SKILLS, Document, hub_documents, package_documents
from narrowlib.data.tokens import TooFewTokensError, token_blocks
from narrowlib.llm.losses import tokens_counted
from narrowlib.recipe.reading import STANDARD_INPUT, Reading, read
from narrowlib.store.files import at_home
from narrowlib.texts import counted

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from narrowlib.recipe.settings import RecipeConfig

SPLITS = ("train", "select", "held-out")
SELECTED = 10
_UNESCAPED_SPACES = re.compile(r"(?<!\\)\s+")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Texts:
    """Documents in `SPLITS`.

    Parameters
    ----------
    argument : {"keep", "lose"}
        Whose they are, for messages.
    source : str
        As it was named.
    key : str
        Differs where the documents do.
    documents : callable
        From a split to documents, as often as it is called.
    n_documents : dict of str to int, optional
        By split, where they were counted.
    left_out : dict of str to list of str
        Names of what was not taken, by reason.
    needs : mapping of str to int, optional
        Tokens of each split that will be asked for at most: as many are tokenised at the first call, and no more.
    labels : bool
        Whether blocks tell by a column ``labels`` which tokens count, as chats need it.
    """

    argument: str
    source: str
    key: str
    documents: Callable[[str], Iterable[Document]]
    n_documents: dict[str, int] | None = None
    left_out: dict[str, list[str]] = field(default_factory=dict)
    needs: Mapping[str, int] = field(default_factory=dict)
    labels: bool = False

    def blocks(
        self,
        tokenizer: PreTrainedTokenizerBase,
        split: str,
        *,
        at_most: int,
        block_length: int,
        progress: bool = True,
    ) -> Dataset:
        """Blocks of tokens of one split, as many as there are but no more than ``at_most`` tokens.

        Blocks in which no token counts, such as those inside of a long question, are left out.

        Raises
        ------
        ValueError
            When the documents do not fill one block, or no token of their blocks counts.
        """
        n_tokens = max(at_most, self.needs.get(split, 0), block_length) // block_length * block_length
        key = [self.key, split, *([tokenizer.chat_template] if self.labels else [])]
        options = {"name": f"{self.argument}-{split}", "key": key, "or_fewer": True, "labels": self.labels}
        options |= {"n_tokens": n_tokens, "block_length": block_length, "progress": progress}
        try:
            blocks = token_blocks(tokenizer, partial(self.documents, split), **options)
        except TooFewTokensError as error:
            raise ValueError(
                f"{self.argument} is {self.source!r}, whose {split} documents hold {error.n_there} tokens; they must "
                f"hold at least block_length, {block_length}"
            ) from error
        blocks = blocks.select(range(min(len(blocks), max(1, at_most // block_length))))
        if not self.labels:
            return blocks
        counting = tokens_counted(blocks).nonzero().flatten()
        if not len(counting):
            raise ValueError(
                f"{self.argument} is {self.source!r}, whose {split} chats have no answer in the {len(blocks)} blocks "
                f"of {block_length} tokens that are read; there must be one"
            )
        return blocks.select(counting.tolist())


@dataclass(frozen=True)
class Mixture:
    """Several `Texts` as one, each with its share of the tokens.

    Parameters
    ----------
    argument : {"keep", "lose"}
    parts : tuple of (Texts, float)
        With their weights.
    """

    argument: str
    parts: tuple[tuple[Texts, float], ...]

    @property
    def source(self) -> str:
        """How the sources were named, with weights where they differ."""
        return ", ".join(f"{text.source} ({weight:g})" if weight != 1 else text.source for text, weight in self.parts)

    @property
    def key(self) -> str:
        """Differs where the documents do."""
        return _sum(json.dumps([[text.key, weight] for text, weight in self.parts]))

    @property
    def n_documents(self) -> dict[str, int] | None:
        """By split, of the sources whose documents were counted."""
        counted = [text.n_documents for text, _ in self.parts if text.n_documents]
        return {name: sum(each[name] for each in counted) for name in counted[0]} if counted else None

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Names by reason."""
        reasons: dict[str, list[str]] = {}
        for text, _ in self.parts:
            for reason, names in text.left_out.items():
                reasons.setdefault(reason, []).extend(names)
        return reasons

    @property
    def labels(self) -> bool:
        """Whether blocks have labels that state which tokens count."""
        return self.parts[0][0].labels

    def blocks(self, tokenizer: PreTrainedTokenizerBase, split: str, *, at_most: int, **options: Any) -> Dataset:
        """Blocks of all sources, evenly mixed: any first part of them has the shares of the whole."""
        from datasets import concatenate_datasets

        total = sum(weight for _, weight in self.parts)
        each = [
            text.blocks(tokenizer, split, at_most=max(1, round(at_most * weight / total)), **options)
            for text, weight in self.parts
        ]
        places = [(place + 0.5) / len(blocks) for blocks in each for place in range(len(blocks))]
        return concatenate_datasets(each).select(sorted(range(len(places)), key=places.__getitem__))


def check_sources(config: RecipeConfig) -> None:
    """Refuse names of nothing, before anything is fetched or read; raises what `open_texts` raises for them."""
    for argument, source, _ in _sources(config):
        _check_source(argument, source)


def _sources(config: RecipeConfig) -> list[tuple[str, str, float]]:
    """All sources that are named, each with its argument and weight."""
    return [
        (argument, source, weight)
        for argument in ("keep", "lose")
        for source, weight in map(weighted, getattr(config, argument).splitlines())
        if source
    ]


def _check_source(argument: str, source: str) -> None:
    if _is_there(source) or source in (STANDARD_INPUT, *SKILLS):
        return
    if not _HUB_NAME.fullmatch(source) or at_home(source).suffix:
        raise ValueError(
            f"{argument} is {source!r}, which does not exist; it must be a file, a folder, a data set on the hub "
            f"(OWNER/NAME), or one of {', '.join(SKILLS)}"
        )


def texts_of(config: RecipeConfig) -> dict[str, Texts | Mixture]:
    """The documents to keep, and those that may be lost where there are any; raises what `open_texts` raises."""
    options = {"column": config.column, "held_out_share": config.held_out_share, "seed": config.seed}
    options |= {
        name: [*filter(None, _UNESCAPED_SPACES.split(getattr(config, name)))] for name in ("include", "exclude")
    }
    opened = [(open_texts(name, source, **options), weight) for name, source, weight in _sources(config)]
    apart = _apart([text for text, _ in opened])
    found: dict[str, Texts | Mixture] = {}
    for name in ("keep", "lose"):
        parts = [(text, weight) for text, (_, weight) in zip(apart, opened, strict=True) if text.argument == name]
        total = sum(weight for _, weight in parts)
        parts = [
            (replace(text, needs={split: round(n * weight / total) for split, n in config.needs(name).items()},
                     labels=any(each.labels for each, _ in parts)), weight)
            for text, weight in parts
        ]  # fmt: skip
        if parts:
            found[name] = parts[0][0] if len(parts) == 1 else Mixture(name, tuple(parts))
    return found


def blocks_needed(
    texts: Mapping[str, Texts | Mixture], config: RecipeConfig, tokenizer: PreTrainedTokenizerBase, *, progress: bool
) -> dict[tuple[str, str], Dataset]:
    """All blocks that a narrowing reads, by text and split; raises what `Texts.blocks` raises."""
    options = {"block_length": config.block_length, "progress": progress}
    return {
        (name, split): text.blocks(tokenizer, split, at_most=n, **options)
        for name, text in texts.items()
        for split, n in config.needs(name).items()
        if name == "keep" or split == "held-out" or (split == "train" and config.lose_weight)
    }


def counts_of(blocks: Dataset) -> list[int] | None:
    """For blocks with labels: how many tokens count, and how many there are."""
    if "labels" not in blocks.column_names:
        return None
    return [int(tokens_counted(blocks).sum()), len(blocks) * len(blocks[0]["input_ids"])]


def _apart(texts: Sequence[Texts]) -> list[Texts]:
    """Sources of which none trains on what another one holds back; those that share no such document as they are."""
    by_split = [
        {split: [(_alike(d), d) for d in text.documents(split)] if text.n_documents else [] for split in SPLITS}
        for text in texts
    ]
    selected, held_out = ({alike for each in by_split for alike, _ in each[split]} for split in SPLITS[1:])
    elsewhere = dict(zip(SPLITS, (selected | held_out, held_out, set()), strict=True))
    apart = []
    for text, documents in zip(texts, by_split, strict=True):
        left = {split: [d for alike, d in each if alike not in elsewhere[split]] for split, each in documents.items()}
        gone = [d for split, each in documents.items() for alike, d in each if alike in elsewhere[split]]
        if gone:
            reasons = {**text.left_out, "held back from another source": [d.name for d in gone]}
            key = _sum(json.dumps([text.key, sorted(_sum(d.text) for d in gone)]))
            n_documents = {split: len(each) for split, each in left.items()}
            text = replace(text, key=key, documents=left.__getitem__, n_documents=n_documents, left_out=reasons)
        apart.append(text)
    return apart


def weighted(named: str) -> tuple[str, float]:
    """A source and its weight: ``notes=2`` has twice the tokens of ``notes``, unless there is a file of that name."""
    source, sign, weight = named.strip().rpartition("=")
    if sign and re.fullmatch(r"\d*\.?\d+", weight) and 0 < float(weight) < math.inf and not _is_there(named.strip()):
        return source, float(weight)
    return named.strip(), 1.0


def _is_there(source: str) -> bool:
    try:
        return at_home(source).exists()
    except OSError as error:  # others are told where it is read
        return error.errno != errno.ENAMETOOLONG


def open_texts(
    argument: str,
    source: str,
    *,
    column: str = "",
    held_out_share: float = 0.1,
    seed: int = 0,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Texts:
    """Documents of a file, a folder, standard input, a data set on the hub or a built-in skill.

    Parameters
    ----------
    argument : {"keep", "lose"}
        Named in messages.
    source : str
        See ``keep`` of `narrowlib.recipe.settings.RecipeConfig`.
    column, include, exclude
        See `narrowlib.recipe.reading.read`.
    held_out_share : float
        Share of a file's or folder's documents that are held out, at least one.  Skills and data sets of the hub have
        a split of their own, see `narrowlib.data.documents`.
    seed : int
        Of the split.

    Raises
    ------
    ValueError
        When there is nothing of this name, or no documents that can be read in it.
    """
    _check_source(argument, source)
    if _is_there(source) or source == STANDARD_INPUT:
        read_all = partial(read, at_home(source), column=column, include=include, exclude=exclude)
        return _of_files(argument, source, read_all, held_out_share, seed)
    if source in SKILLS:
        documents = partial(_parted, partial(package_documents, source, seed=seed))
    else:
        documents = partial(_parted, partial(hub_documents, source, "python"))
    return Texts(argument, source, f"{source} {seed} {SELECTED}", documents)


def _parted(documents: Callable[[str], Iterable[Document]], split: str) -> Iterator[Document]:
    """Documents of one of `SPLITS`, of a source that has training and held-out documents."""
    for document in documents("held-out" if split == "held-out" else "train"):
        if split == "held-out" or (int(_sum(document.text)[:8], 16) % SELECTED == 0) == (split == "select"):
            yield document


def _of_files(argument: str, source: str, read_all: Callable[[], Reading], held_out_share: float, seed: int) -> Texts:
    try:
        reading = read_all()
    except ValueError as error:
        raise ValueError(f"{argument} is {source!r}: {error}") from error
    except OSError as error:
        raise ValueError(f"{argument} is {source!r}, which cannot be read: {error.strerror or error}") from error
    found = reading.documents
    distinct = {_alike(document): document for document in reversed(found) if document.text.strip()}
    by_sum = {_sum(f"{seed}/{document.text}"): document for document in distinct.values()}
    taken = {id(document) for document in by_sum.values()}
    for document in found:
        if id(document) not in taken:
            reading.leave("duplicate" if document.text.strip() else "empty", document.name)
    if len(by_sum) < len(SPLITS):
        left = "".join(f"; {len(names)} left out: {reason}" for reason, names in reading.left_out.items())
        raise ValueError(
            f"{argument} is {source!r}, which holds {counted(len(by_sum), 'distinct document')}; it must "
            f"hold at least 3, for training, selection and held-out losses{left}"
        )
    order = [by_sum[key] for key in sorted(by_sum)]
    n_held_out = min(max(1, round(held_out_share * len(order))), len(order) - 2)
    n_left_out = n_held_out + min(n_held_out, (len(order) - n_held_out) // 2)
    parts = (order[n_left_out:], order[n_held_out:n_left_out], order[:n_held_out])
    by_split = dict(zip(SPLITS, parts, strict=True))
    key = _sum(json.dumps([SPLITS, held_out_share, sorted(by_sum)]))
    n_documents = {name: len(each) for name, each in by_split.items()}
    labels = any(document.package == CHAT for document in order)
    return Texts(argument, source, key, by_split.__getitem__, n_documents, reading.left_out, labels=labels)


def _alike(document: Document) -> str:
    """Equal for documents that differ in white space alone."""
    return _sum("".join(document.text.split()))


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
