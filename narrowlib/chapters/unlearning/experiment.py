"""Claim U1: what narrowed language models still know beside Python, and how soon they know it again."""

from __future__ import annotations

import copy
import sys
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from narrowlib import penalties
from narrowlib.chapters.language import lasso as llm_lasso
from narrowlib.chapters.language import recovery as llm_recovery
from narrowlib.chapters.language.lasso import BEFORE, RANKED_BY, Trained, regularised
from narrowlib.chapters.language.pruning import WANTED, Scores, unit_scores
from narrowlib.chapters.language.recovery import narrowed
from narrowlib.chapters.unlearning.config import BASE, PRUNING, UnlearningConfig
from narrowlib.data import facts as knowledge
from narrowlib.data.documents import SKILLS
from narrowlib.data.facts import fact_blocks, facts
from narrowlib.llm import answers as answering
from narrowlib.llm import losses as llm_losses
from narrowlib.llm.answers import answer_facts
from narrowlib.llm.losses import loss_per_skill
from narrowlib.llm.models import LanguageModel, load_causal_lm
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.llm.training import recover
from narrowlib.llm.units import n_parameters_of
from narrowlib.store.records import digest_of, recorded, source_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FACT_BLOCK = 64  # tokens, half a dozen facts


def relearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    training: LLMTrainingConfig,
    *,
    per_category: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a model in place on one half of the facts, and ask it the other half meanwhile.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
    training : LLMTrainingConfig
        Its ``record_every`` says how often the model is asked, beside before and after.
    per_category : int, optional
        See `narrowlib.data.facts.facts`.
    progress : bool

    Returns
    -------
    DataFrame
        One row per record and fact of the half ``"test"``: ``step``, ``tokens`` (trained on so far), and the columns
        of `narrowlib.llm.answers.answer_facts`.
    """
    learned, asked = (facts(half, per_category=per_category) for half in knowledge.HALVES)
    tokens_per_step = training.batch_size * FACT_BLOCK
    blocks = fact_blocks(tokenizer, learned, n_tokens=training.n_steps * tokens_per_step, block_length=FACT_BLOCK)
    frames: list[pd.DataFrame] = []

    def ask(step: int) -> None:
        frames.append(answer_facts(model, tokenizer, asked).assign(step=step, tokens=step * tokens_per_step))

    recover(model, blocks, training, on_record=ask, progress=progress)
    return pd.concat(frames, ignore_index=True)


def unlearning_tables(
    config: UnlearningConfig | None = None,
    *,
    device: str = "auto",
    checkpoints: str | Path = "",
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Narrow a model to Python in several ways, then ask it plain facts while it learns others of them again.

    Parameters
    ----------
    config : UnlearningConfig, optional
        By default at the scale of the record.
    device : {"auto", "cpu", "cuda"}
    checkpoints : path, optional
        Folder to leave off in: what a model answered is kept there as soon as it is finished.  The same call of the
        same code goes on from there after a kill.
    progress : bool

    Returns
    -------
    dict of str to DataFrame
        ``answers``: the rows of `relearn` for every model, with ``method``, ``sparsity`` and ``n_parameters``.
        ``skills``: the loss of every model on each skill before it learns facts, see
        `narrowlib.llm.losses.loss_per_skill`, with the same three columns.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), the table on unlearning.
    """
    config = UnlearningConfig() if config is None else config
    folder = _checkpoint_folder(checkpoints, config)
    study = _Study(load_causal_lm(config.pruning.model, device=device), config, folder, progress)
    found: dict[str, list[pd.DataFrame]] = {"skills": [], "answers": []}
    for method, sparsity in config.runs():
        about = {"config": asdict(config), "method": method, "sparsity": sparsity}
        for table, frames in found.items():  # skills first: answering ends with another model
            compute = partial(getattr(study, table), method, sparsity)
            frames.append(recorded(f"{table}-{method}-{round(100 * sparsity)}", about, compute, folder))
    return {table: pd.concat(found[table], ignore_index=True) for table in ("answers", "skills")}


def _checkpoint_folder(parent: str | Path, config: UnlearningConfig) -> Path | None:
    if not parent:
        return None
    own = (answering, llm_losses, knowledge, llm_lasso, llm_recovery, penalties)
    code = source_digest(*llm_recovery.CODE, *own, sys.modules[__name__])
    return Path(parent) / digest_of([asdict(config), torch.__version__, code])


class _Study:
    """The models of one experiment, one at a time; what several of them need is made when it is first asked for."""

    def __init__(
        self, language_model: LanguageModel, config: UnlearningConfig, folder: Path | None, progress: bool
    ) -> None:
        self.base, self.tokenizer, self.config = language_model.model, language_model.tokenizer, config
        self.where = {"checkpoint": folder, "progress": progress}
        self.progress = progress
        self._made: tuple[tuple[str, float], PreTrainedModel] | None = None

    def skills(self, method: str, sparsity: float) -> pd.DataFrame:
        model = self._model(method, sparsity)
        losses = loss_per_skill(model, self._held_out, batch_size=4, progress=self.progress)
        return self._named(losses, method, sparsity, model)

    def answers(self, method: str, sparsity: float) -> pd.DataFrame:
        model = self._model(method, sparsity)
        self._made = None  # it is about to change
        options = {"per_category": self.config.per_category, "progress": self.progress}
        found = relearn(model, self.tokenizer, self.config.relearning, **options)
        return self._named(found, method, sparsity, model)

    def _named(self, frame: pd.DataFrame, method: str, sparsity: float, model: PreTrainedModel) -> pd.DataFrame:
        about = {"method": method, "sparsity": sparsity, "n_parameters": n_parameters_of(model)}
        return frame.assign(**about)[[*about, *frame.columns]]

    def _model(self, method: str, sparsity: float) -> PreTrainedModel:
        if self._made is None or self._made[0] != (method, sparsity):
            self._made = (method, sparsity), self._make(method, sparsity)
        return self._made[1]

    def _make(self, method: str, sparsity: float) -> PreTrainedModel:
        if method in (BASE, "python"):
            model = copy.deepcopy(self.base)
        elif method == "scratch":
            model = without_knowledge(narrowed(self.base, self._scores, PRUNING["random"], sparsity))
        else:
            start = self._regularised if method == "lasso" else Trained(BEFORE, self.base, self._scores)
            model = narrowed(start.model, start.scores, PRUNING[method], sparsity)
        training = self.config.scratch if method == "scratch" else self.config.python
        if method != BASE and training is not None:
            recover(model, self.config.pruning.training_blocks(self.tokenizer, training), training, **self.where)
        return model

    @cached_property
    def _held_out(self) -> dict:
        return self.config.pruning.held_out(self.tokenizer, (WANTED, *(skill for skill in SKILLS if skill != WANTED)))

    @cached_property
    def _scores(self) -> dict[str, Scores]:
        blocks = self.config.pruning.score_blocks(self.tokenizer)
        asked = {"kinds": ("neurons",), "variants": (RANKED_BY, "random"), "progress": self.progress}
        return unit_scores(self.base, blocks, **asked)

    @cached_property
    def _regularised(self) -> Trained:
        return regularised(self.base, self.tokenizer, self.config.strength, self.config.pruning, **self.where)


def without_knowledge(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same shape with random weights, as its architecture draws them; the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type(model)(copy.deepcopy(model.config)).to(model.device).eval()
