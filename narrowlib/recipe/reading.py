"""Files as people have them, read to documents; what is left out is told with its reason.

- Files may be compressed (``.gz``, ``.bz2``, ``.zst``), and in any encoding that can be told.
- jsonl, json that holds a list, csv, tsv and parquet hold a document per row; empty rows are left out.
- A row with ``messages``, ``conversations`` (ShareGPT) or ``instruction`` and ``output`` (Alpaca) is a chat; one
  without an answer is left out.
- A txt file that is named alone is cut at blank lines into documents of at least `TXT_CHARACTERS`; without blank lines
  each line is a document.  Of a notebook the cells are taken, not their output.
- Of a folder, files are left out that are hidden or backups, that ``.gitignore`` names, that tools write (lock files,
  minified or generated code), that are not text, or that seem to hold a secret.  A file that cannot be read is left
  out too.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import reprlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from narrowlib.data.chats import answers_in
from narrowlib.data.documents import CHAT, Document
from narrowlib.recipe.left_out import ignored_by, patterns_of, why_not, why_not_text

COLUMNS = ("text", "content", "code")  # looked for in this order where no column is named
TXT_CHARACTERS = 2_000
STANDARD_INPUT = "-"
_ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_MARKS |= {b"\xef\xbb\xbf": "utf-8-sig"}
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}  # of ShareGPT


@dataclass
class Reading:
    """Documents that were taken, and the names of what was left out, by reason."""

    documents: list[Document] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, reason: str, name: str) -> None:
        """Note that something was left out."""
        self.left_out.setdefault(reason, []).append(name)


def read(path: Path, *, column: str = "", include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Reading:
    """Documents of a file, a folder, or the standard input, which is called `STANDARD_INPUT`.

    Parameters
    ----------
    path : Path
    column : str
        Of files of rows; empty for the first of `COLUMNS` that is there.
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
    n_files = 0
    ignored, wanted, unwanted = ignored_by(folder), patterns_of(include), patterns_of(exclude)
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        n_files += 1
        name = os.fsencode(path.relative_to(folder).as_posix()).decode(errors="backslashreplace")
        reason = why_not(path, name, ignored, wanted if include else None, unwanted)
        if reason:
            reading.leave(reason, name)
            continue
        try:
            found = list(_file(path, column, reading, shown=name))
        except (ValueError, OSError) as error:
            reading.leave(f"cannot be read: {' '.join(str(error).replace(name, 'it').split())}"[:120], name)
            continue
        for document in found:
            suffix = _inner(path).suffix.lower()
            reason = why_not_text(document.text, suffix, is_rows=suffix in _ROWS)
            if reason:
                reading.leave(reason, document.name)
            else:
                reading.documents.append(document)
    if not n_files:
        raise ValueError("the folder holds no file")


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
        return path.read_bytes()
    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            return stream.read()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path.name} is no {compression} file ({str(error).splitlines()[0]})") from error


def _file(path: Path, column: str, reading: Reading, *, shown: str = "", is_alone: bool = False) -> Iterator[Document]:
    shown, is_input = shown or path.name, str(path) == STANDARD_INPUT
    if not is_input and not path.is_file():
        raise ValueError("it is neither a file nor a folder")
    content, suffix = _content(path), _inner(path).suffix.lower()
    if not content:
        raise ValueError("the file is empty")
    if suffix == ".parquet":
        yield from _documents(_parquet(content, shown), column, shown, reading)
        return
    text = decoded(content)
    if text is None:
        if is_alone:
            raise ValueError("the file is binary; it must be UTF-8 text, of another encoding, or parquet named so")
        reading.leave("not text", shown)
        return
    if is_input and text.lstrip()[:1] in ("{", "["):
        suffix = ".json" if text.lstrip()[0] == "[" and "\n{" not in text else ".jsonl"
    rows = _rows(text, suffix, shown)
    if rows is not None and (is_alone or suffix in (".jsonl", ".ndjson") or _has_text(rows, column)):
        yield from _documents(rows, column, shown, reading)
    elif suffix == ".ipynb":
        yield Document("", shown, _cells(text, shown))
    elif is_alone:
        yield from (Document("", f"{shown}:{number}", part) for number, part in enumerate(_parts(text)))
    else:
        yield Document("", shown, text)


def decoded(content: bytes) -> str | None:
    """Text in the encoding that it seems to be in; None for what is no text.

    Raises
    ------
    ValueError
        For a line that is not in the encoding of the others.
    """
    marked = next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), None)
    if marked is None and b"\0" in content:
        return None
    encoding = marked or "utf-8"
    try:
        return content.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        if marked or _is_mostly_utf8(content):
            number = content[: error.start].decode(encoding, "replace").count("\n") + 1
            raise ValueError(f"line {number} is not {encoding.upper()}, as the other lines are") from error
    encoding = _guessed(content)
    try:
        return content.decode(encoding).replace("\r\n", "\n") if encoding else None
    except UnicodeDecodeError:
        return None


def _is_mostly_utf8(content: bytes) -> bool:
    """Whether more than half of what is not ASCII are characters, and not single bytes: by chance it is a tenth."""
    others = re.findall(r"[^\0-\x7f]", content.decode("utf-8", "surrogateescape"))
    return sum(not "\udc80" <= each <= "\udcff" for each in others) > len(others) / 2


