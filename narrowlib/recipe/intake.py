"""Documents that a user brings: read, split by document into training and held-out, and cut into token blocks.

A row of jsonl or parquet is a document, and so is a file of a folder.  A single txt file is cut at blank lines into
documents of at least `TXT_CHARACTERS`.  Of equal documents only the first is taken.  The documents are put in the order
of the sha256 sums of seed and text; the first of them are held out, so that the split depends on the texts alone.
Of a data set of the hub whose rows name files, those of Python are taken.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowlib.data.documents import SKILLS, Document, hub_documents, package_documents
from narrowlib.data.tokens import count_tokens, token_blocks

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from narrowlib.recipe.settings import RecipeConfig

COLUMNS = ("text", "content", "code")  # looked for in this order where no column is named
TXT_CHARACTERS = 2_000
_ROWS = (".jsonl", ".ndjson", ".parquet")
_SKIPPED_FOLDERS = {"node_modules", "__pycache__", "venv", "build", "dist"}  # beside those whose name begins with a dot
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how text in it, or in UTF-32, begins
_NOT_IN_TEXT = {*range(32)} - {*b"\t\n\v\f\r\x1b"}  # bytes that no encoding with one byte to a letter has
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Texts:
    """Documents in two splits.

    Parameters
    ----------
    argument : {"keep", "lose"}
        Whose they are, for messages.
    source : str
        As it was named.
    key : str
        Differs where the documents do.
    documents : callable
        From ``"train"`` or ``"held-out"`` to documents, as often as it is called.
    n_documents : dict of str to int, optional
        By split, where they were counted.
    """

    argument: str
    source: str
    key: str
    documents: Callable[[str], Iterable[Document]]
    n_documents: dict[str, int] | None = None

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

        Raises
        ------
        ValueError
            When the documents do not fill one block.
        """
        documents = partial(self.documents, split)
        n_there = count_tokens(tokenizer, documents(), at_most=max(at_most, block_length))
        if n_there < block_length:
            raise ValueError(
                f"{self.argument} is {self.source!r}, whose {split} documents hold {n_there} tokens; they must fill a "
                f"block of {block_length}"
            )
        n_tokens = min(n_there, max(at_most, block_length)) // block_length * block_length
        options = {"name": f"{self.argument}-{split}", "key": [self.key, split], "progress": progress}
        return token_blocks(tokenizer, documents, n_tokens=n_tokens, block_length=block_length, **options)


def texts_of(config: RecipeConfig) -> dict[str, Texts]:
    """The documents to keep, and those that may be lost where there are any; raises what `open_texts` raises."""
    named = {"keep": config.keep, "lose": config.lose}
    options = {"column": config.column, "held_out_share": config.held_out_share, "seed": config.seed}
    return {name: open_texts(name, source, **options) for name, source in named.items() if source}


