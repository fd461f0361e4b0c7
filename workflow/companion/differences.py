"""Where the book departs from the paper: ``book/differences.yaml``, as lists and as departures of records."""

from functools import cache
from typing import Any

from companion import chapters, parameters
from companion.plainly import Refusal
from narrowlib.texts import load_yaml

FILE = chapters.BOOK / "differences.yaml"
TEXTS = ("what", "paper", "here", "why")


@cache
def differences() -> tuple[dict[str, Any], ...]:
    """Every difference: ``chapters``, ``what``, ``paper``, ``here``, ``why``, and for some the ``parameter`` of it,
    whose value in the profile ``paper`` is ``here`` where that is not said.

    Refused when one lacks something, or names a chapter or parameter that there is not.
    """
    if not FILE.is_file():
        return ()
    found = chapters.refused(load_yaml, FILE, list)
    names = chapters.names()
    for number, each in enumerate(found, 1):
        where = f"difference {number} in {FILE.name}"
        if not isinstance(each, dict) or not isinstance(each.get("chapters"), list):
            raise Refusal(f"{where} has no chapters; they must be a list")
        parameter = each.get("parameter")
        for chapter in each["chapters"] or [None]:
            if chapter not in names and not (chapter and chapters.source_path(chapter).is_file()):
                raise Refusal(f"{where} names the chapter {chapter!r}; it must be one of {', '.join(names)}")
            if parameter and parameter not in parameters.quick(chapter):
                raise Refusal(f"{where} names the parameter {parameter!r}, which {chapter} does not have")
        if parameter:
            each.setdefault("here", str(parameters.of_profile(chapter, parameters.PAPER)[parameter]))
        if missing := [name for name in TEXTS if not isinstance(each.get(name), str)]:
            raise Refusal(f"{where} has no {missing[0]}; it must be a text")
        each["chapters"] = [chapter for chapter in each["chapters"] if chapter in names]
    return tuple(each for each in found if each["chapters"])


def of_parameters(chapter: str) -> dict[str, str]:
    """What the paper has for those parameters of a chapter in which even the profile ``paper`` departs from it."""
    concerned = [each for each in differences() if "parameter" in each and chapter in each["chapters"]]
    return {each["parameter"]: each["paper"] for each in concerned}


def listing() -> str:
    """All differences in Markdown, in the order of the file: a list for each set of chapters."""
    lists: dict[tuple[str, ...], list[str]] = {}
    for each in differences():
        what = each["what"][:1].upper() + each["what"][1:]
        told = f"- **{what}.** *The paper:* {each['paper']}. *Here:* {each['here']}. *Why:* {each['why']}."
        lists.setdefault(tuple(each["chapters"]), []).append(told)
    parts = []
    for concerned, items in lists.items():
        links = [f"{{doc}}`{chapter} </book/{chapter}>`" for chapter in concerned]
        parts.append("\n".join([f"In {', '.join(links)}:", "", *items]))
    return "\n\n".join(parts)