def _guessed(content: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(content[:100_000], threshold=0.1).best()
    return best.encoding if best else None


def _rows(text: str, suffix: str, name: str) -> list[tuple[str, Any]] | None:
    """Rows, each with where it stands; None where the file does not hold rows."""
    if suffix in (".jsonl", ".ndjson"):
        return list(_json_lines(text, name))
    if suffix in (".csv", ".tsv"):
        csv.field_size_limit(sys.maxsize)
        try:
            dialect = csv.excel_tab if suffix == ".tsv" else csv.Sniffer().sniff(text[:20_000], delimiters=",;\t")
        except csv.Error:
            dialect = csv.excel
        rows = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect)
        try:
            return [(f"row {number} of {name}", row) for number, row in enumerate(rows, 1)]
        except csv.Error as error:
            raise ValueError(f"line {rows.line_num} of {name} is no CSV ({error})") from error
    if suffix == ".json":
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} is no JSON ({error})") from error
        if isinstance(found, dict):  # a list under one name, as in {"data": [...]}
            found = next((value for value in found.values() if isinstance(value, list)), None)
        if isinstance(found, list) and found and all(isinstance(each, (dict, str, type(None))) for each in found):
            return [(f"entry {number} of {name}", each) for number, each in enumerate(found, 1)]
    return None


def _json_lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number} of {name}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number} of {name} is no JSON ({getattr(error, 'msg', error)})") from error


def _parquet(content: bytes, name: str) -> list[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(io.BytesIO(content)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is no parquet file that can be read ({str(error).splitlines()[0]})") from error
    return [(f"row {number} of {name}", row) for number, row in enumerate(rows, 1)]


def _has_text(rows: list[tuple[str, Any]], column: str) -> bool:
    first = next((row for _, row in rows if row), None)
    wanted = (column,) if column else COLUMNS
    return isinstance(first, str) or (isinstance(first, dict) and (any(c in first for c in wanted) or _is_chat(first)))


def _documents(rows: list[tuple[str, Any]], column: str, name: str, reading: Reading) -> Iterator[Document]:
    for number, (where, row) in enumerate(rows):
        if isinstance(row, dict) and any(row.get(None) or ()):  # of csv, what stands behind the last named cell
            raise ValueError(f"{where} has more cells than columns; a text with the delimiter must be quoted")
        if isinstance(row, dict) and not column and (messages := messages_of(row, where)):
            if answers_in(messages):
                yield Document(CHAT, f"{name}:{number}", _checked(json.dumps(messages, ensure_ascii=False), where))
            else:
                reading.leave("chats without an answer", f"{name}:{number}")
            continue
        if isinstance(row, dict):
            row = row[_chosen(list(row), column, where)]
        if row is None or (isinstance(row, str) and not row.strip()):
            reading.leave("rows without text", f"{name}:{number}")
        elif not isinstance(row, str):
            raise ValueError(f"{where} holds {reprlib.repr(row)}, which is no text")
        else:
            yield Document("", f"{name}:{number}", _checked(row, where))


def _checked(text: str, where: str) -> str:
    """Refuse half of a pair of code points, which JSON can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds the code point {text[error.start]!a}, which is no character") from error
    return text


def _is_chat(row: dict[str, Any]) -> bool:
    return "messages" in row or "conversations" in row or {"instruction", "output"} <= set(row)


def messages_of(row: dict[str, Any], where: str) -> list[dict[str, str]]:
    """The messages of a row that is a chat, each with ``role`` and ``content``; none where it is not.

    Raises
    ------
    ValueError
        For messages without a role or content; ``where`` names the row.
    """
    try:
        if {"instruction", "output"} <= set(row) and row["output"]:
            asked = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
            said = [("user", asked), ("assistant", str(row["output"]))]
        else:
            turns = row.get("messages") or row.get("conversations") or []
            said = [(turn.get("role") or turn["from"], turn["content"] if "content" in turn else turn["value"])
                    for turn in turns]  # fmt: skip
        texts = [(_ROLES.get(role, role), content) for role, content in said if isinstance(content, str)]
        if not all(isinstance(role, str) for role, _ in texts):
            raise TypeError("a role is no text")
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where}: messages must each hold role and content, or from and value, as texts") from error
    return [{"role": role, "content": content} for role, content in texts]


def _cells(text: str, name: str) -> str:
    try:
        cells = json.loads(text)["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] in ("code", "markdown")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{name} is no notebook") from error
    return _checked("\n\n".join(re.sub(r"data:[\w/+.-]+;base64,[\w+/=]+", "", text) for text in texts), name)


def _parts(text: str) -> Iterator[str]:
    paragraphs = re.split(r"(?<=\n)\n+", text)
    if len(paragraphs) == 1:
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


def _chosen(there: list[str], column: str, where: str) -> str:
    for name in (column,) if column else COLUMNS:
        if name in there:
            return name
    wanted = repr(column) if column else f"any of {', '.join(COLUMNS)}"
    raise ValueError(f"column is {column!r}; {where} has not {wanted}, but {', '.join(map(str, there)) or 'nothing'}")