def open_texts(argument: str, source: str, *, column: str = "", held_out_share: float = 0.1, seed: int = 0) -> Texts:
    """Documents of a file, a folder, a data set of the hub or a built-in skill.

    Parameters
    ----------
    argument : {"keep", "lose"}
        Named in messages.
    source : str
        See ``keep`` of `narrowlib.recipe.settings.RecipeConfig`.
    column : str
        Of jsonl and parquet; empty for the first of `COLUMNS` that is there.
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
    path = Path(source).expanduser()
    if path.exists():
        return _of_files(argument, source, path, column, held_out_share, seed)
    if source in SKILLS:
        documents = partial(package_documents, source, seed=seed)
    elif _HUB_NAME.fullmatch(source) and not path.suffix:
        documents = partial(hub_documents, source, "python")
    else:
        raise ValueError(
            f"{argument} is {source!r}, which is not there; it must be a file, a folder, a data set of the hub "
            f"(OWNER/NAME), or one of {', '.join(SKILLS)}"
        )
    return Texts(argument, source, f"{source} {seed}", documents)


def _of_files(argument: str, source: str, path: Path, column: str, held_out_share: float, seed: int) -> Texts:
    try:
        found = list(_folder(path, column)) if path.is_dir() else list(_file(path, column, is_alone=True))
    except ValueError as error:
        raise ValueError(f"{argument} is {source!r}: {error}") from error
    except OSError as error:
        raise ValueError(f"{argument} is {source!r}, which cannot be read: {error.strerror or error}") from error
    by_sum = {_sum(f"{seed}/{document.text}"): document for document in reversed(found) if document.text.strip()}
    if len(by_sum) < 2:
        raise ValueError(
            f"{argument} is {source!r}, which holds {len(by_sum)} documents that differ; it must hold at least 2, so "
            f"that one can be held out"
        )
    order = [by_sum[key] for key in sorted(by_sum)]
    n_held_out = min(max(1, round(held_out_share * len(order))), len(order) - 1)
    by_split = {"train": order[n_held_out:], "held-out": order[:n_held_out]}
    key = _sum(json.dumps([held_out_share, sorted(by_sum)]))
    return Texts(argument, source, key, by_split.__getitem__, {name: len(each) for name, each in by_split.items()})


def _folder(folder: Path, column: str) -> Iterator[Document]:
    """Files of a folder and those below it that hold text; others are passed over."""
    n_files = 0
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in parts[:-1]) or not path.is_file():
            continue
        n_files += 1
        if path.suffix.lower() in _ROWS:
            yield from _file(path, column)
        elif (text := _decoded(path.read_bytes(), str(path.relative_to(folder)))) is not None:
            yield Document("", str(path.relative_to(folder)), text)
    if not n_files:
        raise ValueError("the folder holds no file")


def _file(path: Path, column: str, *, is_alone: bool = False) -> Iterator[Document]:
    if not path.is_file():
        raise ValueError("it is neither a file nor a folder")
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    if path.suffix.lower() == ".parquet":
        texts = _parquet(path, column)
    else:
        text = _decoded(path.read_bytes(), path.name)
        if text is None:
            raise ValueError("the file is binary; it must be UTF-8 text, or parquet named so")
        texts = (
            _jsonl(text, column, path.name) if path.suffix.lower() in _ROWS else _parts(text) if is_alone else [text]
        )
    for number, text in enumerate(texts):
        yield Document("", f"{path.name}:{number}", text)


def _decoded(content: bytes, name: str) -> str | None:
    """Text out of bytes; None where they are no text at all, such as an image."""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
        return None if "\0" in text else text
    except UnicodeDecodeError as error:
        if content.startswith(_UTF_16):
            raise ValueError(f"{name} is text in UTF-16 or UTF-32; it must be UTF-8") from error
        if set(content) & _NOT_IN_TEXT:
            return None
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise ValueError(
            f"line {line} of {name} holds the byte {byte:#04x}, which is no UTF-8; save it as UTF-8"
        ) from error


def _parts(text: str) -> Iterator[str]:
    held = ""
    for paragraph in re.split(r"(?<=\n)\n+", text):
        held = f"{held}\n{paragraph}" if held else paragraph
        if len(held) >= TXT_CHARACTERS:
            yield held
            held = ""
    if held.strip():
        yield held


def _jsonl(text: str, column: str, name: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number} of {name}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is no JSON ({getattr(error, 'msg', error)})") from error
        if isinstance(row, str) and not column:
            yield _cell(row, where)
        elif isinstance(row, dict):
            yield _cell(row[_chosen(list(row), column, where)], where)
        else:
            raise ValueError(f"{where} is neither an object nor a text")


def _parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            chosen = _chosen(file.schema_arrow.names, column, path.name)
            for batch in file.iter_batches(columns=[chosen]):
                for value in batch.column(0):
                    number += 1
                    yield _cell(value.as_py(), f"row {number} of {path.name}")
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = str(error).splitlines()[0]
        at = f"row {number} of {path.name} cannot be read" if number else f"{path.name} is no parquet file"
        raise ValueError(f"{at} ({reason})") from error


def _chosen(there: list[str], column: str, where: str) -> str:
    for name in (column,) if column else COLUMNS:
        if name in there:
            return name
    wanted = repr(column) if column else f"any of {', '.join(COLUMNS)}"
    raise ValueError(f"column is {column!r}; {where} has not {wanted}, but {', '.join(there) or 'nothing'}")


def _cell(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} holds {reprlib.repr(value)}, which is no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a pair of code points, which JSON can write
        raise ValueError(f"{where} holds the code point {value[error.start]!a}, which is no character") from error
    return value


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
