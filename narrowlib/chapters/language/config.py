"""Settings of the chapters llm-scores and llm-pruning, and of the experiments that they share with later chapters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from narrowlib.chapters.language.names import ModelName, Source
from narrowlib.chapters.pages import Page, chosen_pieces
from narrowlib.data.tokens import PACKAGES, skill_blocks
from narrowlib.llm.models import DEFAULT_NAME, SMALL_NAME
from narrowlib.llm.settings import PAPER_GROUP_LASSO, PAPER_RECOVERY, LLMTrainingConfig, micro_batch
from narrowlib.settings import (
    AutoPrecision,
    Count,
    NotNegative,
    Numbers,
    Pairs,
    Part,
    Rate,
    Settings,
    Share,
    Whole,
    part,
)
from narrowlib.store.records import Record, paper_record

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from narrowlib.store.kept import Kept

WANTED_SKILL = "python"
KINDS = ("neurons", "residual")
RANKED_BY = "absolute per token"  # the score that keeps the loss lowest when half of the neurons go
PAPERS_SCORE = "weights times mean absolute gradient"  # of its Figures 6, 12 and 13
BEFORE = math.nan  # in place of the strength of a group lasso: the model as it was
MOST_TOKENS = 50_000_000  # of training, out of the pinned packages; longer training sees them again
N_RECORDS = 20  # of a training run
BASES = {"small base": SMALL_NAME, "default model": DEFAULT_NAME}  # models that records lie side by side of


def record_name(name: str, model: str) -> str:
    """Name of a recorded table: those of the small base model lie beside those of another."""
    return f"{SMALL_NAME}-{name}" if model == SMALL_NAME else name


def kept_tables(
    computed: Mapping[str, Callable[[], pd.DataFrame]], store: Kept, model: str, piece: str = "", *, inputs: Any = None
) -> dict[str, pd.DataFrame]:
    """Tables of a record by their recorded names, every one kept: all of them, or that of one piece of the work.

    Raises
    ------
    ValueError
        For an unknown piece.
    """
    names = chosen_pieces(computed, piece)
    return {record_name(name, model): store.keep(name, computed[name], inputs=inputs) for name in names}


def records_of(chapter: str, name: str) -> dict[str, Record]:
    """Records of one table of a chapter by base model, the small one first; a base model without one is left out."""
    found = {base: paper_record(chapter, record_name(name, model)) for base, model in BASES.items()}
    return {base: record for base, record in found.items() if record}


class Trained(Settings):
    """How the language models of a page are trained."""

    precision: AutoPrecision = Field("bfloat16", description="precision of matrix products in training")
    compiled: bool = Field(True, description="compile layers and loss before training")


class TextConfig(Settings):
    """A language model and the blocks of text that it is scored, trained and evaluated on."""

    model: ModelName = Field(
        "default", description="default, small (trained here), tiny (random), a local folder, or a name on the hub"
    )
    source: Source = Field(PACKAGES, description="source of the Python text: packages, or a data set of the hub")
    block_length: Annotated[int, Field(ge=2, le=131_072)] = Field(1_024, description="tokens per block")
    n_score_blocks: Count = Field(1_024, description="blocks for the scores")
    n_held_out_blocks: Count = Field(64, description="held-out blocks of every skill for the losses")

    def held_out(
        self, tokenizer: PreTrainedTokenizerBase, skills: Iterable[str] = (WANTED_SKILL,)
    ) -> dict[str, Dataset]:
        """Blocks of every skill, from packages that nothing is trained on."""
        n_tokens = self.n_held_out_blocks * self.block_length
        return {skill: self._blocks(tokenizer, skill, "held-out", n_tokens) for skill in skills}

    def score_blocks(self, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Blocks of the wanted skill for scores."""
        return self._blocks(tokenizer, WANTED_SKILL, "train", self.n_score_blocks * self.block_length)

    def training_blocks(self, tokenizer: PreTrainedTokenizerBase, training: LLMTrainingConfig) -> Dataset:
        """Blocks of the wanted skill for a training run, each seen once if there are enough."""
        n_tokens = training.n_steps * training.batch_size * self.block_length
        if self.source == PACKAGES:
            n_tokens = min(n_tokens, MOST_TOKENS)
        return self._blocks(tokenizer, WANTED_SKILL, "train", n_tokens)

    def _blocks(self, tokenizer: PreTrainedTokenizerBase, skill: str, split: str, n_tokens: int) -> Dataset:
        source = self.source if skill == WANTED_SKILL else PACKAGES
        where = {"split": split, "block_length": self.block_length, "source": source}
        return skill_blocks(tokenizer, skill, n_tokens=n_tokens, **where)


