"""Claims L1, L2, L4, L5 at the paper's scale: every table of one language model, made once and kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
import torch

from narrowlib import penalties
from narrowlib.chapters.language import lasso as llm_lasso
from narrowlib.chapters.language import recovery as llm_recovery
from narrowlib.chapters.language.lasso import BEFORE, RANKED_BY, Trained, lasso_curves, lasso_recovery, regularised
from narrowlib.chapters.language.pruning import (
    KINDS,
    WANTED,
    LLMPruningConfig,
    Scores,
    ablation_table,
    pruning_curves,
    unit_scores,
)
from narrowlib.chapters.language.recovery import recovery_curves
from narrowlib.data.documents import SKILLS
from narrowlib.llm import ablation as llm_ablation
from narrowlib.llm import losses as llm_losses
from narrowlib.llm.models import LanguageModel, load_causal_lm
from narrowlib.store.records import digest_of, recorded, source_digest

PAIRS = ((0.5, 0.2), (0.8, 0.5), (0.9, 0.9))  # the paper's sparsities of neurons and residual dimensions, Fig 13
STRENGTHS = (1e-4, 3e-4, 5e-4, 1e-3)  # the paper's, Fig 5
LASSO_SPARSITY = 0.8  # the paper's, Fig 5 right
SPARSITIES = tuple(round(0.05 * step, 2) for step in range(20))


def paper_tables(
    config: LLMPruningConfig | None = None,
    *,
    pairs: Sequence[tuple[float, float]] = PAIRS,
    strengths: Sequence[float] = STRENGTHS,
    lasso_sparsity: float = LASSO_SPARSITY,
    sparsities: Sequence[float] = SPARSITIES,
    device: str = "auto",
    checkpoints: str | Path = "",
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Everything that the chapter shows at the paper's scale.

    Parameters
    ----------
    config : LLMPruningConfig, optional
        The paper's by default.
    pairs : sequence of (float, float)
        Sparsities of neurons and residual dimensions to recover from.
    strengths : sequence of float
        Of the group lasso.
    lasso_sparsity : float
        Of neurons, from which models with and without a group lasso recover.
    sparsities : sequence of float
        Of the pruning curves.
    device : {"auto", "cpu", "cuda"}
    checkpoints : path, optional
        Folder to leave off in: finished tables and models are kept there, unfinished training runs leave off.  The same
        call of the same code goes on from them after a kill.
    progress : bool

    Returns
    -------
    dict of str to DataFrame
        ``curves`` (see `narrowlib.chapters.language.pruning.pruning_curves`; all skills), ``ablation`` (see
        `narrowlib.chapters.language.pruning.ablation_table`), ``recovery`` (see
        `narrowlib.chapters.language.recovery.recovery_curves`), ``lasso`` (see
        `narrowlib.chapters.language.lasso.lasso_curves`) and ``lasso-recovery`` (see
        `narrowlib.chapters.language.lasso.lasso_recovery`), both of the model as it was, of one trained without a
        penalty, and of one for every strength.
    """
    config = LLMPruningConfig() if config is None else config
    folder = _checkpoint_folder(checkpoints, config)
    asked = {"pairs": [list(pair) for pair in pairs], "strengths": list(strengths), "sparsities": list(sparsities)}
    about = {"config": asdict(config), **asked, "lasso_sparsity": lasso_sparsity}
    language_model = load_causal_lm(config.model, device=device)
    study = _Study(language_model, config, folder, progress)
    computed = {
        "curves": partial(study.curves, sparsities),
        "ablation": study.ablation,
        "recovery": partial(study.recovery, pairs),
        "lasso": partial(study.lasso, strengths, sparsities),
        "lasso-recovery": partial(study.lasso_recovery, strengths, lasso_sparsity),
    }
    return {name: recorded(name, about, compute, folder) for name, compute in computed.items()}


def _checkpoint_folder(parent: str | Path, config: LLMPruningConfig) -> Path | None:
    if not parent:
        return None
    own = (llm_losses, llm_ablation, llm_lasso, llm_recovery, penalties)
    code = source_digest(*llm_recovery.CODE, *own, sys.modules[__name__])
    return Path(parent) / digest_of([asdict(config), torch.__version__, code])


class _Study:
    """The tables of one model; its scores and its regularised copies are made when they are first asked for."""

    def __init__(
        self, language_model: LanguageModel, config: LLMPruningConfig, folder: Path | None, progress: bool
    ) -> None:
        self.model, self.tokenizer, self.config = language_model.model, language_model.tokenizer, config
        self.where = {"checkpoint": folder, "progress": progress}
        self.progress = progress

    @cached_property
    def scores(self) -> dict[str, Scores]:
        blocks = self.config.score_blocks(self.tokenizer)
        return unit_scores(self.model, blocks, progress=self.progress)

    def curves(self, sparsities: Sequence[float]) -> pd.DataFrame:
        held_out = self.config.held_out(self.tokenizer, SKILLS)
        parts = [
            pruning_curves(self.model, kind, self.scores[kind], sparsities, held_out, progress=self.progress)
            for kind in KINDS
        ]
        return pd.concat(parts, ignore_index=True)

    def ablation(self) -> pd.DataFrame:
        blocks = self.config.score_blocks(self.tokenizer)
        n_blocks = min(len(blocks), self.config.n_ablation_blocks)
        all_scores = self.scores
        if n_blocks < len(blocks):  # both sides are to see the same
            blocks = blocks.select(range(n_blocks))
            all_scores = unit_scores(self.model, blocks, progress=self.progress)
        options = {"n_ablated": self.config.n_ablated, "progress": self.progress}
        tables = [ablation_table(self.model, kind, all_scores[kind], blocks, **options) for kind in KINDS]
        return pd.concat(tables, ignore_index=True)

    def recovery(self, pairs: Sequence[tuple[float, float]]) -> pd.DataFrame:
        ranked_by = ("signed", RANKED_BY, "random")
        return recovery_curves(self.model, self.tokenizer, self.scores, ranked_by, pairs, self.config, **self.where)

    def lasso(self, strengths: Sequence[float], sparsities: Sequence[float]) -> pd.DataFrame:
        held_out = {WANTED: self.config.held_out(self.tokenizer)[WANTED]}
        return lasso_curves(self._models(strengths), sparsities, held_out, progress=self.progress)

    def lasso_recovery(self, strengths: Sequence[float], sparsity: float) -> pd.DataFrame:
        return lasso_recovery(self._models(strengths), self.tokenizer, sparsity, self.config, **self.where)

    def _models(self, strengths: Sequence[float]) -> list[Trained]:
        """The model as it was, then a copy for each strength; 0 first, the control."""
        for strength in {0.0, *strengths} - self._kept.keys():
            self._kept[strength] = regularised(self.model, self.tokenizer, strength, self.config, **self.where)
        before = Trained(BEFORE, self.model, self.scores)
        return [before, self._kept[0.0], *(self._kept[strength] for strength in strengths)]

    @cached_property
    def _kept(self) -> dict[float, Trained]:
        return {}
