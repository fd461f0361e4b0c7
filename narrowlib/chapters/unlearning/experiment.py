"""Claim U1: what narrowed language models still know besides Python, and how soon they relearn it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import pandas as pd
import torch

from narrowlib.chapters.language.config import BEFORE, RANKED_BY, WANTED_SKILL
from narrowlib.chapters.language.lasso import Trained, regularised
from narrowlib.chapters.language.recovery import narrowed, unfinished_in
from narrowlib.chapters.language.scoring import Scores, unit_scores
from narrowlib.chapters.unlearning.config import BASE, SCORE_OF, Config
from narrowlib.data import facts as knowledge
from narrowlib.data.documents import SKILLS
from narrowlib.data.facts import Fact, fact_blocks, facts
from narrowlib.devices import pick_device
from narrowlib.llm.answers import answer_facts
from narrowlib.llm.harness import benchmark_accuracies
from narrowlib.llm.losses import loss_per_skill
from narrowlib.llm.models import LanguageModel, load_causal_lm
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.llm.training import recover
from narrowlib.llm.units import n_parameters_of
from narrowlib.store.kept import Kept
from narrowlib.store.unfinished import DivergedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FACT_BLOCK = 64  # tokens, half a dozen facts


def relearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    training: LLMTrainingConfig,
    learned: Sequence[Fact],
    asked: Sequence[Fact],
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a model in place on some facts, and test it on others during training.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
    training : LLMTrainingConfig
        Its ``record_every`` says how often the model is asked, beside before and after.
    learned, asked : sequence of Fact
        What it is trained on, and what it is asked.
    progress : bool

    Returns
    -------
    DataFrame
        One row per record and fact that is asked: ``step``, ``tokens`` (trained on so far), and the columns of
        `narrowlib.llm.answers.answer_facts`.
    """
    tokens_per_step = training.batch_size * FACT_BLOCK
    blocks = fact_blocks(tokenizer, learned, n_tokens=training.n_steps * tokens_per_step, block_length=FACT_BLOCK)
    frames: list[pd.DataFrame] = []

    def ask(step: int) -> None:
        frames.append(answer_facts(model, tokenizer, asked).assign(step=step, tokens=step * tokens_per_step))

    recover(model, blocks, training, on_record=ask, progress=progress)
    return pd.concat(frames, ignore_index=True)


def tables(config: Config, *, progress: bool = True) -> dict[str, pd.DataFrame]:
    """Narrow a model to Python in several ways, then ask it plain facts while it learns others of them again.

    What a model answered is kept in the folder ``checkpoints`` as soon as it is finished.

    Parameters
    ----------
    config : narrowlib.chapters.unlearning.config.Config
    progress : bool

    Returns
    -------
    dict of str to DataFrame
        ``answers``: the rows of `relearn` for every model, with ``method``, ``sparsity`` and ``n_parameters``; it
        learns the facts of the half ``"train"`` and is asked those of the half ``"test"``, at the step size that is
        best by ``rates``.
        ``rates``: one row per model and step size, ``learning_rate`` and ``loss`` (nats per answer, of facts held back
        from a short training on the others; NaN where there is one step size and nothing to choose).
        ``skills``: the loss of every model on each skill before it learns facts, see
        `narrowlib.llm.losses.loss_per_skill`, with the same three columns.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), the table on unlearning.
    """
    study = _Study(config, progress)
    found = [
        study.store.keep(f"{method}-{sparsity}", partial(study.answered, method, sparsity))
        for method, sparsity in config.runs()
    ]
    return {name: pd.concat([each[name] for each in found], ignore_index=True) for name in found[0]}


def whole_model_accuracies(config: Config) -> pd.DataFrame:
    """Accuracies of the whole model on the requested benchmarks.

    See `narrowlib.llm.harness.benchmark_accuracies`.
    """
    whole = load_causal_lm(config.model, device=config.device)
    return benchmark_accuracies(whole.model, whole.tokenizer, config.benchmarks.split())


