"""Blocks of tokens: documents one after the other, cut into blocks of equal length, kept in the cache as Arrow."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from narrowlib.data.chats import chat_tokens
from narrowlib.data.documents import CHAT, RULES, Document, hub_documents, package_documents, pinned_sources
from narrowlib.store.downloads import cache_folder, made

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

PACKAGES = "packages"
END_OF_TEXT = (
    "<|endoftext|>",
    "<|end_of_text|>",
)  # what base models saw between documents; chat models end turns otherwise
_DOCUMENTS_AT_ONCE = 32
_LEAST_CHARACTERS = 100  # that are tokenised at once
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow's format
_fingerprints: WeakKeyDictionary = WeakKeyDictionary()  # by tokenizer: its size then, and its fingerprint


class TooFewTokensError(ValueError):
    """Raised if documents have fewer tokens than requested; ``n_there`` is their number."""

    def __init__(self, n_tokens: int, name: str, n_there: int) -> None:
        super().__init__(f"n_tokens is {n_tokens}, in whole blocks; {name} holds {n_there} tokens in all")
        self.n_there = n_there


def skill_blocks(
    tokenizer: PreTrainedTokenizerBase,
    skill: str,
    *,
    n_tokens: int,
    split: str = "train",
    block_length: int = 1_024,
    source: str = PACKAGES,
    seed: int = 0,
    progress: bool = True,
) -> Dataset:
    """Blocks of tokens of one skill.

    The first call fetches what it needs and takes a few seconds for every million tokens; later calls with the same
    arguments open the file that it left in the cache.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    skill : {"python", "english", "c", "javascript"}
        See ``narrowlib.data.documents.SKILLS``.
    n_tokens : int
        How many tokens; what does not fill a block is left out.  The blocks of a smaller number are the first blocks of
        a larger one.
    split : {"train", "held-out"}
        Two sets of packages that have none in common.
    block_length : int
        Tokens per block; at least 2.
    source : str
        ``"packages"`` for the pinned ones (`narrowlib.data.documents.sources`), or a data set of the Hugging Face hub,
        such as ``"codeparrot/github-code"``, the paper's, which is streamed.
    seed : int
        Of the order of the packages' files.  A data set of the hub is read in its own order.
    progress : bool
        Show a progress bar.

    Returns
    -------
    datasets.Dataset
        One column, ``input_ids``, of ``block_length`` integers per row.

    Raises
    ------
    ValueError
        For an unknown skill, split or source, a number out of range, or when there are not so many tokens.
    UnavailableError
        When a package or the hub is needed and cannot be reached.
    """
    pinned = pinned_sources(skill, split)
    _check_numbers(n_tokens, block_length)
    if source == PACKAGES:
        n_bytes = sum(each.n_bytes for each in pinned)
        if n_tokens > n_bytes:  # no token is shorter than a byte
            raise ValueError(f"n_tokens is {n_tokens}; the {split} packages of {skill} hold {n_bytes} bytes of text")
        documents = partial(package_documents, skill, split, seed=seed)
        origin = [(each.archive.sha256, each.folders) for each in pinned]
    elif "/" in source:
        documents, origin = partial(hub_documents, source, skill, split), source
    else:
        raise ValueError(f"source is {source!r}; it must be {PACKAGES!r} or a data set on the hub, OWNER/NAME")
    key = [skill, split, origin, seed, RULES]
    name = f"{skill}-{split}"
    return token_blocks(
        tokenizer, documents, name=name, key=key, n_tokens=n_tokens, block_length=block_length, progress=progress
    )


def token_blocks(
    tokenizer: PreTrainedTokenizerBase,
    documents: Callable[[], Iterable[Document]],
    *,
    name: str,
    key: object,
    n_tokens: int,
    block_length: int = 1_024,
    or_fewer: bool = False,
    labels: bool = False,
    progress: bool = True,
) -> Dataset:
    """Blocks of tokens of any documents; `skill_blocks` says more.

    Documents are read, and long ones cut, so that little more is tokenised than is needed.

    Every document is followed by the end-of-text token.  A document that contains the text of a special token, as the
    source of a tokenizer does, is tokenised as text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    documents : callable
        Returns the documents; called only when the blocks are not in the cache.
    name : str
        Stands in the name of the file in the cache and in messages.
    key : object
        Of JSON types; must differ where the documents do.
    n_tokens, block_length, progress
        See `skill_blocks`.
    or_fewer : bool
        Take as many blocks as there are, at least one, where the documents hold fewer tokens.
    labels : bool
        Write the column ``labels`` too: the tokens again, but ``narrowlib.data.chats.IGNORED`` for those of chats that
        no loss counts, see `narrowlib.data.chats.chat_tokens`.

    Raises
    ------
    TooFewTokensError
        When the documents hold fewer tokens.
    ValueError
        When the tokenizer has no end-of-text token, or for a chat that `narrowlib.data.chats.chat_tokens` refuses.
    """
    _check_numbers(n_tokens, block_length)
    end = end_of_text(tokenizer)
    about = [key, n_tokens, block_length, end, _remembered_fingerprint(tokenizer), *(["or fewer"] if or_fewer else [])]
    about += ["labels"] if labels else []
    about = json.dumps(about, sort_keys=True)
    digest = hashlib.sha256(about.encode()).hexdigest()
    path = cache_folder() / "tokens" / f"{name}-{n_tokens}-{digest[:16]}.arrow"

    def write(path: Path) -> None:
        n_blocks = n_tokens // block_length
        with tqdm(total=n_blocks * block_length, desc=name, unit="token", unit_scale=True, disable=not progress) as bar:
            ids = _ids(tokenizer, documents(), end, n_blocks * block_length)
            columns = ("input_ids", "labels") if labels else ("input_ids",)
            _write_blocks(path, _cut(ids, block_length, n_blocks, name, or_fewer), columns, block_length, bar)

    blocks = _opened(made(path, write))
    if blocks is None or not (or_fewer or len(blocks) == n_tokens // block_length):  # damaged, or cut short
        path.unlink()
        blocks = _opened(made(path, write))
    return blocks


def _opened(path: Path) -> Dataset | None:
    """Blocks in a file of the cache; None when it cannot be read, or is cut short."""
    from datasets import Dataset

    try:
        with path.open("rb") as file:
            file.seek(-len(_END_OF_STREAM), io.SEEK_END)
            if file.read() != _END_OF_STREAM:
                return None
        return Dataset.from_file(str(path))
    except (OSError, pa.ArrowException):
        return None


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token after each document: that of `END_OF_TEXT` if it exists, else the tokenizer's own."""
    special = tokenizer.get_added_vocab()
    found = next((special[token] for token in END_OF_TEXT if token in special), tokenizer.eos_token_id)
    if found is None:
        raise ValueError(f"tokenizer has no end-of-text token; it must have an eos_token or one of {END_OF_TEXT}")
    return found


