"""Settings of a narrowing, the same for the function, the flags of the command and its configuration file."""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from narrowlib.llm.scores import VARIANTS, WITHOUT_DATA
from narrowlib.llm.settings import PRECISIONS

KINDS = ("neurons", "residual", "heads")
DEVICES = ("auto", "cpu", "cuda")
FURTHEST = 0.9  # sparsity that a target_loss without a sparsity goes up to
_LEAST = {
    "target_parameters": 1, "rounds": 1, "score_tokens": 2, "finetune_tokens": 0, "lasso_tokens": 0,
    "recovery_tokens": 0, "held_out_tokens": 2, "block_length": 2, "batch_size": 1, "seed": 0,
}  # fmt: skip
_AT_LEAST_0 = ("lose_weight", "lasso_strength")
_ABOVE_0 = ("target_loss", "learning_rate", "temperature")
_TYPES = {"str": str, "int": int, "float": float, "int | None": int, "float | None": float}


@dataclass(frozen=True)
class RecipeConfig:
    """What to narrow, to what, and how.

    Parameters
    ----------
    keep : str
        What the model is to stay good at: a jsonl, txt or parquet file, a folder of sources, a data set of the Hugging
        Face hub (OWNER/NAME), or one of the built-in skills python, english, c, javascript.
    lose : str
        What it may lose, in the same forms; its loss is reported.  Empty for nothing.
    model : str
        "default", a folder, or a name on the Hugging Face hub.
    column : str
        Column of jsonl and parquet that holds the text; empty for the first of text, content, code that is there.
    units : tuple of str
        What is cut: some of neurons, residual, heads.
    sparsity : tuple of float
        Share of the units to cut: one number for every kind, or one for all.
    target_parameters : int or None
        Cut an equal share of every kind until at most so many parameters are left; in place of a sparsity.
    target_loss : float or None
        Stop cutting before the loss on what is kept, after recovery, goes above this (nats per token); needs rounds.
    method : str
        Score that ranks units, such as "absolute per token", "signed", "activation norm" or "random".
    lose_weight : float
        How much a unit's score on what is to be lost counts against it; 0 for not at all.  Begin with 0.2: a large
        weight also takes what both texts need.
    rounds : int
        Cut in so many equal parts, with new scores and some of the recovery after each; 1 for one shot.
    score_tokens : int
        Tokens that scores are computed on.
    finetune_tokens : int
        Tokens of training on what is kept before anything is cut.
    lasso_tokens : int
        Tokens of training under a group lasso before the cut.
    lasso_strength : float
        Its strength; both or neither must be above 0.
    recovery_tokens : int
        Tokens of training after the cut, over all rounds.
    distillation : float
        Weight, from 0 to 1, of imitating the uncut model in recovery.
    temperature : float
        Of that imitation.
    learning_rate : float
        Of AdamW in every training.
    warmup_share : float
        Share of a training's steps over which it rises.
    batch_size : int
        Blocks per optimiser step.
    block_length : int
        Tokens per block.
    precision : str
        Of matrix products in training, bfloat16 or float32.
    held_out_share : float
        Share of the documents that nothing is trained on; losses are read there.
    held_out_tokens : int
        At most so many of their tokens are read at a time.
    seed : int
        Of the split, of the order of blocks and of random scores.
    device : str
        auto, cpu or cuda.
    """

    keep: str
    lose: str = ""
    model: str = "default"
    column: str = ""
    units: tuple[str, ...] = ("neurons",)
    sparsity: tuple[float, ...] = ()
    target_parameters: int | None = None
    target_loss: float | None = None
    method: str = "absolute per token"
    lose_weight: float = 0.0
    rounds: int = 1
    score_tokens: int = 16_384
    finetune_tokens: int = 0
    lasso_tokens: int = 0
    lasso_strength: float = 0.0
    recovery_tokens: int = 262_144
    distillation: float = 0.0
    temperature: float = 2.0
    learning_rate: float = 3e-4
    warmup_share: float = 0.05
    batch_size: int = 8
    block_length: int = 512
    precision: str = "bfloat16"
    held_out_share: float = 0.1
    held_out_tokens: int = 8_192
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        self._check_numbers()
        choices = {"method": VARIANTS, "precision": PRECISIONS, "device": DEVICES}
        for name, legal in choices.items():
            if getattr(self, name) not in legal:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(legal)}")
        if not self.keep:
            raise ValueError("keep is empty; it must name a file, a folder, a data set of the hub, or a built-in skill")
        if not self.units or len(set(self.units)) < len(self.units) or not set(self.units) <= set(KINDS):
            raise ValueError(f"units is {self.units!r}; it must hold some of {', '.join(KINDS)}, each once")
        self._check_target()
        if (self.lasso_tokens > 0) != (self.lasso_strength > 0):
            raise ValueError(
                f"lasso_tokens is {self.lasso_tokens} and lasso_strength {self.lasso_strength}; both or neither must "
                f"be above 0"
            )
        if self.lose_weight and (not self.lose or self.method in WITHOUT_DATA):
            raise ValueError(f"lose_weight is {self.lose_weight}; it needs lose, and a method that looks at data")

    def _check_numbers(self) -> None:
        for name, lowest in _LEAST.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < lowest):
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {lowest}")
        legal = dict.fromkeys(_AT_LEAST_0, ("at least 0", lambda x: x >= 0))
        legal |= dict.fromkeys(_ABOVE_0, ("above 0", lambda x: x > 0))
        legal |= {"held_out_share": ("between 0 and 1", lambda x: 0 < x < 1)}
        legal |= dict.fromkeys(("distillation", "warmup_share"), ("from 0 to 1", lambda x: 0 <= x <= 1))
        for name, (words, holds) in legal.items():
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and holds(value)):
                raise ValueError(f"{name} is {value!r}; it must be a number {words}")

    def _check_target(self) -> None:
        if any(not _is_number(share) or not 0 < share < 1 for share in self.sparsity):
            raise ValueError(f"sparsity is {_shown(self.sparsity)}; it must be between 0 and 1, both excluded")
        if len(self.sparsity) not in (0, 1, len(self.units)):
            raise ValueError(
                f"sparsity holds {len(self.sparsity)} numbers for {len(self.units)} kinds of units; it must hold one "
                f"for each, or one for all"
            )
        if not self.sparsity and self.target_parameters is None and self.target_loss is None:
            raise ValueError("sparsity, target_parameters and target_loss are all missing; one must be given")
        if self.sparsity and self.target_parameters is not None:
            raise ValueError("sparsity and target_parameters are both given; one must be left out")
        if self.target_loss is not None and self.rounds < 2:
            raise ValueError(f"rounds is {self.rounds}; with a target_loss it must be at least 2, to stop in between")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> RecipeConfig:
        """Settings out of what was typed: texts such as ``"1e6"`` and ``"0.5,0.2"`` become numbers.

        Raises
        ------
        ValueError
            For a name that there is not, or a value that is not legal.
        """
        for name in settings:
            _check_name(name)
        if "keep" not in settings:
            raise ValueError("keep is missing; it must name a file, a folder, a data set of the hub, or a skill")
        return cls(**{name: _typed(name, value) for name, value in settings.items() if value is not None})

    @property
    def shares(self) -> dict[str, float]:
        """Sparsity of every kind at the end of the way, where a sparsity is asked for."""
        sparsity = self.sparsity or (FURTHEST,)
        return dict(zip(self.units, sparsity * len(self.units) if len(sparsity) == 1 else sparsity, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """As json holds it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def read_config(path: str | Path) -> dict[str, Any]:
    """Settings out of a YAML file, by the names of the flags, with ``_`` or ``-``.

    Raises
    ------
    ValueError
        When it cannot be read or holds no mapping.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # an impossible date is a ValueError
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"config is {str(path)!r}, which cannot be read: {reason}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"config is {str(path)!r}; it must hold lines of the form name: value")
    return {str(name).replace("-", "_"): value for name, value in settings.items()}


def _check_name(name: str) -> None:
    """Raise a ValueError unless there is a setting of this name."""
    names = [each.name for each in fields(RecipeConfig)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
        raise ValueError(f"there is no setting {name!r}{hint}")


def meanings() -> dict[str, str]:
    """What every setting means, out of the docstring of `RecipeConfig`."""
    text = inspect.cleandoc(RecipeConfig.__doc__).partition("----------\n")[2]
    found = re.findall(r"^(\w+) : .*\n((?:    .*\n?)+)", text, flags=re.M)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def _typed(name: str, value: Any) -> Any:
    annotation = RecipeConfig.__annotations__[name]
    if annotation.startswith("tuple"):
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
        read = _number if "float" in annotation else _text
        return tuple(read(name, part) for part in parts)
    kind = _TYPES[annotation]
    if kind is str:
        return _text(name, value)
    number = _number(name, value)
    if kind is float:
        return number
    if number != int(number):
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
    return int(number)


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}; it must be a number")
    return number


def _text(name: str, value: Any) -> str:
    if not isinstance(value, (str, Path)):
        raise ValueError(f"{name} is {value!r}; it must be a text")
    return str(value).strip()


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)


def _shown(shares: tuple[float, ...]) -> str:
    return ",".join(f"{share:g}" if _is_number(share) else repr(share) for share in shares)
