"""Claim L3: which way to a small language model reaches a loss on Python with the fewest parameters and tokens.

Every way is a run of the same trainer over the same blocks in the same order, read on the same held-out packages.
"""

from __future__ import annotations

import math
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from narrowlib.chapters.frontier.config import AT_ONCE, PREPARATION, Config, Run, pieces, runs_of
from narrowlib.chapters.frontier.outcomes import HELD_OUT, smoothed
from narrowlib.chapters.language.config import KINDS, RANKED_BY, WANTED_SKILL, record_name
from narrowlib.chapters.language.recovery import narrowed, unfinished_in
from narrowlib.chapters.language.scoring import Scores, unit_scores
from narrowlib.devices import is_bfloat16, pick_device
from narrowlib.llm.costs import flops_per_token, seconds_per_token
from narrowlib.llm.distillation import soft_targets
from narrowlib.llm.losses import block_losses
from narrowlib.llm.models import LanguageModel, load_causal_lm, version_of
from narrowlib.llm.students import n_parameters_of_student, new_student
from narrowlib.llm.training import recover
from narrowlib.llm.units import n_parameters_of
from narrowlib.store.kept import Kept

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

BACKWARD = 3  # operations of a training step, in those of its forward pass


class FrontierStudy:
    """The runs of one base model; what they share is computed at first use.

    Parameters
    ----------
    config : narrowlib.chapters.frontier.config.Config
        Finished runs, and what they share, are kept in its folder ``checkpoints``.
    progress : bool
        Show progress bars.
    """

    def __init__(self, config: Config, *, progress: bool = True) -> None:
        self.config, self.progress = config, progress
        self.store = Kept(config.checkpoints, config.asked, device=pick_device(config.device))

    @cached_property
    def language_model(self) -> LanguageModel:
        """The base model with its tokenizer."""
        config = self.config
        return load_causal_lm(config.model, device=config.device, block_length=config.block_length)

    @cached_property
    def version(self) -> str:
        """Identifies the base model among others of its name, without loading it."""
        return version_of(self.config.model)

    @property
    def base(self) -> PreTrainedModel:
        """The base model."""
        return self.language_model.model

    @cached_property
    def blocks(self) -> Dataset:
        """The blocks that every run is trained on."""
        training = self.config.training(self.config.student_rate)
        return self.config.training_blocks(self.language_model.tokenizer, training)

    @cached_property
    def held_out(self) -> Dataset:
        """The blocks that every run is evaluated on."""
        return self.config.held_out(self.language_model.tokenizer)[WANTED_SKILL]

    @cached_property
    def base_loss(self) -> float:
        """Held-out loss of the base model, in nats per token."""
        return float(block_losses(self.base, self.held_out, progress=False).mean())

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Scores of neurons and residual dimensions by ``narrowlib.chapters.language.config.RANKED_BY``."""

        def compute() -> dict[str, Scores]:
            blocks = self.config.score_blocks(self.language_model.tokenizer)
            return unit_scores(self.base, blocks, kinds=KINDS, variants=(RANKED_BY,), progress=self.progress)

        return self.store.keep("scores", compute, inputs=self.version)

    @cached_property
    def taught_blocks(self) -> Dataset:
        """The blocks with the base model's predictions for them."""
        from datasets import Dataset

        config, file = self.config, "teacher.arrow"

        def write(folder: Path) -> dict[str, Any]:
            options = {"temperature": config.temperature, "n_kept": min(config.n_kept, self.base.config.vocab_size)}
            options |= {"precision": config.precision, "batch_size": AT_ONCE, "progress": self.progress}
            soft_targets(self.blocks, self.base, **options, path=folder / file)
            return {}

        return Dataset.from_file(str(self.store.folder_of("teacher", write, inputs=self.version)[0] / file))

    def prepare(self) -> None:
        """Compute what runs share, so that no run has to wait for another."""
        self.check_students()
        _ = self.language_model, self.blocks, self.held_out, self.scores, self.taught_blocks

    def check_students(self) -> None:
        """Raise ValueError if a student has at least as many parameters as the base model."""
        limit = n_parameters_of(self.base)
        for n_heads in self.config.students:
            n_parameters = n_parameters_of_student(self.base, n_heads)
            if n_parameters >= limit:
                raise ValueError(
                    f"students holds {n_heads}; such a network has {n_parameters:,} parameters, but it must have fewer "
                    f"than its base model, {limit:,}"
                )

    def model_of(self, run: Run) -> PreTrainedModel:
        """The network of a run before training."""
        if isinstance(run.size, int):
            return new_student(self.base, run.size, seed=run.seed)
        return narrowed(self.base, self.scores, RANKED_BY, *run.size)

    def record(self, run: Run) -> pd.DataFrame:
        """Train the network of a run, or read its record; see `records` for the columns."""
        return self.store.keep(run.name, partial(self._train, run), inputs=self.version)

    def records(self) -> pd.DataFrame:
        """All runs.

        Returns
        -------
        DataFrame
            One row per run, split and record.  Of the run: ``method``, ``run``, ``seed``, ``n_parameters`` (kept, as
            the paper counts), ``n_stored`` (in its file), ``flops_per_token`` and ``seconds_per_token`` (of the
            finished model's forward pass).  Of the curve: ``step``, ``tokens``, ``split`` (train or held out), ``loss``
            (nats per token, of the next token, with a teacher too), ``smoothed`` (see
            `narrowlib.chapters.frontier.outcomes.smoothed`; training only), ``seconds``, ``joules`` (NaN where the
            device does not tell) and ``training_flops``, until then.
        """
        return pd.concat([self.record(run) for run in runs_of(self.config)], ignore_index=True)

    def _train(self, run: Run) -> pd.DataFrame:
        self.check_students()
        config, model = self.config, self.model_of(run)
        rate = config.student_rate if isinstance(run.size, int) else config.recovery_rate
        flops = flops_per_token(model, config.block_length)
        of_training = BACKWARD * flops
        if run.is_taught:
            of_training += flops_per_token(self.base, config.block_length)
        facts = {
            "method": run.method,
            "run": run.name,
            "seed": run.seed,
            "n_parameters": n_parameters_of(model),
            "n_stored": sum(parameter.numel() for parameter in model.parameters()),
            "flops_per_token": flops,
        }
        curve = recover(
            model,
            self.taught_blocks if run.is_taught else self.blocks,
            config.training(rate, run.seed),
            distillation=config.distillation,
            held_out=self.held_out,
            checkpoint=unfinished_in(self.store),
            tells_costs=True,
            progress=self.progress,
        )
        model.to(torch.bfloat16 if is_bfloat16(config.precision, model.device) else torch.float32)
        facts["seconds_per_token"] = seconds_per_token(model, (1, config.block_length))
        curve = _tidied(curve, run.is_taught)
        return curve.assign(**facts, training_flops=curve["tokens"] * of_training)


