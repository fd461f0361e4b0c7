"""Scores of all units as a table, and losses of a narrowed model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from narrowlib.llm.models import load_causal_lm
from narrowlib.llm.scores import score_units
from narrowlib.llm.units import llama_units
from narrowlib.recipe.cut import in_batches
from narrowlib.recipe.measure import losses_of
from narrowlib.recipe.narrowing import texts_of
from narrowlib.recipe.report import Report
from narrowlib.recipe.settings import RecipeConfig
from narrowlib.recipe.stages import writing

WRITERS = {".parquet": "to_parquet", ".csv": "to_csv"}


def score_table(config: RecipeConfig, *, progress: bool = True) -> pd.DataFrame:
    """Score of every unit of the kinds asked for, on training documents of what is to be kept.

    Returns
    -------
    DataFrame
        One row per unit: ``kind``, ``group``, ``unit``, ``score``.
    """
    texts = texts_of(config)["keep"]
    language_model = load_causal_lm(config.model, device=config.device)
    model, options = language_model.model, {"at_most": config.score_tokens, "block_length": config.block_length}
    blocks = texts.blocks(language_model.tokenizer, "train", progress=progress, **options)
    kinds = {group.name: (kind, group) for kind in config.units for group in llama_units(model, kind)}
    groups = [group for _, group in kinds.values()]
    how = {"variants": (config.method,), "seed": config.seed, "progress": progress}
    scores = score_units(model, groups, in_batches(blocks), **how)[config.method]
    frames = [
        pd.DataFrame({"kind": kinds[name][0], "group": name, "unit": torch.arange(len(values)), "score": values.cpu()})
        for name, values in scores.items()
    ]
    return pd.concat(frames, ignore_index=True)


def loss_table(folder: str | Path, settings: Mapping[str, Any], *, progress: bool = True) -> pd.DataFrame:
    """Losses of a narrowed model on held-out documents: those of its own run, unless ``settings`` name others.

    Parameters
    ----------
    folder : path
        What `narrowlib.recipe.narrowing.run` left behind.
    settings : mapping of str to Any
        In place of those of the run.

    Returns
    -------
    DataFrame
        See `narrowlib.llm.losses.loss_per_skill`, with ``text`` for the skill.
    """
    made_with = Report.read(folder).numbers["made from"]["settings"]
    config = RecipeConfig.of({**made_with, **settings})
    texts = texts_of(config)
    language_model = load_causal_lm(folder, device=config.device)
    options = {"at_most": config.held_out_tokens, "block_length": config.block_length, "progress": progress}
    held_out = {name: text.blocks(language_model.tokenizer, "held-out", **options) for name, text in texts.items()}
    return pd.DataFrame(losses_of(language_model.model, held_out, progress=progress))


def write_table(table: Callable[[], pd.DataFrame], path: Path) -> None:
    """Write a table as parquet or csv, whole or not at all.

    Raises
    ------
    ValueError
        For another ending, or a file that is there.
    """
    if path.suffix not in WRITERS:
        raise ValueError(f"out is {str(path)!r}; it must end in {' or '.join(WRITERS)}")
    if path.exists():
        raise ValueError(f"out is {str(path)!r}, which is there already; it must be a new file")
    made = table()
    with writing(path) as temporary:
        getattr(made, WRITERS[path.suffix])(temporary, index=False)
