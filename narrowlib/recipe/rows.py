"""Files with one document per row: jsonl, json, csv, tsv and parquet; a row may be a chat.

Empty rows are left out.  A row is a chat with ``messages``, ``conversations`` (ShareGPT) or a question and its answer:
``instruction`` and ``output`` (Alpaca), ``prompt`` and ``completion`` or ``chosen``.  What ``system`` and ``history``
say stands before.  A chat is left out without an answer, and where it holds more than text, such as an image or tools.
"""

from __future__ import annotations

import csv
import io
import json
import re
import reprlib
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from narrowlib.data.chats import ASSISTANT, answers_in
from narrowlib.data.documents import CHAT, Document

COLUMNS = ("text", "content", "code")  # looked for in this order where no column is named
LINES = (".jsonl", ".ndjson")  # a row on each line
SUFFIXES = (*LINES, ".json", ".csv", ".tsv", ".parquet")
_ROLES = {"human": "user", "prompter": "user"}  # of ShareGPT and others, in small letters
_ROLES |= dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai"), ASSISTANT)
_PAIRS = (("instruction", "output"), ("prompt", "completion"), ("prompt", "chosen"))
_SYSTEM = ("system", "system_prompt")
_TOOLS = ("tools", "functions")
_OF_CHATS = {"messages", "conversations", *_SYSTEM, *_TOOLS, "input", "history"}.union(*_PAIRS)
_BY_TOOLS = ("tool", "function", "function_call", "tool_call", "observation")  # roles

Rows = list[tuple[str, Any]]  # each with where it stands


def rows_in(text: str, suffix: str, name: str) -> Rows | None:
    """Rows of a text file; None if it does not consist of rows, ValueError if they cannot be separated."""
    if suffix in LINES and not text.lstrip().startswith("["):  # some tools give the suffix to one list
        return list(_json_lines(text, name))
    if suffix in (".csv", ".tsv"):
        return _csv_rows(text, suffix, name)
    if suffix in (".json", *LINES):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            if _begins_with_json_line(text):
                return list(_json_lines(text, name))
            raise ValueError(f"{name} is not JSON ({error})") from error
        with suppress(ValueError):
            if isinstance(found, dict) and messages_of(found, name):
                return [(name, found)]
        lists = found.values() if isinstance(found, dict) else [found]  # also under a name, as in {"data": [...]}
        longest = max((each for each in lists if _holds_rows(each)), key=len, default=())
        if longest:
            return [(f"entry {number} of {name}", each) for number, each in enumerate(longest, 1)]
    return None


def _csv_rows(text: str, suffix: str, name: str) -> Rows:
    csv.field_size_limit(sys.maxsize)
    names = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").partition("\n")[0])  # texts below may hold anything
    delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=names.count)
    is_spaced = f"{delimiter} " in names or re.search(rf'^[^"\n]*{delimiter} "', text[:20_000], re.M)
    options = {"delimiter": delimiter, "skipinitialspace": bool(is_spaced), "strict": True}
    lines, columns, found, number = csv.reader(io.StringIO(text, newline=""), **options), None, [], 1
    try:
        for cells in lines:
            if columns and cells:
                row = {**dict.fromkeys(columns), **dict(zip(columns, cells)), None: cells[len(columns) :]}
                found.append((f"line {number} of {name}", row))
            columns, number = columns or cells, lines.line_num + 1
    except csv.Error as error:
        raise ValueError(f"the row at line {number} of {name} is not CSV, its quotes do not match ({error})") from error
    return found


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, (dict, str, type(None))) for each in value)


def looks_like_json(text: str) -> bool:
    """Whether a text of no known kind is JSON, or JSON lines."""
    return text.lstrip()[:1] in ("{", "[") and (_begins_with_json_line(text) or _is_json(text))


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
                raise ValueError(f"line {number} of {name} is not JSON ({getattr(error, 'msg', error)})") from error


