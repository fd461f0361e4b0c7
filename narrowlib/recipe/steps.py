"""The steps of one narrowing, each kept until all are done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import torch
import transformers
from tqdm.auto import tqdm

from narrowlib.llm.distillation import Distillation
from narrowlib.llm.export import export_vanilla, sliced
from narrowlib.llm.gguf_files import write_gguf
from narrowlib.llm.harness import benchmark_accuracies
from narrowlib.llm.losses import mean_loss
from narrowlib.llm.models import DEFAULT_NAME, DEFAULT_ON_HUB, LanguageModel, load_causal_lm, origin_of
from narrowlib.llm.refit import refit
from narrowlib.llm.training import recover, train_group_lasso
from narrowlib.llm.units import llama_units, n_parameters_of
from narrowlib.recipe import cut
from narrowlib.recipe.intake import Mixture, Texts, blocks_needed, counts_of
from narrowlib.recipe.measured import check_finite, losses_of, samples_of, shape_of, speeds_of
from narrowlib.recipe.report import Report, write_report
from narrowlib.recipe.settings import RecipeConfig
from narrowlib.store.files import replacing
from narrowlib.store.kept import Kept
from narrowlib.store.provenance import provenance
from narrowlib.store.unfinished import DivergedError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

_MODEL = "model"
SHARED = ("before", "cut-1")  # small results, kept in the cache for runs with other settings of later steps
T = TypeVar("T")
Loader = Callable[[], LanguageModel]
Trained = tuple["PreTrainedModel", pd.DataFrame, dict[str, Any]]  # a model, its losses in training, what else to say


def _rounded(language_model: LanguageModel, *dtypes: torch.dtype) -> LanguageModel:
    """The model with its weights, though not its frequencies, in one dtype after another; in place."""
    for parameter in language_model.model.parameters():
        for dtype in dtypes:
            parameter.data = parameter.data.to(dtype)
    return language_model


class Narrowing:
    """One narrowing; constructed again after an interruption, it finds the finished steps."""

    def __init__(
        self,
        config: RecipeConfig,
        language_model: LanguageModel,
        texts: dict[str, Texts | Mixture],
        shares: dict[str, float],
        stores: dict[str, Kept],
        progress: bool,
    ) -> None:
        self.config, self.texts, self.shares, self.progress = config, texts, shares, progress
        self.stores, self.store = stores, stores[""]  # by step, where it is not that of all others
        self.tokenizer = language_model.tokenizer
        stored = language_model.stored or torch.float32
        self.dtypes = {"before": stored, "after": stored if config.dtype == "auto" else getattr(torch, config.dtype)}
        with torch.device("meta"):  # the sizes of the whole model, for as long as they are asked for
            self.whole = type(language_model.model)(language_model.model.config)
        self.load = self.load_whole = partial(load_causal_lm, config.model, device=config.device)  # as it is now; whole
        self.curves: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []  # steps that an earlier run has taken
        self.about: dict[str, Any] = {}  # of the last change
        self.n_seen = 0  # tokens of training so far
        n_steps = (
            2
            + 2 * bool(config.eval.strip())
            + (config.finetune_tokens > 0)
            + (config.lasso_tokens > 0)
            + 2 * config.rounds
        )
        self.bar = tqdm(total=n_steps, unit="step", disable=not progress)

    def write(self, out: Path, about: dict[str, Any]) -> Report:
        """Run all steps and leave the result in its folder, with its provenance."""
        blocks = blocks_needed(self.texts, self.config, self.tokenizer, progress=self.progress)  # or refused here
        before = self._step("before", self._losses_before)
        accuracies = self._accuracies("before")
        self._train_whole()
        self._cut_and_recover()
        load = self.load
        self.load = lambda: _rounded(load(), self.dtypes["after"], torch.float32)
        after = self._step(f"after in {self.config.dtype}", self._losses)
        accuracies += self._accuracies(f"after in {self.config.dtype}")
        self.bar.close()
        model, whole = self.load(), self.load_whole()
        numbers = {
            "model": DEFAULT_ON_HUB if self.config.model == DEFAULT_NAME else self.config.model,
            "origin": origin_of(self.config.model),
            "made from": about,
            "inputs": {
                name: {
                    "source": text.source,
                    "documents": text.n_documents,
                    "left out": text.left_out,
                    "tokens that count": {
                        split: counts_of(each) for (of, split), each in blocks.items() if of == name and text.labels
                    },
                }
                for name, text in self.texts.items()
            },
            "losses": [
                {**row, "when": when} for when, rows in (("before", before["losses"]), ("after", after)) for row in rows
            ],
            "select before": before["select"],
            "shape": {
                "before": shape_of(self.whole, self.dtypes["before"]),
                "after": shape_of(model.model, self.dtypes["after"]),
            },
            "accuracies": accuracies,
            **speeds_of({"before": whole.model, "after": model.model}),
            "samples": samples_of({"before": whole, "after": model}, self._held_out, self.config.samples),
            "rounds": self.rounds,
            "target met": any(each["kept"] for each in self.rounds),
            "curves": self.curves,
            "seconds": self.seconds,
            "reused": self.reused,
            "provenance": {**provenance(model.model.device), "transformers": transformers.__version__},
        }
        del whole
        result = self.store.folder / "result"
        with replacing(result) as temporary:
            result_model = replace(_rounded(model, self.dtypes["after"]), name=self.config.model)
            export_vanilla(result_model, {}, temporary)
            if self.config.gguf:
                file = f"model-{self.config.gguf}.gguf"
                numbers["gguf"] = {
                    "file": file,
                    **write_gguf(replace(result_model, name=str(out)), temporary / file, weights=self.config.gguf),
                }
            del model, result_model
            write_report(numbers, temporary)
        result.replace(out)
        return Report(out, numbers)

    def _train_whole(self) -> None:
        """Fine-tuning and group lasso, before anything is cut."""
        if self.config.finetune_tokens:
            self._change("fine-tuning", self._tuned)
        if self.config.lasso_tokens:
            self._change("group-lasso", self._regularised)

    def _cut_and_recover(self) -> None:
        """Rounds of cutting, up to the sparsity or while the loss is at most the target."""
        config, load_teacher = self.config, self.load
        by_round = cut.counts_by_round(self.whole, self.shares, config.rounds, config.multiple_of)
        for number, counts in enumerate(by_round, 1):
            masks = self._step(f"cut-{number}", partial(self._masks, counts))
            load_last = self.load
            loss = self._change(f"recovery-{number}", partial(self._cut_by, masks, number, load_teacher))
            is_kept = config.target_loss is None or loss <= config.target_loss
            n_parameters = n_parameters_of(self.whole, cut.first_masks(self.whole, counts))
            about = {"round": number, "counts": counts, "parameters": n_parameters, "loss": loss, "kept": is_kept}
            about["refit"] = self.about
            self.rounds.append(about)
            if not is_kept:
                self.load = load_last
                return
            for old in self.store.folder.glob(f"*/recovery-{number - 1}-model"):  # no later step needs it
                shutil.rmtree(old, ignore_errors=True)

    def _losses_before(self) -> dict[str, Any]:
        """Those of the report, and of what is kept on the documents that choices are made on."""
        model = self.load().model
        losses = losses_of(model, self._held_out, "before", progress=self.progress)
        return {"losses": losses, "select": self._loss(model, "before")}

    def _loss(self, model: PreTrainedModel, when: str) -> float:
        """On the documents of what is kept that choices are made on."""
        loss = mean_loss(model, self._select, batch_size=4, progress=self.progress)
        return check_finite(loss, f"selection documents, {when}")

    def _losses(self) -> list[dict[str, Any]]:
        return losses_of(self.load().model, self._held_out, "at the end", progress=self.progress)

    def _accuracies(self, when: str) -> list[dict[str, Any]]:
        """Of the tasks that are asked for, whole or after all steps."""
        tasks, limit = self.config.eval.split(), self.config.eval_limit
        if not tasks:
            return []

        def measured() -> list[dict[str, Any]]:
            model = self.load()
            return benchmark_accuracies(model.model, model.tokenizer, tasks, limit=limit).to_dict("records")

        name = f"accuracy {when} {' '.join(tasks)} {limit or ''}".rstrip()
        return [{**row, "when": when.partition(" ")[0]} for row in self._step(name, measured)]

    def _masks(self, counts: dict[str, int]) -> cut.Masks:
        keep = self._blocks("keep", "train", self.config.score_tokens)
        lose = self._blocks("lose", "train", self.config.score_tokens) if self.config.lose_weight else None
        return cut.masks_for(self.load().model, counts, keep, lose, self.config, progress=self.progress)

    def _refitted(self, whole: PreTrainedModel, masks: cut.Masks) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The model without what the masks remove, refitted where that is asked for or lowers the loss, and the losses.

        The losses are read on documents that neither scores nor the refit have seen.
        """
        if self.config.refit == "off" or not masks:
            return sliced(whole, masks), {}

        losses = {"plain": self._loss(sliced(whole, masks), "after the cut")}
        model = sliced(whole, masks)  # again: two are not held beside each other
        refit(model, whole, masks, self._blocks("keep", "train", self.config.score_tokens), progress=self.progress)
        losses["refit"] = self._loss(model, "after the refit")
        if self.config.refit == "on" or losses["refit"] < losses["plain"]:
            return model, {**losses, "taken": "refit"}
        del model
        return sliced(whole, masks), {**losses, "taken": "plain"}

    def _tuned(self, load: Loader, **options: Any) -> Trained:
        model, training = load().model, self.config.training(self.config.finetune_tokens)
        return model, recover(model, self._train, training, keep_best=True, **options), {}

    def _regularised(self, load: Loader, **options: Any) -> Trained:
        config, model = self.config, load().model
        groups = [group for kind in config.units for group in llama_units(model, kind)]
        how = {"groups": groups, "strength": config.lasso_strength, **options}
        return model, train_group_lasso(model, self._train, config.training(config.lasso_tokens, seed=1), **how), {}

    def _cut_by(self, masks: cut.Masks, number: int, load_teacher: Loader, load: Loader, **options: Any) -> Trained:
        """The model without what the masks remove, trained again; only measured where no training is asked for."""
        config = self.config
        model, about = self._refitted(load().model, masks)
        if not config.recovery_tokens:
            row = {"step": [0], "tokens": [0], "split": ["held out"], "loss": [self._loss(model, "after the cut")]}
            return model, pd.DataFrame(row), about
        if config.distillation:
            weights = Distillation(temperature=config.temperature, hard_weight=1 - config.distillation)
            options |= {"teacher": load_teacher().model, "distillation": weights}
        training = config.training(config.recovery_tokens // config.rounds, seed=1 + number)
        return model, recover(model, self._train, training, keep_best=True, **options), about

    def _change(self, name: str, train: Callable[..., Trained]) -> float:
        """A step that makes another model of the one that there is; its loss on what is kept.

        The model is kept apart from its numbers, so that it can be removed when no later step needs it, and is trained
        again where one does and it is damaged.
        """
        load = self.load

        def work(folder: Path) -> dict[str, Any]:
            checkpoint = self.store.checkpoint("training").path.parent
            options = {"held_out": self._select, "checkpoint": checkpoint, "progress": self.progress}
            try:
                model, curve, about = train(load, **options)
            except DivergedError as error:
                raise DivergedError(f"{name}: {error}") from error
            export_vanilla(LanguageModel(model, self.tokenizer, self.config.model), {}, folder / _MODEL)
            return {"curve": curve.to_dict("records"), "about": about}

        kept = partial(self.store.folder_of, f"{name}-model", work)
        found = self._step(name, lambda: {part: kept()[1][part] for part in ("curve", "about")})
        curve, self.about = found["curve"], found["about"]
        self.load = lambda: load_causal_lm(kept()[0] / _MODEL, device=self.config.device)
        rows = [{**row, "tokens": self.n_seen + row["tokens"], "stage": name} for row in curve]
        self.n_seen = rows[-1]["tokens"]
        self.curves += rows
        held_out = [row["loss"] for row in rows if row["split"] == "held out"]
        return held_out[-1] if name == "group-lasso" else min(held_out)

    def _step(self, name: str, compute: Callable[[], T]) -> T:
        self.bar.set_description(name)
        store, is_new = self.stores.get(name, self.store), []

        def computed() -> T:
            is_new.append(True)
            return compute()

        earlier = store.seconds
        found = store.keep(name, computed)
        self.seconds[name] = store.seconds - earlier
        self.reused += [] if is_new else [name]
        self.bar.update()
        return found

    def _blocks(self, name: str, split: str, at_most: int) -> Dataset:
        options = {"block_length": self.config.block_length, "progress": self.progress}
        return self.texts[name].blocks(self.tokenizer, split, at_most=at_most, **options)

    @cached_property
    def _train(self) -> Dataset:
        return self._blocks("keep", "train", self.config.n_trained)

    @cached_property
    def _select(self) -> Dataset:
        """What choices are made on."""
        return self._blocks("keep", "select", self.config.held_out_tokens)

    @cached_property
    def _held_out(self) -> dict[str, Dataset]:
        return {name: self._blocks(name, "held-out", self.config.held_out_tokens) for name in self.texts}
