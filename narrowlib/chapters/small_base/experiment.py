"""Train the small base model, and compare it with a trigram model on held-out text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from narrowlib.chapters.small_base.config import Config
from narrowlib.chapters.small_base.outcomes import OURS, TRIGRAM
from narrowlib.llm.losses import block_losses
from narrowlib.llm.models import LanguageModel, load_causal_lm
from narrowlib.llm.small_base import TRAINED, WEIGHTS, different_blocks, held_out_blocks, start_of, train_small_base
from narrowlib.llm.trigram import Trigram
from narrowlib.store.files import visible_files

if TYPE_CHECKING:
    from datasets import Dataset


def trained(config: Config, *, progress: bool = True) -> tuple[LanguageModel, pd.DataFrame]:
    """The model as it is stored, in bfloat16, and the curve of its training; both from its folder when it is done."""
    folder, curve = train_small_base(config.recipe, config.folder, device=config.device, progress=progress)
    return load_causal_lm(folder, device=config.device), curve


def tables(config: Config, *, progress: bool = True) -> dict[str, pd.DataFrame]:
    """The tables that the book records of the training.

    Returns
    -------
    dict of str to DataFrame
        ``losses``: a row per ``skill`` and ``model`` (`OURS` and `TRIGRAM`): ``loss`` in nats per token on packages
        that nothing was trained on, ``block_losses`` (a list), ``bytes_per_token`` of that text, ``n_parameters`` and
        ``tokens`` of training.  The trigram model has counted the same text, each block once.  ``curve``: see
        `narrowlib.llm.training.recover`; the held-out loss is the mean over skills.  ``text``: what was read, by skill:
        ``different`` tokens, and ``seen`` with those that came again.
    """
    language_model, curve = trained(config, progress=progress)
    model, tokenizer = language_model.model, language_model.tokenizer
    text = start_of(config.recipe, config.folder)[2]
    read = different_blocks(tokenizer, config.recipe, text, progress=progress)
    counted = Trigram(np.concatenate([_ids(blocks) for blocks in read.values()]), config.vocab_size)
    rows, length = [], config.block_length
    for skill, blocks in held_out_blocks(tokenizer, config.recipe, config.n_held_out_blocks).items():
        written = tokenizer.batch_decode(blocks["input_ids"][:])
        about = {"bytes_per_token": sum(len(each.encode()) for each in written) / (len(blocks) * length)}
        about |= {"n_parameters": model.num_parameters(), "tokens": config.n_steps * config.batch_size * length}
        ours = block_losses(model, blocks, progress=progress, description=skill).double().numpy()
        for name, losses in ((OURS, ours), (TRIGRAM, counted.block_losses(_ids(blocks)))):
            found = {"loss": losses.mean(), "block_losses": losses.tolist()}
            rows.append({"skill": skill, "model": name, **found, **about})
    shares = [{"skill": skill, "different": one, "seen": all_} for skill, (one, all_) in text.items()]
    seen = pd.DataFrame(shares)
    seen[["different", "seen"]] *= length
    return {"losses": pd.DataFrame(rows), "curve": curve, "text": seen}


def files(config: Config) -> dict[str, Path]:
    """Files that belong to the record, by name in its folder: weights, and other files that transformers reads."""
    folder = config.folder / TRAINED
    return {f"{WEIGHTS}/{path.name}": path for path in visible_files(folder, "*")}


def _ids(blocks: Dataset) -> np.ndarray:
    return blocks.with_format("numpy")["input_ids"][:]
