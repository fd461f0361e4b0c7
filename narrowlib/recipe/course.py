"""The steps of a narrowing, one after another: measure, tune, cut, recover, write."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from narrowlib.llm.distillation import Distillation
from narrowlib.llm.export import export_vanilla, sliced
from narrowlib.llm.losses import block_losses
from narrowlib.llm.models import DEFAULT_NAME, DEFAULT_ON_HUB, LanguageModel, load_causal_lm
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.llm.training import recover, train_group_lasso
from narrowlib.llm.units import llama_units, n_parameters_of
from narrowlib.recipe import cut, measure
from narrowlib.recipe.intake import Texts
from narrowlib.recipe.report import Report, write_report
from narrowlib.recipe.settings import RecipeConfig
from narrowlib.recipe.stages import Result, Stages, writing
from narrowlib.store.records import provenance

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

N_RECORDS, N_CHECKPOINTS = 8, 4  # of every training
_MODEL, _MASKS = "model", "masks.safetensors"
_AT_ONCE = 4  # blocks through the model in training


def training_config(config: RecipeConfig, n_tokens: int, seed: int = 0) -> LLMTrainingConfig:
    """A training over so many tokens, in whole steps."""
    n_steps = max(1, math.ceil(n_tokens / (config.batch_size * config.block_length)))
    return LLMTrainingConfig(
        n_steps=n_steps,
        learning_rate=config.learning_rate,
        n_warmup=round(config.warmup_share * n_steps),
        batch_size=config.batch_size,
        micro_batch_size=math.gcd(config.batch_size, _AT_ONCE),
        precision=config.precision,
        seed=config.seed + seed,
        record_every=math.ceil(n_steps / N_RECORDS),
        checkpoint_every=math.ceil(n_steps / N_CHECKPOINTS),
    )


@dataclass
class _Held:
    """A model that is on disk, and perhaps in memory too."""

    source: str  # name or folder
    device: str
    loaded: LanguageModel | None = None

    def get(self) -> LanguageModel:
        self.loaded = self.loaded or load_causal_lm(self.source, device=self.device)
        return self.loaded

    def take(self) -> PreTrainedModel:
        """To be changed in place: it is no longer held."""
        model, self.loaded = self.get().model, None
        return model


class Narrowing:
    """One narrowing on its way; made anew after a kill, it finds the steps that are done.

    Parameters
    ----------
    config : RecipeConfig
    language_model : LanguageModel
        Uncut.
    texts : dict of str to Texts
        ``"keep"``, and perhaps ``"lose"``.
    shares : dict of str to float
        Of every kind of units, at the end of the way.
    stages : Stages
    progress : bool
    """

    def __init__(
        self,
        config: RecipeConfig,
        language_model: LanguageModel,
        texts: dict[str, Texts],
        shares: dict[str, float],
        stages: Stages,
        progress: bool,
    ) -> None:
        self.config, self.texts, self.shares, self.stages, self.progress = config, texts, shares, stages, progress
        self.tokenizer = language_model.tokenizer
        with torch.device("meta"):  # the sizes of the whole model, for as long as they are asked for
            self.whole = type(language_model.model)(language_model.model.config)
        self.now = _Held(config.model, config.device, language_model)
        self.curves: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        self.n_seen = 0  # tokens of training so far

    def write(self, out: Path, about: dict[str, Any]) -> Report:
        """Go all the way and leave the result in its folder, with what it was made from."""
        before = self._step("before", lambda _: {"losses": measure.losses_of(self.now.get().model, **self._heard)})
        self._train_whole()
        self._cut_and_recover()
        _, after = self._step("after", lambda _: {"losses": measure.losses_of(self.now.get().model, **self._heard)})
        model = self.now.get()
        numbers = {
            "model": DEFAULT_ON_HUB if self.config.model == DEFAULT_NAME else self.config.model,
            "made from": about,
            "inputs": {name: self._input(name) for name in self.texts},
            "losses": [
                {**row, "when": when}
                for when, rows in (("before", before[1]["losses"]), ("after", after["losses"]))
                for row in rows
            ],
            "shape": {"before": measure.shape_of(self.whole), "after": measure.shape_of(model.model)},
            "speed": {"before": {}, "after": measure.speed_of(model.model)},
            "rounds": self.rounds,
            "target met": any(each["kept"] for each in self.rounds),
            "curves": self.curves,
            "seconds": self.seconds,
            "provenance": provenance(model.model.device),
        }
        result = self.stages.folder / "result"
        with writing(result) as temporary:
            export_vanilla(replace(model, name=self.config.model), {}, temporary)
            del model
            self.now.loaded = None
            whole = load_causal_lm(self.config.model, device=self.config.device)
            numbers["speed"]["before"] = measure.speed_of(whole.model)
            write_report(numbers, temporary)
        result.replace(out)
        return Report(out, numbers)

    def _train_whole(self) -> None:
        """Fine-tuning and group lasso, before anything is cut."""
        config, options = self.config, self._training_options
        if config.finetune_tokens:
            training = training_config(config, config.finetune_tokens)

            def finetune() -> tuple[PreTrainedModel, pd.DataFrame]:
                model = self.now.take()
                return model, recover(model, self._train, training, keep_best=True, **options)

            self._change("fine-tuning", finetune)
        if config.lasso_tokens:
            training = training_config(config, config.lasso_tokens, seed=1)

            def regularise() -> tuple[PreTrainedModel, pd.DataFrame]:
                model = self.now.take()
                groups = [group for kind in config.units for group in llama_units(model, kind)]
                how = {"groups": groups, "strength": config.lasso_strength}
                return model, train_group_lasso(model, self._train, training, **how, **options)

            self._change("group-lasso", regularise)

    def _cut_and_recover(self) -> None:
        """Rounds of cutting, up to the sparsity or while the loss holds."""
        config, uncut, folders = self.config, self.now, []
        for number in range(1, config.rounds + 1):
            shares = {kind: share * number / config.rounds for kind, share in self.shares.items()}
            counts = cut.counts_at(self.whole, shares)
            place, _ = self._step(f"cut-{number}", partial(self._leave_masks, counts))
            last = self.now
            folder, loss = self._change(f"recovery-{number}", partial(self._recovered, number, place / _MASKS, uncut))
            is_kept = config.target_loss is None or loss <= config.target_loss
            n_parameters = n_parameters_of(self.whole, cut.first_masks(self.whole, counts))
            about = {"round": number, "counts": counts, "parameters": n_parameters, "loss": loss, "kept": is_kept}
            self.rounds.append(about)
            if not is_kept:
                self.now = last
                return
            folders.append(folder)
            for older in folders[:-2]:  # only the round before may still be the result
                shutil.rmtree(older / _MODEL, ignore_errors=True)

    def _leave_masks(self, counts: dict[str, int], folder: Path) -> Result:
        lose = self._blocks("lose", "train", self.config.score_tokens) if self.config.lose_weight else None
        keep = self._blocks("keep", "train", self.config.score_tokens)
        masks = cut.masks_for(self.now.get().model, counts, keep, lose, self.config, progress=self.progress)
        save_file({name: mask.cpu() for name, mask in masks.items()}, folder / _MASKS)
        return {}

    def _recovered(self, number: int, masks: Path, uncut: _Held) -> tuple[PreTrainedModel, pd.DataFrame]:
        config = self.config
        model = sliced(self.now.get().model, load_file(masks))
        self.now.loaded = None
        if not config.recovery_tokens:
            loss = block_losses(model, self._held_out["keep"], progress=self.progress).mean().item()
            return model, pd.DataFrame({"step": [0], "tokens": [0], "split": ["held out"], "loss": [loss]})
        training = training_config(config, config.recovery_tokens // config.rounds, seed=1 + number)
        distillation = {}
        if config.distillation:
            weights = Distillation(temperature=config.temperature, hard_weight=1 - config.distillation)
            distillation = {"teacher": uncut.get().model, "distillation": weights}
        options = {**self._training_options, **distillation}
        return model, recover(model, self._train, training, keep_best=True, **options)

    def _change(self, name: str, work: Any) -> tuple[Path, float]:
        """A step that makes another model; its folder, and its loss on what is kept."""
        made: list[LanguageModel] = []

        def leave(folder: Path) -> Result:
            model, curve = work()
            made.append(LanguageModel(model, self.tokenizer, self.config.model))
            export_vanilla(made[0], {}, folder / _MODEL)
            return {"curve": curve.to_dict("records")}

        folder, result = self._step(name, leave)
        self.now = _Held(str(folder / _MODEL), self.config.device, made[0] if made else None)
        rows = [{**row, "tokens": self.n_seen + row["tokens"], "stage": name} for row in result["curve"]]
        self.n_seen = rows[-1]["tokens"]
        self.curves += rows
        held_out = [row["loss"] for row in rows if row["split"] == "held out"]
        return folder, held_out[-1] if name == "group-lasso" else min(held_out)

    def _step(self, name: str, work: Any) -> tuple[Path, Result]:
        folder, result = self.stages.step(name, work)
        self.seconds[name] = result["seconds"]
        return folder, result

    def _input(self, name: str) -> dict[str, Any]:
        text = self.texts[name]
        return {"source": text.source, "documents": text.n_documents}

    def _blocks(self, name: str, split: str, at_most: int) -> Dataset:
        length = self.config.block_length
        options = {"at_most": at_most, "block_length": length, "progress": self.progress}
        return self.texts[name].blocks(self.tokenizer, split, **options)

    @cached_property
    def _train(self) -> Dataset:
        config = self.config
        n_tokens = config.finetune_tokens + config.lasso_tokens + config.recovery_tokens
        return self._blocks("keep", "train", n_tokens)

    @cached_property
    def _held_out(self) -> dict[str, Dataset]:
        return {name: self._blocks(name, "held-out", self.config.held_out_tokens) for name in self.texts}

    @property
    def _heard(self) -> dict[str, Any]:
        return {"held_out": self._held_out, "progress": self.progress}

    @property
    def _training_options(self) -> dict[str, Any]:
        return {"held_out": self._held_out["keep"], "checkpoint": self.stages.scratch, "progress": self.progress}
