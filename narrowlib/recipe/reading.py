"""Read users' files as documents, and report what is left out with its reason.

- Files may be compressed (``.gz``, ``.bz2``, ``.zst``), and in any encoding that can be told.
- jsonl, json that holds a list, csv, tsv and parquet hold a document per row, which may be a chat: see
  `narrowlib.recipe.rows`.
- A txt file that is named alone is cut at blank lines into documents of at least `TXT_CHARACTERS`; without blank lines
  each line is a document.  Of a notebook the cells are taken, not their output.
- Of a folder, files are left out that are hidden or backups, that ``.gitignore`` names, that tools write (lock files,
  drawings, minified or generated code), that are not text, or that seem to hold a secret.  A file or folder that cannot
  be read is left out too, and links to folders are not followed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from narrowlib.data.documents import CHAT, Document
from narrowlib.recipe.left_out import files_in, patterns_of, why_not, why_not_text
from narrowlib.recipe.rows import (
    LINES,
    SUFFIXES,
    checked,
    documents_of,
    hold_text,
    looks_like_json,
    rows_in,
    rows_of_parquet,
)

TXT_CHARACTERS = 2_000
STANDARD_INPUT = "-"
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_MARKS |= {b"\xef\xbb\xbf": "utf-8-sig"}
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_HEAD = 8_192  # bytes by which binary files are known
_PRINTED = (b"%PDF-", b"%!PS", rb"{\rtf")  # may hold ASCII alone, and yet is no text


@dataclass
class Reading:
    """Documents that were taken, and the names of what was left out, by reason."""

    documents: list[Document] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, reason: str, name: str) -> None:
        """Note that something was left out."""
        self.left_out.setdefault(reason, []).append(name)


def read(path: Path, *, column: str = "", include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Reading:
    """Documents of a file, a folder, or standard input, which is named `STANDARD_INPUT`.

    Parameters
    ----------
    path : Path
    column : str
        Of files of rows; empty for the first of ``narrowlib.recipe.rows.COLUMNS`` that is there.
    include, exclude : sequence of str
        Patterns as in ``.gitignore`` of files of a folder; without ``include`` all are taken.

    Raises
    ------
    ValueError
        When a file that is named alone cannot be read, or a folder holds no file.
    """
    reading = Reading()
    if path.is_dir():
        _read_folder(path, column, include, exclude, reading)
    else:
        reading.documents += _file(path, column, reading, is_alone=True)
    return reading


def _read_folder(folder: Path, column: str, include: Sequence[str], exclude: Sequence[str], reading: Reading) -> None:
    wanted, unwanted = patterns_of(include), patterns_of(exclude)
    for path, name in files_in(folder, reading.leave):
        try:
            reason = why_not(path, name, wanted if include else None, unwanted)
            found = [] if reason else list(_file(path, column, reading, shown=name))
        except (ValueError, OSError) as error:
            reading.leave(f"cannot be read: {' '.join(str(error).replace(name, 'it').split())}"[:120], name)
            continue
        if reason:
            reading.leave(reason, name)
        for document in found:
            suffix = _inner(path).suffix.lower()
            reason = why_not_text(_words_of(document), suffix, is_rows=suffix in SUFFIXES)
            if reason:
                reading.leave(reason, document.name)
            else:
                reading.documents.append(document)
    if not reading.documents and not reading.left_out:
        raise ValueError("the folder holds no files")


def _words_of(document: Document) -> str:
    """The text as it was written, of a chat without the escapes of JSON."""
    if document.package != CHAT:
        return document.text
    return "\n\n".join(message["content"] for message in json.loads(document.text))


@cache
def _standard_input() -> bytes:
    return sys.stdin.buffer.read()


def _inner(path: Path) -> Path:
    """The name without the suffix of a compression."""
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path


def _content(path: Path) -> bytes:
    import pyarrow as pa

    if str(path) == STANDARD_INPUT:
        return _standard_input()
    compression = _COMPRESSED.get(path.suffix.lower())
    if compression is None:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            is_binary = _encoding_marked(head) is None and b"\0" in head and path.suffix.lower() != ".parquet"
            return head if is_binary else head + file.read()
    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            return stream.read()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path.name} is not a {compression} file ({str(error).splitlines()[0]})") from error


def _file(path: Path, column: str, reading: Reading, *, shown: str = "", is_alone: bool = False) -> Iterator[Document]:
    shown, is_input = shown or path.name, str(path) == STANDARD_INPUT
    if not is_input and not path.is_file():
        raise ValueError("it is neither a file nor a folder")
    content, suffix = _content(path), _inner(path).suffix.lower()
    if not content:
        raise ValueError("the file is empty")
    if suffix == ".parquet":
        yield from documents_of(rows_of_parquet(content, shown, column), column, shown, reading.leave)
        return
    text = decoded(content)
    if text is None:
        if is_alone:
            before, nul, _ = content.partition(b"\0")
            where = f"; line {before.count(10) + 1} holds a NUL character" if nul else ""
            wanted = "text, or parquet with the suffix .parquet"
            raise ValueError(f"the file is binary; it must be {wanted}{where}")
        reading.leave("not text", shown)
        return
    if is_input and looks_like_json(text):
        suffix = ".json"
    rows = rows_in(text, suffix, shown)
    if rows is not None and (is_alone or suffix in LINES or not rows or hold_text(rows, column)):
        yield from documents_of(rows, column, shown, reading.leave)
    elif suffix == ".ipynb":
        yield Document("", shown, _cells(text, shown))
    elif is_alone:
        yield from (Document("", f"{shown}:{number}", part) for number, part in enumerate(_parts(text)))
    else:
        yield Document("", shown, text)


def decoded(content: bytes) -> str | None:
    """Text decoded in its likely encoding; None if it is not text.

    Raises
    ------
    ValueError
        For a line that is not in the encoding of the others.
    """
    marked = _encoding_marked(content)
    if (marked is None and b"\0" in content) or content.startswith(_PRINTED):
        return None
    encoding = marked or "utf-8"
    try:
        return content.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        if marked or _is_mostly_utf8(content):
            number = content[: error.start].decode(encoding, "replace").count("\n") + 1
            raise ValueError(f"line {number} is not {encoding.upper()}, unlike the other lines") from error
    encoding = _guessed(content)
    try:
        return content.decode(encoding).replace("\r\n", "\n") if encoding else None
    except UnicodeDecodeError:
        return None


def _encoding_marked(content: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), None)


def _is_mostly_utf8(content: bytes) -> bool:
    """Whether more than half of what is not ASCII are characters, and not single bytes: by chance it is a tenth."""
    others = re.findall(r"[^\0-\x7f]", content.decode("utf-8", "surrogateescape"))
    return sum(not "\udc80" <= each <= "\udcff" for each in others) > len(others) / 2


def _guessed(content: bytes) -> str | None:
    from charset_normalizer import from_bytes

    head = content[:100_000]
    if len(head) < len(content):  # half a character at its end would speak against every encoding of several bytes
        head = head[: head.rfind(b"\n") + 1] or head
    best = from_bytes(head, threshold=0.1).best()
    return best.encoding if best else None


def _cells(text: str, name: str) -> str:
    try:
        cells = json.loads(text)["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] in ("code", "markdown")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{name} is not a notebook") from error
    return checked("\n\n".join(re.sub(r"data:[\w/+.-]+;base64,[\w+/=]+", "", text) for text in texts), name)


def _parts(text: str) -> Iterator[str]:
    paragraphs = re.split(r"(?<=\n)\n+", text)
    if "\n\n" not in text.strip("\n"):
        yield from (line for line in text.split("\n") if line.strip())
        return
    held = ""
    for paragraph in paragraphs:
        held = f"{held}\n{paragraph}" if held else paragraph
        if len(held) >= TXT_CHARACTERS:
            yield held
            held = ""
    if held.strip():
        yield held
