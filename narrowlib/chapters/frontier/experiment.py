"""Claim L3: for a loss on Python, which way to a small language model needs the fewest parameters and tokens.

Every way is a run of the same trainer over the same blocks in the same order, read on the same held-out packages.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from narrowlib.chapters.frontier import config as frontier_config
from narrowlib.chapters.frontier import outcomes as frontiers
from narrowlib.chapters.frontier import small_base
from narrowlib.chapters.frontier.config import PREPARATION, FrontierConfig, Run, pieces, runs_of
from narrowlib.chapters.frontier.outcomes import HELD_OUT, smoothed
from narrowlib.chapters.frontier.small_base import SmallBaseConfig
from narrowlib.chapters.language import recovery as llm_recovery
from narrowlib.chapters.language.config import KINDS, RANKED_BY, WANTED_SKILL
from narrowlib.chapters.language.recovery import narrowed
from narrowlib.chapters.language.scoring import Scores, unit_scores
from narrowlib.llm import costs as llm_costs
from narrowlib.llm import distillation, students
from narrowlib.llm.costs import flops_per_token, seconds_per_token
from narrowlib.llm.distillation import soft_targets
from narrowlib.llm.models import LanguageModel, load_causal_lm
from narrowlib.llm.students import n_parameters_of_student, new_student
from narrowlib.llm.training import recover
from narrowlib.llm.units import n_parameters_of
from narrowlib.store.downloads import made
from narrowlib.store.records import digest_of, recorded, source_digest

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

BACKWARD = 3  # operations of a training step, in those of its forward pass


class FrontierStudy:
    """The runs of one base model; what they share is made when it is first asked for.

    Parameters
    ----------
    config : FrontierConfig
    device : {"auto", "cpu", "cuda"}
    checkpoints : path
        Folder to leave off in; empty for none.  Finished runs are kept there, unfinished ones leave off, and what they
        share is made once, by whichever process is first.
    progress : bool
        Show progress bars.
    """

    def __init__(
        self, config: FrontierConfig, *, device: str = "auto", checkpoints: str | Path = "", progress: bool = True
    ) -> None:
        self.config, self.device, self.progress = config, device, progress
        self.folder = folder_of(config, checkpoints) if checkpoints else None

    @cached_property
    def language_model(self) -> LanguageModel:
        """The base model with its tokenizer."""
        if self.config.model != small_base.NAME:
            return load_causal_lm(self.config.model, device=self.device)
        shape = SmallBaseConfig(n_steps=self.config.base_steps, block_length=self.config.block_length)
        if self.folder is None:
            return small_base.small_base(shape, device=self.device, progress=self.progress)

        def write(folder: Path) -> None:
            trained = small_base.small_base(shape, device=self.device, progress=self.progress)
            trained.model.save_pretrained(folder)
            trained.tokenizer.save_pretrained(folder)

        return load_causal_lm(made(self.folder / "base", write), device=self.device)

    @property
    def base(self) -> PreTrainedModel:
        """The base model."""
        return self.language_model.model

    @cached_property
    def blocks(self) -> Dataset:
        """What every run is trained on."""
        training = self.config.training(self.config.student_rate)
        return self.config.pruning.training_blocks(self.language_model.tokenizer, training)

    @cached_property
    def held_out(self) -> Dataset:
        """What every run is read on."""
        return self.config.pruning.held_out(self.language_model.tokenizer)[WANTED_SKILL]

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Scores of neurons and residual dimensions by ``narrowlib.chapters.language.config.RANKED_BY``."""

        def write(path: Path) -> None:
            blocks = self.config.pruning.score_blocks(self.language_model.tokenizer)
            scores = unit_scores(self.base, blocks, variants=(RANKED_BY,), progress=self.progress)
            flat = {f"{kind}/{name}": each for kind in KINDS for name, each in scores[kind][RANKED_BY].items()}
            save_file({name: each.contiguous() for name, each in flat.items()}, path)

        flat = self._kept_file("scores.safetensors", write, load_file)
        scores: dict[str, Scores] = {kind: {RANKED_BY: {}} for kind in KINDS}
        for name, values in flat.items():
            kind, _, group = name.partition("/")
            scores[kind][RANKED_BY][group] = values.to(self.base.device)
        return scores

    @cached_property
    def taught_blocks(self) -> Dataset:
        """The blocks with what the base model says of them."""
        config = self.config

        def make(path: Path | None) -> Dataset:
            options = {"temperature": config.temperature, "n_kept": min(config.n_kept, self.base.config.vocab_size)}
            options |= {"precision": config.precision, "batch_size": config.micro_batch_size}
            return soft_targets(self.blocks, self.base, **options, path=path, progress=self.progress)

        if self.folder is None:
            return make(None)
        from datasets import Dataset

        return Dataset.from_file(str(made(self.folder / "teacher.arrow", make)))

    def prepare(self) -> None:
        """Make what runs share, so that none has to wait for another."""
        self.check_students()
        _ = self.language_model, self.blocks, self.held_out, self.scores, self.taught_blocks

    def check_students(self) -> None:
        """Raise ValueError when a student has as many parameters as the base model, or more."""
        limit = n_parameters_of(self.base)
        for n_heads in self.config.student_heads:
            n_parameters = n_parameters_of_student(self.base, n_heads)
            if n_parameters >= limit:
                raise ValueError(
                    f"students holds {n_heads}; with as many heads a network has {n_parameters:,} parameters, and it "
                    f"must have fewer than its base model, which has {limit:,}"
                )

    def model_of(self, run: Run) -> PreTrainedModel:
        """The network of a run before training."""
        if isinstance(run.size, int):
            return new_student(self.base, run.size, seed=self.config.seed)
        return narrowed(self.base, self.scores, RANKED_BY, *run.size)

    def record(self, run: Run) -> pd.DataFrame:
        """Train the network of a run, or read what was recorded of it; see `records` for the columns."""
        return recorded(run.name, _described(self.config), lambda: self._train(run), self.folder)

    def records(self) -> pd.DataFrame:
        """All runs.

        Returns
        -------
        DataFrame
            One row per run, split and record.  Of the run: ``method``, ``run``, ``n_parameters`` (kept, as the paper
            counts), ``n_stored`` (in its file), ``flops_per_token`` and ``seconds_per_token`` (of the finished
            model's forward pass).  Of the curve: ``step``, ``tokens``, ``split`` (train or held out), ``loss`` (nats
            per token, of the next token, with a teacher too), ``smoothed`` (see
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
            "n_parameters": n_parameters_of(model),
            "n_stored": sum(parameter.numel() for parameter in model.parameters()),
            "flops_per_token": flops,
        }
        curve = recover(
            model,
            self.taught_blocks if run.is_taught else self.blocks,
            config.training(rate),
            distillation=config.distillation,
            held_out=self.held_out,
            checkpoint=self.folder,
            tells_costs=True,
            progress=self.progress,
        )
        model.to(torch.bfloat16 if config.precision == "bfloat16" else torch.float32)
        facts["seconds_per_token"] = seconds_per_token(model, (1, config.block_length))
        curve = _tidied(curve, run.is_taught)
        return curve.assign(**facts, training_flops=curve["tokens"] * of_training)

    def _kept_file(self, name: str, write: Callable[[Path], None], read: Callable[[Path], Any]) -> Any:
        if self.folder is not None:
            return read(made(self.folder / name, write))
        with TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(path)
            return read(path)


def paper_tables(
    config: FrontierConfig | None = None,
    *,
    piece: str = "",
    device: str = "auto",
    checkpoints: str | Path = "",
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """The table of all runs, or one piece of the work, which is kept in the folder of the checkpoints.

    Parameters
    ----------
    config : FrontierConfig, optional
    piece : str
        One of `narrowlib.chapters.frontier.config.pieces`; it is made and nothing returned.  Empty for everything.
    device : {"auto", "cpu", "cuda"}
    checkpoints : path
        Folder to leave off in, see `FrontierStudy`.
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
    study = FrontierStudy(config or FrontierConfig(), device=device, checkpoints=checkpoints, progress=progress)
    if not piece:
        return {table_name(study.config): thinned(study.records(), study.config)}
    if piece not in pieces(study.config):
        raise ValueError(f"piece is {piece!r}; it must be one of {', '.join(pieces(study.config))}")
    if study.folder is None:
        raise ValueError("checkpoints is empty; a piece needs a folder to be kept in")
    if piece == PREPARATION:
        study.prepare()
    else:
        study.record(next(run for run in runs_of(study.config) if run.name == piece))
    return {}