class LLMPruningConfig(TextConfig):
    """Pruning a language model with training before or after it; the defaults are the paper's, on a smaller model."""

    recovery: LLMTrainingConfig = Field(PAPER_RECOVERY, description="training after pruning")
    lasso: LLMTrainingConfig = Field(PAPER_GROUP_LASSO, description="training under the group lasso")


class _Page(Page, TextConfig):
    """What the parameters of both pages have in common."""

    sparsities: Numbers[Share] = Field(
        tuple(round(0.05 * step, 2) for step in range(20)), description="shares of units removed, increasing from 0"
    )

    @model_validator(mode="after")
    def _sparsities_rise(self) -> _Page:
        if self.sparsities[0] or len(self.sparsities) < 2 or list(self.sparsities) != sorted(self.sparsities):
            shown = " ".join(f"{each:g}" for each in self.sparsities)
            raise ValueError(f"sparsities is '{shown}'; it must hold 0 and then at least one more, in increasing order")
        return self


class LLMScoresPage(_Page):
    """Parameters of the chapter llm-scores."""

    n_ablated: Annotated[int, Field(ge=3)] = Field(500, description="units of each kind to ablate one by one")
    n_ablation_blocks: Count = Field(16, description="blocks used for ablation; at most n_score_blocks")


class LLMPruningPage(Trained, _Page):
    """Parameters of the chapter llm-pruning."""

    pairs: Pairs[Share] = Field(
        ((0.5, 0.2), (0.8, 0.5), (0.9, 0.9)), description="shares of neurons/residual dimensions cut before recovery"
    )
    recovery_steps: Count = Field(250, description="training steps after pruning")
    recovery_batch_size: Count = Field(64, description="blocks in each training step")
    learning_rate: Rate = Field(2e-4, description="step size of AdamW in recovery")
    lasso_strengths: Numbers[NotNegative] = Field(
        (3e-4, 5e-4, 1e-3), description="lambda, weights of the group-lasso penalty"
    )
    lasso_steps: Count = Field(1_000, description="training steps with group lasso")
    lasso_rate: Rate = Field(1.5e-4, description="step size with group lasso")
    lasso_sparsity: Part = Field(0.8, description="share of neurons cut, with and without group lasso before")
    n_warmup: Whole = Field(25, description="warm-up steps, over which the step size rises")

    @model_validator(mode="after")
    def _one_strength_is_positive(self) -> LLMPruningPage:
        if not max(self.lasso_strengths):
            raise ValueError("lasso_strengths holds only 0; it must hold at least one number above 0")
        return self

    @property
    def strengths(self) -> tuple[float, ...]:
        """Of all trainings before the cut; the last, 0, is the control."""
        return (*(strength for strength in self.lasso_strengths if strength), 0.0)

    @property
    def trainings(self) -> tuple[Any, ...]:
        """Settings of the store of single trainings, which page and record share; not which strengths and cuts."""
        return self.sparsities, self.lasso_sparsity, self.pruning

    @part
    def pruning(self) -> LLMPruningConfig:
        """The configuration of the experiments."""
        at_once, found = micro_batch(self.recovery_batch_size), {}
        for name, rate in (("recovery", "learning_rate"), ("lasso", "lasso_rate")):
            names = {"n_steps": f"{name}_steps", "learning_rate": rate, "batch_size": "recovery_batch_size"}
            every = max(1, getattr(self, f"{name}_steps") // N_RECORDS)
            found[name] = self.build(LLMTrainingConfig, names, micro_batch_size=at_once, record_every=every)
        return self.build(LLMPruningConfig, **found)
