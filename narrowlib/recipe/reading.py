"""Files as people have them, read to documents; what is left out is told with its reason.

- Files may be compressed (``.gz``, ``.bz2``, ``.zst``), and in any encoding that can be told.
- jsonl, json that holds a list, csv, tsv and parquet hold a document per row; empty rows are left out.
- A row with ``messages``, ``conversations`` (ShareGPT) or ``instruction`` and ``output`` (Alpaca) is a chat; it is left
  out without an answer, and where a turn holds more than text, such as an image or the call of a tool.
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
_ROLES = {"human": "user", "prompter": "user"}  # of ShareGPT and others, in small letters
_ROLES |= dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai"), "assistant")
_OF_CHATS = ("messages", "conversations", "instruction", "input", "output")  # columns
_HEAD = 8_192  # bytes by which binary files are known


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
        if not os.path.isfile(path):  # noqa: PTH113 (is_file raises where a folder may not be looked into)
            continue
        n_files += 1
        name = os.fsencode(path.relative_to(folder).as_posix()).decode(errors="backslashreplace")
        try:
            reason = why_not(path, name, ignored, wanted if include else None, unwanted)
            found = [] if reason else list(_file(path, column, reading, shown=name))
        except (ValueError, OSError) as error:
            reading.leave(f"cannot be read: {' '.join(str(error).replace(name, 'it').split())}"[:120], name)
            continue
        if reason:
            reading.leave(reason, name)
        for document in found:
            suffix = _inner(path).suffix.lower()
            reason = why_not_text(_words_of(document), suffix, is_rows=suffix in _ROWS)
            if reason:
                reading.leave(reason, document.name)
            else:
                reading.documents.append(document)
    if not n_files:
        raise ValueError("the folder holds no file")


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
        raise ValueError(f"{path.name} is no {compression} file ({str(error).splitlines()[0]})") from error


def _file(path: Path, column: str, reading: Reading, *, shown: str = "", is_alone: bool = False) -> Iterator[Document]:
    shown, is_input = shown or path.name, str(path) == STANDARD_INPUT
    if not is_input and not path.is_file():
        raise ValueError("it is neither a file nor a folder")
    content, suffix = _content(path), _inner(path).suffix.lower()
    if not content:
        raise ValueError("the file is empty")
    if suffix == ".parquet":
        yield from _documents(_parquet(content, shown, column), column, shown, reading)
        return
    text = decoded(content)
    if text is None:
        if is_alone:
            raise ValueError("the file is binary; it must be UTF-8 text, of another encoding, or parquet named so")
        reading.leave("not text", shown)
        return
    if is_input and text.lstrip()[:1] in ("{", "[") and (_begins_with_json_line(text) or _is_json(text)):
        suffix = ".json"
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
    marked = _encoding_marked(content)
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


def _rows(text: str, suffix: str, name: str) -> list[tuple[str, Any]] | None:
    """Rows, each with where it stands; None where the file does not hold rows."""
    if suffix in (".jsonl", ".ndjson"):
        return list(_json_lines(text, name))
    if suffix in (".csv", ".tsv"):
        csv.field_size_limit(sys.maxsize)
        names = text.lstrip("\r\n").partition("\n")[0]  # texts below may hold anything
        delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=names.count)
        is_spaced = f"{delimiter} " in names or re.search(rf'^[^"\n]*{delimiter} "', text[:20_000], re.M)
        options = {"delimiter": delimiter, "skipinitialspace": bool(is_spaced)}
        rows = csv.DictReader(io.StringIO(text, newline=""), **options)
        try:
            return [(f"row {number} of {name}", row) for number, row in enumerate(rows, 1)]
        except csv.Error as error:
            raise ValueError(f"line {rows.line_num} of {name} is no CSV ({error})") from error
    if suffix == ".json":
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            if _begins_with_json_line(text):
                return list(_json_lines(text, name))
            raise ValueError(f"{name} is no JSON ({error})") from error
        lists = found.values() if isinstance(found, dict) else [found]  # also under a name, as in {"data": [...]}
        longest = max((each for each in lists if _holds_rows(each)), key=len, default=())
        if longest:
            return [(f"entry {number} of {name}", each) for number, each in enumerate(longest, 1)]
    return None


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, (dict, str, type(None))) for each in value)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _begins_with_json_line(text: str) -> bool:
    """Whether the first of several lines is JSON by itself, as in JSON lines."""
    first, _, others = text.strip().partition("\n")
    return bool(others) and _is_json(first)


def _json_lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number} of {name}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number} of {name} is no JSON ({getattr(error, 'msg', error)})") from error


def _parquet(content: bytes, name: str, column: str) -> list[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content))
        wanted = (column,) if column else (*COLUMNS, *_OF_CHATS)
        there = [each for each in table.column_names if each in wanted]
        rows = table.select(there or table.column_names).to_pylist()  # others may hold what Python has no value for
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is no parquet file that can be read ({str(error).splitlines()[0]})") from error
    return [(f"row {number} of {name}", row) for number, row in enumerate(rows, 1)]


def _has_text(rows: list[tuple[str, Any]], column: str) -> bool:
    wanted = {column} if column else set(COLUMNS)
    return any(
        isinstance(row, str)
        or (isinstance(row, dict) and (not wanted.isdisjoint(row) or (not column and _is_chat(row))))
        for _, row in rows
    )


def _documents(rows: list[tuple[str, Any]], column: str, name: str, reading: Reading) -> Iterator[Document]:
    first = next(((where, row) for where, row in rows if isinstance(row, dict)), None)
    if first is not None and not _has_text(rows, column):
        wanted = repr(column) if column else f"any of {', '.join(COLUMNS)}"
        there = ", ".join(map(str, first[1])) or "nothing"
        raise ValueError(f"column is {column!r}; {first[0]} has not {wanted}, but {there}")
    for number, (where, row) in enumerate(rows):
        if isinstance(row, dict) and any(row.get(None) or ()):  # of csv, what stands behind the last named cell
            raise ValueError(f"{where} has more cells than columns; a text with the delimiter must be quoted")
        if isinstance(row, dict) and not column and (messages := messages_of(row, where)):
            if any(message["content"] is None for message in messages):
                reading.leave("chats of more than text", f"{name}:{number}")
            elif not any(message["content"].strip() for message in messages):
                reading.leave("rows without text", f"{name}:{number}")
            elif not answers_in(messages):
                reading.leave("chats without an answer", f"{name}:{number}")
            else:
                yield Document(CHAT, f"{name}:{number}", _checked(json.dumps(messages, ensure_ascii=False), where))
            continue
        if isinstance(row, dict):
            row = next((row[each] for each in ((column,) if column else COLUMNS) if each in row), None)
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


def messages_of(row: dict[str, Any], where: str) -> list[dict[str, str | None]]:
    """The messages of a row that is a chat, each with ``role`` and ``content``; none where it is not.

    The content of a turn that holds more than text is None.

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
            said = [(turn.get("role") or turn["from"], _content_of(turn)) for turn in turns]
        return [{"role": _ROLES.get(role.lower(), role.lower()), "content": content} for role, content in said]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where}: messages must each hold role and content, or from and value, as texts") from error


def _content_of(turn: dict[str, Any]) -> str | None:
    """What a turn says, which may be in parts; None where it holds more than text."""
    content = turn["value"] if turn.get("content") is None and "value" in turn else turn["content"]
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    is_call = turn.get("tool_calls") or turn.get("function_call")
    return "".join(texts) if not is_call and all(isinstance(text, str) for text in texts) else None


def _cells(text: str, name: str) -> str:
    try:
        cells = json.loads(text)["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] in ("code", "markdown")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{name} is no notebook") from error
    return _checked("\n\n".join(re.sub(r"data:[\w/+.-]+;base64,[\w+/=]+", "", text) for text in texts), name)


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