def table_name(config: FrontierConfig) -> str:
    """Name of the table of all runs: records of the small base model and of another lie side by side."""
    return "small-runs" if config.model == small_base.NAME else "runs"


def thinned(records: pd.DataFrame, config: FrontierConfig) -> pd.DataFrame:
    """The rows at which the held-out loss was read: what is smoothed was smoothed over all steps."""
    is_kept = (records["step"] % config.evaluate_every == 0) | (records["step"] == config.n_steps)
    return records[is_kept].reset_index(drop=True)


def folder_of(config: FrontierConfig, checkpoints: str | Path) -> Path:
    """Where the study of a configuration keeps its pieces: results of other settings or other code lie elsewhere."""
    own = (distillation, frontier_config, frontiers, llm_costs, llm_recovery, small_base, students)
    code = source_digest(*llm_recovery.CODE, *own, sys.modules[__name__])
    return Path(checkpoints) / f"frontier-{digest_of([_described(config), torch.__version__, code])}"


def _described(config: FrontierConfig) -> dict:
    return asdict(config) | {
        "student_heads": list(config.student_heads),
        "pairs": [list(pair) for pair in config.pairs],
    }


def _tidied(curve: pd.DataFrame, is_taught: bool) -> pd.DataFrame:
    """The loss of the next token on both splits, smoothed as well; what training took, on both."""
    train = curve[curve["split"] == ("train, hard" if is_taught else "train")].assign(split="train")
    costs = curve.loc[curve["split"] == "train"].set_index("step")[["seconds", "joules"]]
    costs.loc[0] = 0 * costs.iloc[0]
    held_out = curve[curve["split"] == HELD_OUT].assign(smoothed=math.nan)
    both = pd.concat([train.assign(smoothed=smoothed(train["loss"])), held_out], ignore_index=True)
    return both.drop(columns=["seconds", "joules"]).join(costs, on="step")
