"""What the chapter llm-scores uses, and its tables: what scores say of units, and what a model loses without them."""

from functools import cache

import pandas as pd

from narrowlib.chapters.language.config import KINDS, RANKED_BY, kept_tables, records_of
from narrowlib.chapters.language.config import LLMScoresPage as Config
from narrowlib.chapters.language.figures.block import plot_llama_block
from narrowlib.chapters.language.figures.curves import plot_llm_pruning, plot_skills
from narrowlib.chapters.language.scoring import ablation_table, agreements, proxy_measures, sparsity_curves, unit_scores
from narrowlib.chapters.style import book_theme, plot_pending
from narrowlib.chapters.two_trees.figures.neurons import plot_agreement
from narrowlib.claims import assess, reasons, verdict
from narrowlib.data.documents import SKILLS, sources
from narrowlib.llm.models import load_causal_lm
from narrowlib.llm.units import head_dim_of, n_parameters_of
from narrowlib.store.kept import Kept
from narrowlib.store.records import origin, provenance


def tables(config: Config, *, piece: str = "", progress: bool = True) -> dict[str, pd.DataFrame]:
    """The tables of the chapter's record, or the one of ``piece``; finished ones come from ``config.checkpoints``.

    Returns
    -------
    dict of str to DataFrame
        ``curves``: ``sparsity_curves`` of both kinds of units, every score and skill.  ``ablation``:
        ``ablation_table`` of both kinds, with scores from the blocks that units are ablated on.
    """
    loaded = load_causal_lm(config.model, device=config.device, block_length=config.block_length)
    base, blocks = loaded.model, config.score_blocks(loaded.tokenizer)
    scores_on = cache(lambda n_blocks: unit_scores(base, blocks.select(range(n_blocks)), progress=progress))

    def curves() -> pd.DataFrame:
        scores, held_out = scores_on(len(blocks)), config.held_out(loaded.tokenizer, SKILLS)
        what = (config.sparsities, held_out)
        parts = [sparsity_curves(base, kind, scores[kind], *what, progress=progress) for kind in KINDS]
        return pd.concat(parts, ignore_index=True)

    def ablation() -> pd.DataFrame:
        n_blocks = min(len(blocks), config.n_ablation_blocks)
        some, scores = blocks.select(range(n_blocks)), scores_on(n_blocks)
        options = {"n_ablated": config.n_ablated, "progress": progress}
        parts = [ablation_table(base, kind, scores[kind], some, **options) for kind in KINDS]
        return pd.concat(parts, ignore_index=True)

    store = Kept(config.checkpoints, config.asked, device=base.device)
    computed = {"curves": curves, "ablation": ablation}
    return kept_tables(computed, store, config.model, piece, inputs=base)