def count_tokens(tokenizer: PreTrainedTokenizerBase, documents: Iterable[Document], *, at_most: int) -> int:
    """Tokens of documents, their ends included, up to ``at_most``."""
    return min(at_most, sum(map(len, _ids(tokenizer, documents, end_of_text(tokenizer), at_most))))


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Sum over all that decides how a tokenizer splits text; its vocabulary only, where it is not a fast one."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        about = json.dumps(sorted(tokenizer.get_vocab().items()))
    else:  # truncation and padding, which calls change, stand before the added tokens
        about = tokenizer.backend_tokenizer.to_str().partition('"added_tokens"')[2]
    return hashlib.sha256(about.encode()).hexdigest()


def _remembered_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """The fingerprint, taken once per tokenizer and size: it takes longer than all else in a second call."""
    size, known = _fingerprints.get(tokenizer, (None, None))
    if size != len(tokenizer):
        known = fingerprint(tokenizer)
        _fingerprints[tokenizer] = len(tokenizer), known
    return known


def _check_numbers(n_tokens: int, block_length: int) -> None:
    for name, value in (("n_tokens", n_tokens), ("block_length", block_length)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} is {value!r}; it must be a whole number")
    if block_length < 2:
        raise ValueError(f"block_length is {block_length}; it must be at least 2")
    if n_tokens < block_length:
        raise ValueError(f"n_tokens is {n_tokens}; it must be at least block_length, {block_length}")


