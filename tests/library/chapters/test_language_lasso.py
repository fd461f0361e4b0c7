"""What a group lasso does to a language model: curves, recovery, and what is measured on them."""

import math

import pandas as pd
import pytest
import torch
from tiny_llamas import random_blocks as blocks
from tiny_llamas import random_skill, tiny_llama, tiny_tokenizer

from narrowlib.chapters.language import config as language_config
from narrowlib.chapters.language.config import BEFORE, RANKED_BY, LLMPruningConfig
from narrowlib.chapters.language.lasso import (
    Trained,
    crossing_step,
    flat_sparsities,
    flat_sparsity,
    flatness_measures,
    overtaking_measures,
    regularised,
    strength_curves,
    strength_recovery,
)
from narrowlib.chapters.language.scoring import unit_scores
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.llm.units import llama_units
from narrowlib.penalties import group_norms

STEPS = LLMTrainingConfig(
    n_steps=6, batch_size=2, micro_batch_size=2, n_warmup=0, learning_rate=2e-2, precision="float32", record_every=3
)
CONFIG = LLMPruningConfig(block_length=8, n_score_blocks=3, n_held_out_blocks=4, recovery=STEPS, lasso=STEPS)


@pytest.fixture(autouse=True)
def no_packages(monkeypatch):
    monkeypatch.setattr(language_config, "skill_blocks", random_skill)


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def norms_of(model):
    by_group = group_norms(llama_units(model, "neurons"), dict(model.named_parameters()))
    return torch.cat(list(by_group.values())).detach()


def test_group_lasso_shrinks_neurons_of_a_copy(model):
    before = norms_of(model)
    weak, strong = (regularised(model, tiny_tokenizer(), each, CONFIG, progress=False) for each in (0.0, 1.0))
    assert strong.strength == 1.0 and list(strong.scores) == ["neurons"]
    assert norms_of(strong.model).sum() < 0.98 * norms_of(weak.model).sum()
    assert torch.equal(norms_of(model), before)


def test_curves_and_recovery_are_those_of_every_model(model):
    scores = unit_scores(model, blocks(3), variants=(RANKED_BY,), progress=False)
    other = tiny_llama(seed=1)
    models = [Trained(BEFORE, model, scores), Trained(0.1, other, unit_scores(other, blocks(3), progress=False))]
    curves = strength_curves(models, (0.0, 0.5), {"python": blocks(4)}, progress=False)
    assert curves["strength"].isna().sum() == 2 and curves["variant"].unique().tolist() == [RANKED_BY]
    alone = strength_curves(models[1:], (0.0, 0.5), {"python": blocks(4)}, progress=False)
    assert curves[curves["strength"] == 0.1]["loss"].tolist() == alone["loss"].tolist()
    recovery = strength_recovery(models, tiny_tokenizer(), 0.5, CONFIG, progress=False)
    starts = recovery.query("split == 'held out' and step == 0")
    assert len(starts) == 2 and starts["loss"].nunique() == 2
    assert recovery["neuron_sparsity"].eq(0.5).all() and recovery["residual_sparsity"].eq(0).all()


@pytest.mark.parametrize(
    ("losses", "flat"),
    [
        ([2.0, 2.05, 2.1, 2.1], 0.6),  # never more than the rise
        ([2.0, 2.2, 2.0, 2.0], 0.1),  # half of the way to the first point; what comes after does not count
        ([2.0, 1.9, 2.2, 9.0], 0.2 + 0.2 * 2 / 3),
        ([2.0, 2.0, math.nan, 2.0], 0.2),
    ],
)
def test_flat_sparsity_by_hand(losses, flat):
    assert flat_sparsity([0.0, 0.2, 0.4, 0.6], losses) == pytest.approx(flat)


def test_measures_by_hand():
    losses = {BEFORE: [2.0, 2.2, 4.0], 0.0: [1.0, 1.0, 1.0], 0.1: [3.0, 3.0, 3.2], 0.3: [3.5, 3.7, 9.0]}
    rows = [(strength, s, loss) for strength, curve in losses.items() for s, loss in zip((0.0, 0.5, 1.0), curve)]
    curves = pd.DataFrame(rows, columns=["strength", "sparsity", "loss"])
    assert flat_sparsities(curves).tolist() == pytest.approx([1.0, 0.75, 0.25, 0.25])  # 0, 0.1, 0.3, before
    values = {name: each.value for name, each in flatness_measures(curves).items()}
    assert values == pytest.approx({"flat": 0.75, "flat_gain": 0.5})  # 0 is not group lasso
    ends = {BEFORE: (7.0, 2.0), 0.0: (1.0, 1.0), 0.1: (5.0, 2.5), 0.3: (6.0, 2.25)}
    rows = [(strength, step, loss) for strength, pair in ends.items() for step, loss in zip((0, 9), pair)]
    recovery = pd.DataFrame(rows, columns=["strength", "step", "loss"]).assign(split="held out")
    values = {name: each.value for name, each in overtaking_measures(recovery).items()}
    assert values == {"behind_at_start": 2.0, "ahead_at_end": 0.25} and crossing_step(recovery) == 9
    never = recovery.assign(loss=recovery["loss"] + 9 * recovery["strength"].isna())
    assert math.isnan(crossing_step(never))