class _Study:
    """The models of one experiment, one at a time; what several of them need is made when it is first asked for."""

    def __init__(self, config: Config, progress: bool) -> None:
        self.config, self.progress = config, progress
        self.store = Kept(config.checkpoints, config.asked, device=pick_device(config.device))

    def answered(self, method: str, sparsity: float) -> dict[str, pd.DataFrame]:
        """The tables of one model."""
        model = self._model(method, sparsity)
        about = {"method": method, "sparsity": sparsity, "n_parameters": n_parameters_of(model)}
        learned, asked = (facts(half, per_category=self.config.per_category) for half in knowledge.HALVES)
        rates = self._rates(model, learned)
        best = rates.loc[rates["loss"].fillna(0).idxmin(), "learning_rate"]
        training = self.config.relearning.replace(learning_rate=best)
        found = {  # skills first: answering ends with another model
            "skills": loss_per_skill(model, self._held_out, batch_size=4, progress=self.progress),
            "rates": rates,
            "answers": relearn(model, self.tokenizer, training, learned, asked, progress=self.progress),
        }
        return {name: frame.assign(**about)[[*about, *frame.columns]] for name, frame in found.items()}

    def _rates(self, model: PreTrainedModel, learned: Sequence[Fact]) -> pd.DataFrame:
        """Each step size, and the loss on facts that are held back after a short training on the others."""
        config, losses = self.config, []
        some, held_back = knowledge.without_some(learned)
        for rate in config.relearning_rates if len(config.relearning_rates) > 1 else ():
            short = config.relearning.replace(
                n_steps=config.rate_steps, record_every=config.rate_steps, learning_rate=rate
            )
            copied = copy.deepcopy(model)
            try:
                answers = relearn(copied, self.tokenizer, short, some, held_back, progress=self.progress)
            except DivergedError:
                losses.append(float("inf"))
                continue
            losses.append(answers.loc[answers["step"] == config.rate_steps, "loss"].mean())
        return pd.DataFrame({"learning_rate": config.relearning_rates, "loss": losses or float("nan")})

    def _model(self, method: str, sparsity: float) -> PreTrainedModel:
        if method in (BASE, "python"):
            model = copy.deepcopy(self.base)
        elif method == "scratch":
            model = without_knowledge(narrowed(self.base, self._scores, SCORE_OF["random"], sparsity))
        else:
            start = self._regularised if method == "lasso" else Trained(BEFORE, self.base, self._scores)
            model = narrowed(start.model, start.scores, SCORE_OF[method], sparsity)
        training = self.config.scratch if method == "scratch" else self.config.python
        if method != BASE and training is not None:
            blocks = self.config.pruning.training_blocks(self.tokenizer, training)
            recover(model, blocks, training, checkpoint=unfinished_in(self.store), progress=self.progress)
        return model

    @cached_property
    def _loaded(self) -> LanguageModel:
        config = self.config
        return load_causal_lm(config.model, device=config.device, block_length=config.block_length)

    @property
    def base(self) -> PreTrainedModel:
        return self._loaded.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._loaded.tokenizer

    @cached_property
    def _held_out(self) -> dict:
        return self.config.pruning.held_out(
            self.tokenizer, (WANTED_SKILL, *(skill for skill in SKILLS if skill != WANTED_SKILL))
        )

    @cached_property
    def _scores(self) -> dict[str, Scores]:
        blocks = self.config.pruning.score_blocks(self.tokenizer)
        asked = {"kinds": ("neurons",), "variants": (RANKED_BY, "random"), "progress": self.progress}
        return unit_scores(self.base, blocks, **asked)

    @cached_property
    def _regularised(self) -> Trained:
        how = {"store": self.store, "progress": self.progress}
        return regularised(self.base, self.tokenizer, self.config.lasso_strength, self.config.pruning, **how)


def without_knowledge(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same shape with random weights, as its architecture draws them; the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type(model)(copy.deepcopy(model.config)).to(model.device).eval()
