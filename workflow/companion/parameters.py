"""The parameters of a chapter: what its page declares, what profiles and users set, and the model that checks them.

A page that imports a ``Config`` of the library states types, ranges and meanings there, and its first cell checks them
again, whoever runs it.  The parameters cell alone says names, types and the quick values; nothing heavy is imported to
read it.
"""

import ast
import os
import shlex
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import create_model

from companion import chapters
from companion.plainly import Refusal
from narrowlib.settings import Settings, SettingsError, read_yaml
from narrowlib.store.files import is_stray

PROFILES = chapters.BOOK / "profiles"
QUICK, PAPER = "quick", "paper"  # the values of the parameters cells, and those of the models
CHECKPOINTS = {"checkpoints": "_build/checkpoints"}  # what long runs save their progress in
KINDS = {"int": int, "float": float, "str": str, "bool": bool}


class ParameterError(Refusal):
    """A parameter that a chapter does not have, or a value that it does not take."""


@cache
def cell(chapter: str) -> type[Settings]:
    """Names, types and quick values of the parameters cell, as a model without ranges."""
    cells = [each.source for each in chapters.code_cells(chapter) if "parameters" in each.metadata.get("tags", [])]
    fields: dict[str, Any] = {}
    for line in ast.parse(cells[0]).body if cells else ():
        kind = KINDS.get(ast.unparse(line.annotation)) if isinstance(line, ast.AnnAssign) else None
        if kind is None or line.value is None:
            raise SyntaxError(
                f"a parameters cell holds lines of the form 'name: type = value' with a type of {', '.join(KINDS)}, "
                f"not {ast.unparse(line)!r}"
            )
        fields[line.target.id] = (kind, ast.literal_eval(line.value))
    return create_model("Cell", __base__=Settings, **fields)


def quick(chapter: str) -> dict[str, Any]:
    """The values in the parameters cell."""
    return {name: field.default for name, field in cell(chapter).model_fields.items()}


@cache
def page_module(chapter: str) -> ModuleType | None:
    """The module of the library that a page imports its ``Config`` from; None when it has none."""
    for each in chapters.code_cells(chapter):
        for line in ast.parse(chapters.without_magics(each.source)).body:
            if isinstance(line, ast.ImportFrom) and any(name.name == "Config" for name in line.names):
                return import_module(line.module)
    return None


def model(chapter: str) -> type[Settings]:
    """The model of a page's parameters: its ``Config``, or its parameters cell where it has none."""
    module = page_module(chapter)
    return module.Config if module else cell(chapter)


def profile_names() -> list[str]:
    """Names of the profiles: the values of the pages, those of the paper, and a folder each."""
    folders = {path.name for path in PROFILES.glob("*") if path.is_dir() and not is_stray(Path(path.name))}
    return [QUICK, PAPER, *sorted(folders - {PAPER})]


def of_profile(chapter: str, profile: str) -> dict[str, Any]:
    """What a profile sets for a chapter, its names and types checked.

    A profile is a folder of files that papermill takes as they are (``papermill -f book/profiles/smoke/mnist.yaml``).
    A ParameterError when there is no such profile, or it sets what the chapter does not take.
    """
    if profile not in profile_names():
        raise ParameterError(f"PROFILE is {profile!r}; it must be one of {', '.join(profile_names())}")
    values = model(chapter)().to_parameters() if profile == PAPER and page_module(chapter) else {}
    values |= {name: value for name, value in CHECKPOINTS.items() if name in values}
    path = PROFILES / profile / f"{chapter}.yaml"
    try:
        return values | checked(chapter, read_yaml(path) if path.is_file() else {})
    except SettingsError as error:
        raise ParameterError(error) from None


def checked(chapter: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values as their declared types; a text is read as what it says.

    A ParameterError for the first name that the chapter does not have, or value of another type.
    """
    try:
        values = cell(chapter)(**given)
    except SettingsError as error:
        raise ParameterError(f"{chapter}: {str(error).splitlines()[0]}") from None
    return {name: getattr(values, name) for name in given}


def chosen(chapter: str, profile: str, overrides: str) -> dict[str, Any]:
    """The profile's values with the overrides, ``name=value`` separated by spaces, on top; names and types checked."""
    if chapter not in chapters.names():
        raise ParameterError(f"CHAPTER is {chapter!r}; it must be one of {', '.join(chapters.names())}")
    try:
        lexer = shlex.shlex(overrides, posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.commenters = True, ""
        lexer.escape = lexer.escape if os.sep == "/" else ""  # a backslash is part of a path
        words = list(lexer)
    except ValueError as error:
        raise ParameterError(f"P is {overrides!r}; it cannot be split into words: {error}") from None
    given = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ParameterError(f"P holds {word!r}; it must hold name=value, separated by spaces")
        given[name] = value
    return {**of_profile(chapter, profile), **checked(chapter, given)}
