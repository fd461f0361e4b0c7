"""Model cards in Markdown, which begin with metadata as YAML; names in them may hold any characters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import Tensor

from narrowlib.llm.models import LanguageModel, origin_of
from narrowlib.llm.units import n_parameters_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MARKS = re.compile(r"[\\`*\[\]<>|&~]|(?<![^\W_])_|_(?![^\W_])")


def escaped(value: Any) -> str:
    """A value as Markdown in a line or a cell of a table: nothing in it is a mark, HTML, or ends the line."""
    return _MARKS.sub(r"\\\g<0>", " ".join(str(value).split()))


def front_matter(origin: Mapping[str, str]) -> str:
    """Metadata at the beginning of a card, by what `narrowlib.llm.models.origin_of` tells."""
    of_original = {what: origin[what] for what in ("base_model", "license") if what in origin}
    about = {"library_name": "transformers", **of_original, "tags": ["narrowlib", "pruned"]}
    return f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---"


def model_card(
    language_model: LanguageModel, narrowed: PreTrainedModel, masks: Mapping[str, Tensor], about: Mapping[str, Any]
) -> str:
    """README.md of a checkpoint: where it comes from, how its sizes changed, and what else is to be told."""
    model, origin = language_model.model, origin_of(language_model.name)
    name = origin.get("base_model", Path(language_model.name).name)
    licence = f": {escaped(origin['license'])}" if "license" in origin else ""
    before, after = model.config, narrowed.config
    rows = [
        ("parameters", n_parameters_of(model), n_parameters_of(narrowed)),
        ("parameters kept by the masks", n_parameters_of(model), n_parameters_of(model, masks)),
        ("residual dimensions", before.hidden_size, after.hidden_size),
        ("MLP neurons per layer", before.intermediate_size, after.intermediate_size),
        ("query heads per layer", before.num_attention_heads, after.num_attention_heads),
        ("key-value heads per layer", before.num_key_value_heads, after.num_key_value_heads),
        ("layers", before.num_hidden_layers, after.num_hidden_layers),
    ]
    lines = [
        front_matter(origin),
        "",
        f"# {escaped(name)}, narrowed",
        "",
        f"Units of the model were removed with narrowlib. It is still a plain `{type(narrowed).__name__}`, loads",
        "without custom code, and up to rounding computes what the original computes with these units at zero. The",
        f"licence is that of the original{licence}. {origin.get('note', '')}".rstrip(),
        "",
        "| | original | narrowed |",
        "|---|---:|---:|",
        *(f"| {what} | {one:,} | {other:,} |" for what, one, other in rows),
    ]
    told = [f"- {escaped(what)}: {escaped(value)}" for what, value in about.items()]
    lines += ["", "## What it costs", "", *told] if told else []
    return "\n".join([*lines, ""])
