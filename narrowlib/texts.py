"""Text files that people write: decoded as they were saved, and YAML as its author means it; and counts in words."""

import codecs
import io
import re
from pathlib import Path
from typing import Any

import yaml

# Octal, hexadecimal, base 60, dates, digits in groups, and what YAML 1.1 has no reader for.
_SURPRISES = r"[-+]?0[\dxb].*|.*[:_].*|\d+-\d+-\d.*|=|<<"
_KINDS = {dict: "lines of the form name: value", list: "a list, with lines that begin with -"}


def read_text(path: str | Path, newline: str | None = None) -> str:
    r"""The text of a file in UTF-8, or in UTF-16 with its mark.

    Parameters
    ----------
    path : path
    newline : str, optional
        As for ``open``: by default every line ends in ``\n``; ``""`` leaves the ends as they are.

    Raises
    ------
    ValueError
        When it is in another encoding, with the line where that shows.
    """
    data = Path(path).read_bytes()
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_wide else "utf-8-sig")
        at = text.find("\0")
    except UnicodeDecodeError as error:
        at = error.start
    if at >= 0:
        raise _fault(path, "it is not in UTF-8", data.count(b"\n", 0, at))
    return io.StringIO(text, newline).read()


def load_yaml(path: str | Path, kind: type = dict, *, truths: bool = False) -> Any:
    """The content of a YAML file.

    Numbers are decimal, ``010`` is text as well as ``12:30``, and only ``true`` and ``false`` are truth values: what
    YAML 1.1 makes of them, 8, 750 and False of ``no``, nobody means.  Tags, which would say so (``!!int 010``), are
    refused.

    Parameters
    ----------
    path : path
    kind : {dict, list}
        What it must hold.
    truths : bool
        Whether ``yes``, ``no``, ``on`` and ``off`` are truth values all the same, as tools of others read them.

    Raises
    ------
    OSError
        When it cannot be opened.
    ValueError
        When it is no such YAML, or holds a name twice, with the line; when it holds something else.
    """
    text = read_text(path)
    try:
        found = yaml.load(text, _WithTruths if truths else _Loader)  # noqa: S506 (both are safe ones)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _fault(path, ", ".join(filter(None, (error.context, error.problem))), mark.line) from error
    except yaml.reader.ReaderError as error:
        problem = f"it holds the character {chr(error.character)!r}"
        raise _fault(path, problem, text.count("\n", 0, error.position)) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(found, kind):
        held = "nothing" if found is None else {list: "a list", dict: "a mapping"}.get(type(found), repr(found))
        raise ValueError(f"{str(path)!r} holds {held}; it must hold {_KINDS[kind]}")
    return found


def counted(n: int, what: str) -> str:
    """A number with what it counts: 1 run, 2 runs."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _fault(path: str | Path, problem: str, line: int) -> ValueError:
    return ValueError(f"{str(path)!r} cannot be read: {problem} (line {line + 1})")


class _Loader(yaml.SafeLoader):
    """Scalars as whoever wrote them means them, and every name once."""

    surprises = re.compile(f"{_SURPRISES}|yes|no|on|off", re.I)

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        tag = super().resolve(kind, value, implicit)
        is_surprise = kind is yaml.ScalarNode and not tag.endswith(("str", "null")) and self.surprises.fullmatch(value)
        return f"{tag.rpartition(':')[0]}:str" if is_surprise else tag

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if tag := getattr(event, "tag", None):
            short = tag.replace("tag:yaml.org,2002:", "!!")
            raise yaml.MarkedYAMLError(
                problem=f"it holds the tag {short}; tags are not allowed", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(self.construct_object(key, deep=True)).replace("-", "_")
            problem = f"it holds {name!r} more than once" if name in seen else ""
            problem = "it merges by <<; the lines must be written out" if name == "<<" else problem
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _WithTruths(_Loader):
    surprises = re.compile(_SURPRISES, re.I)