def rows_of_parquet(content: bytes, name: str, column: str) -> Rows:
    """Rows of a parquet file, with the columns that may hold text; ValueError for an invalid file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content))
        wanted = (column,) if column else (*COLUMNS, *_OF_CHATS)
        there = [each for each in table.column_names if each in wanted]
        rows = table.select(there or table.column_names).to_pylist()  # others may hold what Python has no value for
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is not a readable parquet file ({str(error).splitlines()[0]})") from error
    return [(f"row {number} of {name}", row) for number, row in enumerate(rows, 1)]


def hold_text(rows: Rows, column: str) -> bool:
    """Whether a row may be a document: it has the column, or is a chat if no column is named."""
    wanted = {column} if column else set(COLUMNS)
    return any(
        isinstance(row, str)
        or (isinstance(row, dict) and (not wanted.isdisjoint(row) or (not column and _is_chat(row))))
        for _, row in rows
    )


def documents_of(rows: Rows, column: str, name: str, leave: Callable[[str, str], None]) -> Iterator[Document]:
    """The documents of rows; ``leave`` is told the reason and the name of every row that is left out.

    Raises
    ------
    ValueError
        When no row has the column, or a row holds what is no text.
    """
    if not rows:
        raise ValueError(f"{name} holds no rows")
    first = next(((where, row) for where, row in rows if isinstance(row, dict)), None)
    if first is not None and not hold_text(rows, column):
        wanted = repr(column) if column else f"any of {', '.join(COLUMNS)}"
        there = ", ".join(map(str, filter(None, first[1]))) or "nothing"
        raise ValueError(f"column is {column!r}; {first[0]} has {there}, not {wanted}")
    for number, (where, row) in enumerate(rows):
        if isinstance(row, dict) and any(row.get(None) or ()):  # of csv, what stands behind the last named cell
            raise ValueError(f"{where} has more cells than columns; text with the delimiter must be quoted")
        if isinstance(row, dict) and not column and (messages := messages_of(row, where)):
            if any(message["content"] is None for message in messages):
                leave("chats with more than text", f"{name}:{number}")
            elif not any(message["content"].strip() for message in messages):
                leave("rows without text", f"{name}:{number}")
            elif not answers_in(messages):
                leave("chats without an answer", f"{name}:{number}")
            else:
                yield Document(CHAT, f"{name}:{number}", checked(json.dumps(messages, ensure_ascii=False), where))
            continue
        if isinstance(row, dict):
            row = next((row[each] for each in ((column,) if column else COLUMNS) if each in row), None)
        if row is None or (isinstance(row, str) and not row.strip()):
            leave("rows without text", f"{name}:{number}")
        elif not isinstance(row, str):
            raise ValueError(f"{where} holds {reprlib.repr(row)}, which is not text")
        else:
            yield Document("", f"{name}:{number}", checked(row, where))


def checked(text: str, where: str) -> str:
    """Refuse lone surrogates, which JSON can contain."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds the code point {text[error.start]!a}, which is not a character") from error
    return text


def _is_chat(row: dict[str, Any]) -> bool:
    is_pair = any({question, answer} <= set(row) for question, answer in _PAIRS)
    return is_pair or "messages" in row or "conversations" in row or isinstance(row.get("chosen"), list)


def messages_of(row: dict[str, Any], where: str) -> list[dict[str, str | None]]:
    """The messages of a row that is a chat, each with ``role`` and ``content``; none for other rows.

    The content of a turn that holds more than text, or follows the description of tools, is None.

    Raises
    ------
    ValueError
        For messages without a role or content; ``where`` names the row.
    """
    has_tools = any(row.get(name) not in (None, "", "[]", [], {}) for name in _TOOLS)
    try:
        roles = [(_role_of(turn), _content_of(turn)) for turn in _turns_of(row)]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: messages must each hold role and content, or from and value, as text") from error
    system = next((row[name] for name in _SYSTEM if row.get(name)), None)
    if roles and system and roles[0][0] != "system":
        roles.insert(0, ("system", _content_of({"content": system})))
    return [{"role": role, "content": None if has_tools or role in _BY_TOOLS else said} for role, said in roles]


def _turns_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Turns of a chat, as they stand in the row or made of question and answer."""
    if turns := row.get("messages") or row.get("conversations"):
        return turns
    for question, answer in _PAIRS:
        if row.get(answer) and (question in row or isinstance(row[answer], list)):
            said, asked = row[answer], row.get(question)
            said = said if isinstance(said, list) else [{"role": ASSISTANT, "content": str(said)}]
            if _role_of(said[0]) != ASSISTANT:  # the question is among them
                return said
            if not isinstance(asked, list):
                asked = [{"role": "user", "content": "\n\n".join(filter(None, (asked, row.get("input"))))}]
            earlier = (zip(("user", ASSISTANT), each, strict=True) for each in row.get("history") or ())
            return [*({"role": role, "content": text} for each in earlier for role, text in each), *asked, *said]
    return []


def _role_of(turn: dict[str, Any]) -> str:
    role = (turn.get("role") or turn["from"]).lower()
    return _ROLES.get(role, role)


def _content_of(turn: dict[str, Any]) -> str | None:
    """What a turn says, which may be in parts; None where it holds more than text."""
    content = turn["value"] if turn.get("content") is None and "value" in turn else turn["content"]
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    is_call = turn.get("tool_calls") or turn.get("function_call")
    return "".join(texts) if not is_call and all(isinstance(text, str) for text in texts) else None