def tables(config: Config, *, piece: str = "", progress: bool = True) -> dict[str, pd.DataFrame]:
    """The table of all runs, or one piece of the work, which is kept in the folder of the checkpoints.

    Parameters
    ----------
    config : narrowlib.chapters.frontier.config.Config
    piece : str
        One of `narrowlib.chapters.frontier.config.pieces`; it is made and nothing returned.  Empty for everything.
    progress : bool

    Returns
    -------
    dict of str to DataFrame
        `FrontierStudy.records` by `table_name`; of the training batches the steps at which the held-out loss was read,
        and the last.

    Raises
    ------
    ValueError
        For an unknown piece, or a piece without a folder to keep it in.
    """
    study = FrontierStudy(config, progress=progress)
    if not piece:
        return {table_name(config): thinned(study.records(), config)}
    if piece not in pieces(config):
        raise ValueError(f"piece is {piece!r}; it must be one of {', '.join(pieces(config))}")
    if not config.checkpoints:
        raise ValueError("checkpoints is empty; it must be a folder, to keep a piece in")
    if piece == PREPARATION:
        study.prepare()
    else:
        study.record(next(run for run in runs_of(config) if run.name == piece))
    return {}


def table_name(config: Config) -> str:
    """Name of the table of all runs."""
    return record_name("runs", config.model)


def thinned(records: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The rows at which the held-out loss was measured; smoothed columns were smoothed over all steps."""
    is_kept = (records["step"] % config.evaluate_every == 0) | (records["step"] == config.n_steps)
    return records[is_kept].reset_index(drop=True)


def _tidied(curve: pd.DataFrame, is_taught: bool) -> pd.DataFrame:
    """The loss of the next token on both splits, smoothed as well; what training took, on both."""
    train = curve[curve["split"] == ("train, hard" if is_taught else "train")].assign(split="train")
    costs = curve.loc[curve["split"] == "train"].set_index("step")[["seconds", "joules"]]
    costs.loc[0] = 0 * costs.iloc[0]
    held_out = curve[curve["split"] == HELD_OUT].assign(smoothed=math.nan)
    both = pd.concat([train.assign(smoothed=smoothed(train["loss"])), held_out], ignore_index=True)
    return both.drop(columns=["seconds", "joules"]).join(costs, on="step")
