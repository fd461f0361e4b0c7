"""From a general model to a narrow one by one call."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from narrowlib import pruning
from narrowlib.llm import export
from narrowlib.llm import loop as llm_loop
from narrowlib.llm import losses as llm_losses
from narrowlib.llm import scores as llm_scores
from narrowlib.llm import training as llm_training
from narrowlib.llm.models import load_causal_lm
from narrowlib.llm.units import n_parameters_of
from narrowlib.recipe import course, cut, measure
from narrowlib.recipe import intake as inputs
from narrowlib.recipe.intake import Texts, open_texts
from narrowlib.recipe.report import Report
from narrowlib.recipe.settings import RecipeConfig
from narrowlib.recipe.stages import Stages, workplace
from narrowlib.store import checkpoints
from narrowlib.store.records import source_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DISK_BYTES = 36  # per trained parameter: two checkpoints of three floats each while one is written, and three models
_CODE = (
    course, cut, inputs, measure, checkpoints, llm_losses, export, llm_loop, llm_scores, llm_training, pruning,
)  # fmt: skip


def narrow(
    model: str, keep: str, lose: str | None = None, *, out: str | Path, progress: bool = True, **settings: Any
) -> Report:
    """Make a smaller model that stays good at some texts, and a report of what it cost.

    The steps: losses before; fine-tuning and group lasso where they are asked for; rounds of scoring, cutting and
    recovery training, each ending with the parameters whose held-out loss was lowest; the checkpoint.  Every finished
    step stays in a hidden folder beside ``out`` until all is done, and training leaves off there: the same call goes on
    after a kill, to the same result.

    Parameters
    ----------
    model, keep, lose
        See `narrowlib.recipe.settings.RecipeConfig`.
    out : path
        New or empty folder for the checkpoint, ``report.html`` and ``report.json``.  Where the result of the same call
        lies there already, it is returned as it is.
    progress : bool
        Show progress bars.
    **settings
        The other fields of `narrowlib.recipe.settings.RecipeConfig`, such as ``sparsity=0.5``.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        For settings that are not legal, texts that cannot be read, or a folder that holds something else.
    UnavailableError
        When the model cannot be had, or the disk be written.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    return run(RecipeConfig.of({**given, "model": model, "keep": keep, "lose": lose or ""}), out, progress=progress)


def run(config: RecipeConfig, out: str | Path, *, progress: bool = True) -> Report:
    """`narrow` with its settings as one value."""
    out = Path(out).expanduser().absolute()
    texts = texts_of(config)
    about = {"settings": _lasting(config), "texts": {name: each.key for name, each in texts.items()}}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        found = Report.read_if_there(out)
        if found is not None and found.numbers["made from"] == about:
            return found
        raise ValueError(f"out is {str(out)!r}, which is there already; it must be a new or an empty folder")
    language_model = load_causal_lm(config.model, device=config.device)
    shares = cut.shares_of(config, language_model.model)
    code = source_digest(*_CODE)
    origin = [about, checkpoints.digest_of(language_model.model), code, torch.__version__]
    n_steps = 1 + (config.finetune_tokens > 0) + (config.lasso_tokens > 0) + 2 * config.rounds + 1
    with workplace(out) as folder:
        _check_disk(out, folder, config, language_model.model, shares)
        stages = Stages(folder, origin, progress=progress, n_expected=n_steps)
        study = course.Narrowing(config, language_model, texts, shares, stages, progress)
        report = study.write(out, about)
        shutil.rmtree(folder, ignore_errors=True)
    return report


def texts_of(config: RecipeConfig) -> dict[str, Texts]:
    """The documents to keep, and those to lose where there are any."""
    named = {"keep": config.keep, "lose": config.lose}
    options = {"column": config.column, "held_out_share": config.held_out_share, "seed": config.seed}
    return {name: open_texts(name, source, **options) for name, source in named.items() if source}


def _lasting(config: RecipeConfig) -> dict[str, Any]:
    """Settings that decide the result; the device does not."""
    return {name: value for name, value in config.as_dict().items() if name != "device"}


def _check_disk(
    out: Path, folder: Path, config: RecipeConfig, model: PreTrainedModel, shares: dict[str, float]
) -> None:
    trains_whole = config.finetune_tokens or config.lasso_tokens or config.rounds > 1
    n_trained = n_parameters_of(model) if trains_whole else cut.n_parameters_at(model, shares)
    free, needed = shutil.disk_usage(folder).free, DISK_BYTES * n_trained
    if free < needed:
        raise OSError(
            f"out is {str(out)!r}, where {free / 1e9:.1f} GB are free; the way there takes {needed / 1e9:.1f} GB"
        )
