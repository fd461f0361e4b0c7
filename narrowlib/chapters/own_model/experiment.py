"""A worked example of narrowing, and its controls: units cut at random, and the same size from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from narrowlib.data.documents import pinned_sources, source_documents
from narrowlib.llm.export import sliced
from narrowlib.llm.models import load_causal_lm
from narrowlib.llm.training import recover
from narrowlib.recipe import cut
from narrowlib.recipe.intake import texts_of
from narrowlib.recipe.report import Report
from narrowlib.recipe.settings import RecipeConfig
from narrowlib.store.files import inside

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTROLS = ("random", "scratch")
NARROWED = "narrowed"


def write_sources(package: str, folder: str | Path) -> pd.DataFrame:
    """Write the Python files of a pinned package into a folder, as if they were a user's own.

    Parameters
    ----------
    package : str
        Of `narrowlib.data.documents.sources`, such as ``"sqlglot"``.
    folder : path
        Made where it is missing.

    Returns
    -------
    DataFrame
        One row, ``package``: its version, licence, number of files and of characters.

    Raises
    ------
    ValueError
        When no such package is pinned.
    UnavailableError
        When it cannot be fetched.
    """
    pinned = {each.archive.name: each for split in ("train", "held-out") for each in pinned_sources("python", split)}
    if package not in pinned:
        raise ValueError(f"package is {package!r}; it must be one of {', '.join(sorted(pinned))}")
    documents = list(source_documents(pinned[package], "python"))
    for document in documents:
        path = inside(folder, document.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document.text, encoding="utf-8")
    about = {"version": pinned[package].archive.version, "licence": pinned[package].licence, "files": len(documents)}
    about["characters"] = sum(len(document.text) for document in documents)
    return pd.DataFrame([about], index=[package])


def budget_curves(report: Report, *, device: str = "auto", progress: bool = True) -> pd.DataFrame:
    """Held-out loss on what is kept against training tokens: the narrowed model, and controls on the same budget.

    The controls have the shape of the narrowed model, the same blocks in the same order and the same steps; they are
    cut at random, or start from the random weights of a new model.

    Parameters
    ----------
    report : Report
        Of a narrowing in one round without training before it, so that budgets can be the same.
    device : {"auto", "cpu", "cuda"}
    progress : bool

    Returns
    -------
    DataFrame
        ``start`` (narrowed, random, scratch), ``tokens``, ``loss`` (nats per token), ``n_parameters``.

    Raises
    ------
    ValueError
        For a narrowing that cut more than once, or trained before the cut.
    """
    config = RecipeConfig(**report.numbers["made from"]["settings"], device=device)
    if config.rounds > 1 or config.finetune_tokens or config.lasso_tokens or not config.recovery_tokens:
        raise ValueError(
            f"report has rounds {config.rounds}, {config.finetune_tokens + config.lasso_tokens} training tokens before "
            f"the cut and {config.recovery_tokens} after it; it must have rounds 1, no tokens before and some after"
        )
    language_model = load_causal_lm(config.model, device=device)
    keep, length = texts_of(config)["keep"], {"block_length": config.block_length, "progress": progress}
    train = keep.blocks(language_model.tokenizer, "train", at_most=config.recovery_tokens, **length)
    held_out = keep.blocks(language_model.tokenizer, "select", at_most=config.held_out_tokens, **length)
    curve = report.curves
    frames = [curve[curve["split"] == "held out"].assign(start=NARROWED)]
    counts = report.numbers["rounds"][0]["counts"]
    for start in CONTROLS:
        model = _control(language_model.model, start, counts, config)
        training = config.training(config.recovery_tokens, seed=2)  # as the first round's
        curve = recover(model, train, training, held_out=held_out, progress=progress)
        frames.append(curve[curve["split"] == "held out"].assign(start=start))
    columns = pd.concat(frames, ignore_index=True)[["start", "tokens", "loss"]]
    return columns.assign(n_parameters=report.numbers["shape"]["after"]["parameters"])


def _control(whole: PreTrainedModel, start: str, counts: dict[str, int], config: RecipeConfig) -> PreTrainedModel:
    if start == "scratch":
        shape = sliced(whole, cut.first_masks(whole, counts)).config
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            return type(whole)(shape).to(whole.device)
    generator = torch.Generator().manual_seed(config.seed)
    masks = {
        name: mask[torch.randperm(len(mask), generator=generator)]
        for name, mask in cut.first_masks(whole, counts).items()
    }
    return sliced(whole, masks)