def _ids(
    tokenizer: PreTrainedTokenizerBase, documents: Iterable[Document], end: int, n_needed: int
) -> Iterator[np.ndarray]:
    """Tokens of some documents at a time and their labels, (tokens, 2), until there are ``n_needed`` tokens.

    Each document is followed by ``end``.  Chats are tokenised one by one.  Of other documents as many characters are
    tokenised at once as the tokens that are still needed had so far; of a document that is longer, a first part, where
    it can be cut between two tokens.
    """
    options = {"add_special_tokens": False, "truncation": False, "verbose": False, "return_attention_mask": False}
    can_cut, n_tokens, n_characters = _splits_at_spaces(tokenizer), 0, 0
    for is_chat, group in groupby(documents, lambda document: document.package == CHAT):
        for chat in group if is_chat else ():
            if n_tokens < n_needed:
                ids, labels = chat_tokens(tokenizer, chat, end)
                n_tokens, n_characters = n_tokens + len(ids), n_characters + len(chat.text)
                yield np.stack([ids, labels], axis=1)
        texts = (document.text for document in group)
        rest: str | None = None  # of a document that was cut
        while n_tokens < n_needed:
            room = (n_needed - n_tokens) * max(n_characters, 1) // max(n_tokens, 1) + _LEAST_CHARACTERS
            parts: list[str] = []
            while room > 0 and len(parts) < _DOCUMENTS_AT_ONCE:
                text = next(texts, None) if rest is None else rest
                if text is None:
                    break
                cut = _between_tokens(tokenizer, text, room) if can_cut and len(text) > room else None
                part, rest = (text, None) if cut is None else (text[:cut], text[cut:])
                parts.append(part)
                room -= len(part)
                if rest is not None:
                    break
            if not parts:
                break
            encoded = tokenizer(parts, split_special_tokens=True, **options)["input_ids"]
            ends = [[end]] * (len(parts) - 1) + [[end] if rest is None else []]
            ids = [np.array([*each, *last], dtype=np.int32) for each, last in zip(encoded, ends, strict=True)]
            n_characters += sum(map(len, parts))
            n_tokens += sum(map(len, ids))
            yield np.stack([np.concatenate(ids)] * 2, axis=1)
        if n_tokens >= n_needed:
            return


def _splits_at_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a space after another letter always begins a token, as in all byte-level tokenizers but odd ones."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pieces = json.loads(backend.to_str())["pre_tokenizer"] if backend is not None else None
    pieces = (pieces or {}).get("pretokenizers") or [pieces or {}]
    byte_level = [each for each in pieces if each.get("type") == "ByteLevel"]
    if not byte_level or any(each.get("add_prefix_space") for each in byte_level):
        return False
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str("a; b\n = c")]
    return words == ["a", ";", "\u0120b", "\u010a", "\u0120=", "\u0120c"]


def _between_tokens(tokenizer: PreTrainedTokenizerBase, text: str, at_most: int) -> int | None:
    """The last place up to a length where a text can be cut between two tokens; the first one after it if need be."""
    added = [
        each.content
        for each in tokenizer.added_tokens_decoder.values()
        if not each.special and (" " in each.content or each.lstrip or each.rstrip)
    ]
    if added:  # they may lie across a space
        return None
    place = next((i for i in range(min(at_most, len(text) - 1), 0, -1) if _is_between(text, i)), None)
    return place or next((i for i in range(at_most, len(text)) if _is_between(text, i)), None)


def _is_between(text: str, place: int) -> bool:
    return text[place] == " " and not text[place - 1].isspace()


def _cut(
    ids: Iterable[np.ndarray], block_length: int, n_blocks: int, name: str, or_fewer: bool
) -> Iterator[np.ndarray]:
    """Blocks, some at a time, (n, block_length, 2), until there are ``n_blocks``."""
    rest, n_cut = np.empty((0, 2), dtype=np.int32), 0
    for each in ids:
        rest = np.concatenate([rest, each])
        n = min(len(rest) // block_length, n_blocks - n_cut)
        if n:
            yield rest[: n * block_length].reshape(n, block_length, 2)
            rest, n_cut = rest[n * block_length :], n_cut + n
        if n_cut == n_blocks:
            return
    if not (or_fewer and n_cut):
        raise TooFewTokensError(n_blocks * block_length, name, n_cut * block_length + len(rest))


def _write_blocks(
    path: Path, blocks: Iterable[np.ndarray], columns: Sequence[str], block_length: int, bar: tqdm
) -> None:
    schema = pa.schema({name: pa.list_(pa.int32(), block_length) for name in columns})
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for each in blocks:  # (n, block_length, 2)
            values = [pa.array(each[..., place].ravel()) for place in range(len(columns))]
            arrays = [pa.FixedSizeListArray.from_arrays(each, block_length) for each in values]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            bar.update(each[..., 0].size)
