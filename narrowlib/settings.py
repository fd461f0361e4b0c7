"""One base for every configuration: types, ranges and meanings once, errors of one sentence.

A configuration is a `Settings` whose fields carry their range in the type and their meaning in the description:

>>> class Config(Settings):
...     n_seeds: Count = Field(4, description="runs of every setting")
...     rates: Numbers[Rate] = Field((1e-3,), description="step sizes of Adam")
>>> Config(rates="3e-3 1e-2").rates
(0.003, 0.01)
>>> Config(n_seeds=0)
Traceback (most recent call last):
narrowlib.settings.SettingsError: n_seeds is 0; it must be a whole number of at least 1

It is built from keywords, from the parameters of a notebook (`Settings.from_parameters`), from a YAML file
(`read_yaml`) or from flags (`add_flags`), with the same checks and the same sentences.
"""

import argparse
import ast
import contextlib
import difflib
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from narrowlib.texts import load_yaml

T = TypeVar("T")
S = TypeVar("S", bound="Settings")
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "divisible by"}
_KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
_NO_CHARACTERS = re.compile("[\0\ud800-\udfff]")  # bytes of another encoding in the arguments, too
_NO_NUMBER = re.compile(r"float\('-?(nan|inf)'\)")  # a constant, as papermill injects it
_MOST_EXACT = 2**53  # below which every whole number is a float of its own
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def _each_once(values: tuple, info: ValidationInfo) -> tuple:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{info.field_name} holds {value!r} more than once; it must hold each value once")
    return values


Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]  # numpy takes less than 2**32, and to some a few are added
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]  # step size of an optimiser
Weight = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]  # such as a sparsity
Part = Annotated[float, Field(gt=0, lt=1)]  # a share that is not nothing
Device = Literal["auto", "cpu", "cuda"]
AutoPrecision = Literal["auto", "float32", "bfloat16"]  # see `narrowlib.devices.is_bfloat16`
_EACH_ONCE = AfterValidator(_each_once)
Numbers = Annotated[tuple[T, ...], Field(min_length=1), _EACH_ONCE]  # also as text: "30 50 70"
Words = Numbers  # "random lasso", for Words[Literal["random", "lasso"]]
Pairs = Numbers[tuple[T, T]]  # "0.5/0.2 0.8/0.5"


class SettingsError(ValueError):
    """An unknown setting or an illegal value: one sentence per fault, one fault per line."""


class Parameter(NamedTuple):
    """A row of `Settings.parameters_table`: type (int, float, bool, str) and default as in a parameters cell."""

    name: str
    type: str
    default: Any  # None where there is none
    legal: str  # "a whole number of at least 1"
    meaning: str


class part(property):
    """A property that builds another configuration; evaluated at construction, so that its errors appear there."""


