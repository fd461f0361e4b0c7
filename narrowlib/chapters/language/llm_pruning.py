"""What the chapter llm-pruning uses, and its tables: group lasso, pruning, and training on."""

from functools import cache

import pandas as pd

from narrowlib.chapters.language.config import BEFORE, PAPERS_SCORE, RANKED_BY, kept_tables, records_of
from narrowlib.chapters.language.config import LLMPruningPage as Config
from narrowlib.chapters.language.figures.curves import plot_lasso_curves, plot_lasso_recovery, plot_recovery
from narrowlib.chapters.language.lasso import (
    FLAT,
    Trained,
    flat_sparsities,
    flatness_measures,
    flatness_said,
    overtaking_measures,
    overtaking_said,
    regularised,
    strength_curves,
    strength_recovery,
    strength_tables,
)
from narrowlib.chapters.language.recovery import (
    completions,
    leads_said,
    narrowed,
    recovery_curves,
    recovery_measures,
    score_leads,
)
from narrowlib.chapters.language.scoring import unit_scores
from narrowlib.chapters.style import book_theme, plot_pending
from narrowlib.claims import assess, load_claims, reasons, verdict
from narrowlib.llm.models import load_causal_lm
from narrowlib.store.kept import Kept
from narrowlib.store.records import origin, provenance

COMPARED = (PAPERS_SCORE, RANKED_BY, "random")  # ways to prune before training on


def tokens_needed(claim: str) -> float:
    """Tokens of training per parameter that a record needs to decide on a claim."""
    return next(rule["least"] for rule in load_claims()[claim]["decided_by"] if rule.get("most") == "tokens")


def tables(config: Config, *, piece: str = "", progress: bool = True) -> dict[str, pd.DataFrame]:
    """The tables of the chapter's record, or the one of ``piece``; finished ones come from ``config.checkpoints``.

    Returns
    -------
    dict of str to DataFrame
        ``recovery``: ``recovery_curves``.  ``lasso`` and ``lasso-recovery``: ``strength_curves`` and
        ``strength_recovery`` of the model as it was, of one trained without a penalty, and of one for every strength.
    """
    loaded = load_causal_lm(config.model, device=config.device, block_length=config.block_length)
    base, tokenizer = loaded.model, loaded.tokenizer
    store, each = (Kept(config.checkpoints, of, device=base.device) for of in (config.asked, config.trainings))

    def recovery() -> pd.DataFrame:
        scores = unit_scores(base, config.score_blocks(tokenizer), variants=COMPARED, progress=progress)
        where = {"store": each, "progress": progress}
        return recovery_curves(base, tokenizer, scores, COMPARED, config.pairs, config.pruning, **where)

    @cache
    def after_lasso() -> dict[str, pd.DataFrame]:
        strengths = (BEFORE, *config.strengths)
        return strength_tables(base, tokenizer, strengths, *config.trainings, store=each, progress=progress)

    def lasso() -> pd.DataFrame:
        return after_lasso()["lasso"]

    def lasso_recovery() -> pd.DataFrame:
        return after_lasso()["lasso-recovery"]

    computed = {"recovery": recovery, "lasso": lasso, "lasso-recovery": lasso_recovery}
    return kept_tables(computed, store, config.model, piece, inputs=base)