class Settings(BaseModel):
    """Base of every configuration: frozen, no unknown names, values checked, text converted to its field's type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
            for each in (each for kind in type(self).__mro__ for each in vars(kind).values()):
                if isinstance(each, part):
                    each.__get__(self)
        except ValueError as error:
            told = _sentences(type(self), error) if isinstance(error, ValidationError) else [str(error)]
            raise SettingsError("\n".join(told)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _read_text(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str) and (wrong := _NO_CHARACTERS.search(value)):
            raise ValueError(
                f"{info.field_name} holds {wrong[0]!a}; it must hold characters that can be written to a file"
            )
        return _read(value, cls.model_fields[info.field_name].annotation)

    @classmethod
    def from_parameters(cls, namespace: Mapping[str, Any], **fixed: Any) -> Self:
        """A configuration from the parameters of a page.

        Parameters
        ----------
        namespace : mapping
            In a notebook, ``globals()`` in the first cell after the parameters: every name assigned in the cells just
            before it that assign only constants counts as a parameter, so an unknown name injected by papermill is
            found.  From ``globals()`` of a script, only names of fields are taken; from any other mapping, all.
        **fixed
            Values that are not parameters, or override them.

        Raises
        ------
        SettingsError
            For an unknown name or an illegal value.
        """
        names = set(namespace)
        if "__name__" in namespace:  # globals(): most of it is no parameter
            names &= {*cls.model_fields, *_assigned(namespace.get("In", [])[:-1])}
        return cls(**{**{str(name): value for name, value in namespace.items() if name in names}, **fixed})

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, checked like a new configuration."""
        return type(self)(**{**dict(self), **changes})

    def build(self, kind: type[S], names: Mapping[str, str] | None = None, **values: Any) -> S:
        """Another configuration, with the values of the fields that both have.

        Parameters
        ----------
        kind : type
        names : mapping, optional
            Field of this one by field of the other, where they differ: ``{"n_steps": "lasso_steps"}``.  Errors name
            the field of this one.
        **values
            Further values of the other; they take precedence.
        """
        own = {name: name for name in kind.model_fields if name in type(self).model_fields} | dict(names or {})
        try:
            return kind(**{**{name: getattr(self, mine) for name, mine in own.items()}, **values})
        except SettingsError as error:
            lines = (re.sub(r"^\w+", lambda m: own.get(m[0], m[0]), line) for line in str(error).splitlines())
            raise SettingsError("\n".join(lines)) from None

    def to_parameters(self) -> dict[str, Any]:
        """Every field as in a parameters cell: scalars, and tuples as text such as ``"0.5/0.2 0.8/0.5"``."""
        return {name: _plain(value) for name, value in self}

    @classmethod
    def parameters_table(cls) -> list[Parameter]:
        """Name, type, default, legal values and meaning of every field, in order."""
        rows = []
        for name, field in cls.model_fields.items():
            kind = _bare(field.annotation)
            shown = kind.__name__ if kind in _READERS else "str"
            default = None if field.is_required() else _plain(field.get_default(call_default_factory=True))
            rows.append(
                Parameter(name, shown, default, _legal(field.annotation, field.metadata), field.description or "")
            )
        return rows


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Values by name from a YAML file, see `narrowlib.texts.load_yaml`; ``-`` in a name counts as ``_``.

    Raises
    ------
    SettingsError
        When it cannot be read, holds no mapping, or a name twice.
    """
    try:
        values = load_yaml(path)
    except OSError as error:
        raise SettingsError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(error) from error
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def add_flags(
    parser: argparse.ArgumentParser,
    model: type[Settings],
    names: Iterable[str] | None = None,
    *,
    repeated: Iterable[str] = (),
    groups: Mapping[str, str] | None = None,
) -> None:
    """Add a flag for every field, or for those named; ``model(**vars(parsed))`` converts and checks the values.

    Those in ``repeated`` may be given several times.  Flags that are not given are absent from the parsed arguments; a
    flag of type bool needs no value.  ``groups`` has titles in the help, by the first field of each group.
    """
    to: Any = parser
    for row in model.parameters_table():
        to = parser.add_argument_group(groups[row.name]) if groups and row.name in groups else to
        if names is None or row.name in names:
            about = about_setting(row) + (f" [{row.default}]" if row.default not in (None, "") else "")
            more = {"nargs": "?", "const": "true"} if row.type == "bool" else {}
            metavar = "TEXT" if row.type == "str" else row.type.upper()
            more |= {"default": argparse.SUPPRESS, "metavar": metavar, "help": about.replace("%", "%%")}
            more |= {"action": "append"} if row.name in repeated else {}
            to.add_argument(f"--{row.name.replace('_', '-')}", dest=row.name, **more)


def about_setting(row: Parameter) -> str:
    """The meaning of a setting, and its legal values unless every text is legal."""
    return "; ".join(words for words in (row.meaning, row.legal) if words and words != _KINDS[str])


def _bare(kind: Any) -> Any:
    """A type without what annotates it, and without None; of several, the first."""
    if get_origin(kind) not in (Annotated, Union, UnionType):
        return kind
    return _bare(next(each for each in get_args(kind) if each is not NoneType))


def _read(value: Any, kind: Any) -> Any:
    """Convert text to the number, bool or tuple that the type asks for; leave all else to the checks of pydantic."""
    if value is None or (NoneType in get_args(kind) and isinstance(value, str) and value.lower() == "none"):
        return None
    kind = _bare(kind)
    if get_origin(kind) is tuple:
        if isinstance(value, str):
            value = [word for word in re.split(r"[\s,]+" if get_args(kind)[-1] is ... else "/", value) if word]
        values = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_read(each, get_args(kind)[0]) for each in values)
    if isinstance(value, str) and kind in _READERS:
        with contextlib.suppress(ValueError, KeyError, ArithmeticError):
            return _READERS[kind](value)
    if kind is int and isinstance(value, float) and value.is_integer() and abs(value) < _MOST_EXACT:
        return int(value)  # what papermill makes of 1e3
    return str(value) if isinstance(value, PurePath) and kind is str else value


def _whole(text: str) -> int:
    """A whole number, also of text such as ``1e3`` or ``2.0``; nothing is rounded."""
    is_exact = re.search("[e.]", text.lower()) and float(text).is_integer() and Decimal(text) == float(text)
    return int(float(text) if is_exact else text)


_READERS = {int: _whole, float: float, bool: lambda text: {"true": True, "false": False}[text.lower()]}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return " ".join("/".join(map(str, each)) if isinstance(each, (tuple, list)) else str(each) for each in value)
    if isinstance(value, Settings):
        return value.to_parameters()
    return str(value) if isinstance(value, PurePath) else value


def _assigned(cells: Sequence[str]) -> set[str]:
    """Names assigned in the last cells, going back as long as these assign only constants; imports are skipped."""
    found: set[str] = set()
    with contextlib.suppress(SyntaxError, ValueError, AttributeError):  # not a constant, or not assigned to a name
        for line in (line for source in reversed(cells) for line in reversed(ast.parse(source).body)):
            if not isinstance(line, (ast.Import, ast.ImportFrom)):
                ast.literal_eval(_NO_NUMBER.sub("0", ast.unparse(line.value)))
                found |= {target.id for target in getattr(line, "targets", None) or [line.target]}
    return found


def _sentences(model: type[Settings], error: ValidationError) -> Iterator[str]:
    """One sentence per faulty field: argument, its value, what is legal."""
    first: dict[str, Any] = {}
    for fault in error.errors(include_url=False):
        first.setdefault(str(fault["loc"][0]) if fault["loc"] else "", fault)
    for name, fault in first.items():
        field, value, within = model.model_fields.get(name), fault["input"], len(fault["loc"]) > 1
        if fault["type"] in ("value_error", "assertion_error"):  # a check of the model itself, a full sentence
            yield str(fault["ctx"]["error"])
        elif field is None:
            near = difflib.get_close_matches(name, model.model_fields, n=1)
            hint = f" did you mean {near[0]}?" if near else ""
            yield f"{name} is not a parameter;{hint} (legal: {', '.join(model.model_fields)})"
        else:
            is_empty = isinstance(value, (str, tuple)) and not value
            found = "is empty" if is_empty else f"{'holds' if within else 'is'} {_SHORT.repr(value)}"
            found = "is missing" if fault["type"] == "missing" and not within else found
            verb = "hold" if get_origin(_bare(field.annotation)) is tuple else "be"
            yield f"{name} {found}; it must {verb} {_legal(field.annotation, field.metadata)}"


def _legal(kind: Any, limits: Iterable[Any] = (), many: bool = False) -> str:
    """Legal values of a type with these limits, in words."""
    parts = get_args(kind)
    if get_origin(kind) is Annotated:
        return _legal(parts[0], [*parts[1:], *limits], many)
    if get_origin(kind) in (Union, UnionType):
        return ", or ".join("none" if each is NoneType else _legal(each, limits, many) for each in parts)
    if get_origin(kind) is tuple:
        words = ("" if parts[-1] is ... else "pairs a/b of ") + _legal(parts[0], many=True)
        return f"{words}, each once" if _EACH_ONCE in limits else words
    if get_origin(kind) is Literal:
        named = ", ".join(str(each) for each in parts if each != "")
        return ("some of " if many else "one of ") + named + (", or empty" if "" in parts else "")
    limits = [each for limit in limits for each in (limit.metadata if isinstance(limit, FieldInfo) else [limit])]
    found = {name: getattr(limit, name) for limit in limits for name in _LIMITS if hasattr(limit, name)}
    words = " and ".join(f"{_LIMITS[name]} {value:.12g}" for name, value in found.items())
    one = _KINDS.get(kind) or f"a value of type {kind.__name__}"
    return (one.removeprefix("a ") + "s" if many else one) + " of" * words.startswith("at ") + " " * bool(words) + words
