"""The experiments on language models, on random models of a few thousand parameters."""

import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_llamas import TINY, random_skill, tiny_llama, tiny_tokenizer
from tiny_llamas import random_blocks as blocks

from narrowlib.chapters.language import config as language_config
from narrowlib.chapters.language import lasso, llm_pruning, llm_scores, recovery
from narrowlib.chapters.language.config import BEFORE, RANKED_BY, LLMPruningConfig
from narrowlib.chapters.language.lasso import (
    Trained,
    crossing_step,
    flat_sparsities,
    flat_sparsity,
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
from narrowlib.chapters.language.scoring import (
    COMPARED,
    ablation_table,
    agreements,
    proxy_measures,
    sparsity_curves,
    unit_scores,
)
from narrowlib.llm.costs import flops_per_token
from narrowlib.llm.losses import block_losses
from narrowlib.llm.models import LanguageModel
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.llm.units import llama_units, n_parameters_of
from narrowlib.penalties import group_norms
from narrowlib.pruning import ablated, keep_masks
from narrowlib.store.kept import Kept

STEPS = LLMTrainingConfig(
    n_steps=4, batch_size=2, micro_batch_size=2, n_warmup=0, learning_rate=1e-2, precision="float32", record_every=2
)
TEXT = {"block_length": 8, "n_score_blocks": 3, "n_held_out_blocks": 4}
CONFIG = LLMPruningConfig(**TEXT, recovery=STEPS, lasso=STEPS)


@pytest.fixture(autouse=True)
def no_packages(monkeypatch):
    monkeypatch.setattr(language_config, "skill_blocks", random_skill)


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.fixture
def loaded(model, monkeypatch):
    for module in (llm_scores, llm_pruning):
        kept = LanguageModel(model, tiny_tokenizer(), "tiny")
        monkeypatch.setattr(module, "load_causal_lm", lambda name, kept=kept, **_: kept)


@pytest.fixture(scope="module")
def scores(model):
    return unit_scores(model, blocks(3), variants=("signed", "absolute per token", "random"), progress=False)


def test_scores_come_by_kind_variant_and_group(model, scores):
    assert list(scores) == ["neurons", "residual"]
    assert list(scores["neurons"]["signed"]) == [f"layers.{i}.neurons" for i in range(3)]
    assert scores["residual"]["signed"]["residual"].shape == (32,)
    alone = unit_scores(model, blocks(3), kinds=("residual",), variants=("signed",), progress=False)
    torch.testing.assert_close(alone["residual"]["signed"], scores["residual"]["signed"])


def test_pruning_curves_are_losses_of_the_masked_model(model, scores):
    held_out = {"python": blocks(4, 7), "english": blocks(4, 8)}
    curves = sparsity_curves(model, "neurons", scores["neurons"], [0.0, 0.25], held_out, progress=False)
    assert len(curves) == 3 * 2 * 2
    groups = llama_units(model, "neurons")
    with ablated(model, groups, keep_masks(scores["neurons"]["signed"], 0.25)):
        expected = block_losses(model, held_out["english"], progress=False).mean().item()
    row = curves.query("variant == 'signed' and sparsity == 0.25 and skill == 'english'").iloc[0]
    assert row["loss"] == pytest.approx(expected, rel=1e-5)
    n_gone = 3 * 32 * round(0.25 * 3 * 24)  # three weights of 32 per neuron
    assert row["n_parameters"] == n_parameters_of(model) - n_gone
    whole = curves[curves["sparsity"] == 0].groupby("skill")["loss"].nunique()
    assert whole.eq(1).all()


def test_ablation_table_has_the_sampled_units_and_what_each_score_says_of_them(model, scores):
    table = ablation_table(model, "neurons", scores["neurons"], blocks(2), n_ablated=5, progress=False)
    assert len(table) == 5 and not table.duplicated(["group", "unit"]).any()
    first = table.iloc[0]
    assert first["signed"] == pytest.approx(scores["neurons"]["signed"][first["group"]][first["unit"]].item())
    masks = {group.name: torch.ones(24, dtype=torch.bool) for group in llama_units(model, "neurons")}
    masks[first["group"]][first["unit"]] = False
    base = block_losses(model, blocks(2), progress=False).mean()
    with ablated(model, llama_units(model, "neurons"), masks):
        change = (block_losses(model, blocks(2), progress=False).mean() - base).abs().item()
    assert first["ablation"] == pytest.approx(change, abs=1e-5)
    both = pd.concat([table, ablation_table(model, "residual", scores["residual"], blocks(2), progress=False)])
    agree = agreements(both)
    assert agree.groupby("kind")["n_units"].first().to_dict() == {"neurons": 5, "residual": 32}
    assert set(agree["variant"]) == {"signed", "absolute per token", "random"}
    of = agree[agree["variant"] == "random"].set_index("kind")
    measured = proxy_measures(both, variant="random")
    assert measured["neurons"].value == pytest.approx(of.at["neurons", "pearson"], abs=1e-5)
    difference = of.at["neurons", "pearson_log"] - of.at["residual", "pearson_log"]
    assert measured["exceed_log"].value == pytest.approx(difference, abs=1e-5)


def test_recovery_starts_at_the_loss_of_the_pruned_model_and_lowers_it(model, scores):
    curves = recovery_curves(
        model, tiny_tokenizer(), scores, ("signed", "random"), [(0.5, 0.25)], CONFIG, progress=False
    )
    small = narrowed(model, scores, "signed", 0.5, 0.25)
    assert (small.config.hidden_size, small.config.intermediate_size) == (24, 12)
    held_out = curves.query("variant == 'signed' and split == 'held out'")
    start = block_losses(small, blocks(4, seed=6), progress=False).mean().item()
    assert held_out["step"].tolist() == [0, 2, 4] and held_out["loss"].iloc[0] == pytest.approx(start, rel=1e-4)
    assert held_out["loss"].iloc[-1] < held_out["loss"].iloc[0]
    assert curves["n_parameters"].eq(n_parameters_of(small)).all()
    for place in (0, -1):
        row = held_out.iloc[place]
        assert sum(row["block_losses"]) / len(row["block_losses"]) == pytest.approx(row["loss"], rel=1e-4)
    assert narrowed(model, scores, "signed", 0.5).config.hidden_size == 32


def test_scores_and_ablation_of_a_record_see_the_same_blocks(loaded, model):
    config = llm_scores.Config(**TEXT, n_ablated=5, n_ablation_blocks=2, sparsities="0 0.5", device="cpu")
    table = llm_scores.tables(config, progress=False)["ablation"]
    blocks = config.score_blocks(None).select(range(2))
    same = unit_scores(model, blocks, variants=("signed",), progress=False)["neurons"]["signed"]
    units = table[table["kind"] == "neurons"]
    expected = [float(same[row.group][row.unit]) for row in units.itertuples()]
    assert units["signed"].tolist() == pytest.approx(expected, rel=1e-4)
    assert len(table.columns.intersection(COMPARED)) == len(COMPARED) == 9


@pytest.mark.parametrize("family", TINY)
def test_operations_of_every_family(family):
    """Twice the matrices, and attention's two products: all heads, over the whole length."""
    other = tiny_llama(family)
    matrices = sum(module.weight.numel() for module in other.modules() if isinstance(module, torch.nn.Linear))
    width = other.model.layers[0].self_attn.q_proj.out_features
    assert flops_per_token(other, 10) == 2 * matrices + 4 * 3 * width * 10


def test_recovery_measures_by_hand():
    rows = [(RANKED_BY, 0, 3.0), ("random", 0, 7.0), (RANKED_BY, 9, 2.0), ("random", 9, 2.5)]
    frame = pd.DataFrame(rows, columns=["variant", "step", "loss"])
    frame = frame.assign(split="held out", neuron_sparsity=0.5, residual_sparsity=0.2)
    measures = recovery_measures(frame)
    assert {name: each.value for name, each in measures.items()} == {"ahead_at_once": 4.0, "gap_left": 0.125}


def test_completions_are_the_likeliest_tokens(model):
    tokenizer = tiny_tokenizer()
    table = completions({"whole": model}, tokenizer, ["w5 w7"], n_tokens=2)
    ids = tokenizer("w5 w7", return_tensors="pt").input_ids
    with torch.no_grad():
        likeliest = model(ids).logits[0, -1].argmax()
    assert table.loc[0, "whole"].split()[:1] == tokenizer.decode([likeliest], skip_special_tokens=True).split()


def test_batches_are_shared_out_evenly():
    config = llm_pruning.Config(recovery_batch_size=12, recovery_steps=100).pruning
    assert (config.recovery.micro_batch_size, config.recovery.record_every, config.lasso.record_every) == (6, 5, 50)
    with pytest.raises(ValueError, match="lasso_strengths holds only 0"):
        llm_pruning.Config(lasso_strengths="0")


def test_tables_are_made_once_and_the_page_finds_its_trainings(loaded, model, tmp_path, monkeypatch):
    steps = {"recovery_steps": 2, "lasso_steps": 2, "recovery_batch_size": 2, "n_warmup": 0, "compiled": False}
    what = {"pairs": "0.5/0.25", "lasso_strengths": "0 0.01", "sparsities": "0 0.5", "device": "cpu"}
    config = llm_pruning.Config(**TEXT, **steps, **what, checkpoints=str(tmp_path))
    tables = llm_pruning.tables(config, progress=False)
    assert list(tables) == ["recovery", "lasso", "lasso-recovery"]
    for name in ("lasso", "lasso-recovery"):
        strengths = tables[name]["strength"].unique()
        assert math.isnan(strengths[0]) and strengths[1:].tolist() == [1e-2, 0.0]
    monkeypatch.setattr(recovery, "recover", None)  # nothing is trained a second time
    monkeypatch.setattr(lasso, "train_group_lasso", None)
    store, where = Kept(config.checkpoints, config.trainings, device="cpu"), {"progress": False}
    scores = unit_scores(model, config.score_blocks(tiny_tokenizer()), variants=llm_pruning.COMPARED, **where)
    models = [Trained(BEFORE, model, scores)]  # as the page does it with the settings of the record
    for strength in config.lasso_strengths:
        models.append(regularised(model, tiny_tokenizer(), strength, config.pruning, store=store, **where))
    strength_recovery(models, tiny_tokenizer(), config.lasso_sparsity, config.pruning, store=store, **where)
    what = (llm_pruning.COMPARED, config.pairs, config.pruning)
    recovery_curves(model, tiny_tokenizer(), scores, *what, store=store, **where)
    for name in ("recovery", "lasso", "lasso-recovery"):  # of these tables, models and curves are still kept
        (path,) = tmp_path.glob(f"*/{name}/*/kept.json")
        path.unlink()
    for name, table in llm_pruning.tables(config, progress=False).items():
        pd.testing.assert_frame_equal(table, tables[name])
    ((name, table),) = llm_pruning.tables(config, piece="lasso", progress=False).items()
    pd.testing.assert_frame_equal(table, tables[name])
    with pytest.raises(ValueError, match="piece is 'curves'; it must be one of recovery, lasso, lasso-recovery"):
        llm_pruning.tables(config, piece="curves")


def test_leads_of_scores_over_random_at_once_and_after_recovery():
    ends = {"random": ([5.0, 6.0, 7.0, 8.0], [2.0, 2.2, 2.4, 2.6]), "good": ([3.0] * 4, [1.9, 2.1, 2.3, 2.5])}
    ends["weak"] = ([4.0, 5.0, 6.5, 7.5], [2.1, 2.1, 2.5, 2.5])
    rows = [
        {"variant": variant, "step": step, "split": "held out", "loss": np.mean(losses), "block_losses": losses}
        for variant, both in ends.items()
        for step, losses in zip((0, 9), both, strict=True)
    ]
    recovery = pd.DataFrame(rows).assign(neuron_sparsity=0.5, residual_sparsity=0.2)
    leads = score_leads(recovery)
    assert leads.loc[(0.5, 0.2, "good"), ["at once", "after"]].tolist() == pytest.approx([3.5, 0.1])
    assert leads.loc[(0.5, 0.2, "weak"), "after, low"] < 0 < leads.loc[(0.5, 0.2, "weak"), "at once, low"]
    assert leads_said(leads) == [
        "good: ahead of random pruning at 1 of 1 cuts right after pruning, and at 1 after recovery; the largest lead "
        "is then 0.10 nats per token.",
        "weak: ahead of random pruning at 1 of 1 cuts right after pruning, and at 0 after recovery.",
    ]
    means_alone = leads_said(score_leads(recovery.drop(columns="block_losses")))
    assert len(means_alone) == 2 and all("no intervals" in each for each in means_alone)


LONGER = CONFIG.replace(lasso=STEPS.replace(n_steps=6, learning_rate=2e-2))


def norms_of(model):
    by_group = group_norms(llama_units(model, "neurons"), dict(model.named_parameters()))
    return torch.cat(list(by_group.values())).detach()


def test_group_lasso_shrinks_neurons_of_a_copy(model):
    before = norms_of(model)
    weak, strong = (regularised(model, tiny_tokenizer(), each, LONGER, progress=False) for each in (0.0, 1.0))
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


def test_what_is_measured_at_a_strength_is_kept_by_itself(model, tmp_path, monkeypatch):
    """Other strengths join it, and its trained copy may be gone."""
    asked, store = ((0.0, 0.5), 0.5, LONGER), Kept(tmp_path, "settings")
    first = strength_tables(model, tiny_tokenizer(), (BEFORE, 0.0), *asked, store=store, progress=False)
    for copies in tmp_path.rglob("group-lasso*"):
        shutil.rmtree(copies)
    trained, train = [], lasso.train_group_lasso
    monkeypatch.setattr(
        lasso, "train_group_lasso", lambda *a, **how: trained.append(how["strength"]) or train(*a, **how)
    )
    both = strength_tables(model, tiny_tokenizer(), (BEFORE, 0.1, 0.0), *asked, store=store, progress=False)
    assert trained == [0.1]
    for name, table in first.items():
        again = both[name][both[name]["strength"] != 0.1].reset_index(drop=True)
        pd.testing.assert_frame_equal(again.drop(columns="block_losses"), table.drop(columns="block_losses"))
    assert both["lasso-recovery"]["neuron_sparsity"].eq(0.5).all()


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
    assert values == pytest.approx({"flat": 0.75, "flat_gain": 0.5, "beyond_control": -0.25})  # 0 is not group lasso
    assert math.isnan(flatness_measures(curves[curves["strength"] != 0])["beyond_control"].value)
    ends = {BEFORE: (7.0, 2.0), 0.0: (1.0, 1.0), 0.1: (5.0, 2.5), 0.3: (6.0, 2.25)}
    rows = [(strength, step, loss) for strength, pair in ends.items() for step, loss in zip((0, 9), pair)]
    recovery = pd.DataFrame(rows, columns=["strength", "step", "loss"]).assign(split="held out")
    values = {name: each.value for name, each in overtaking_measures(recovery).items()}
    assert values == {"behind_at_start": 2.0, "ahead_at_end": 0.25} and crossing_step(recovery) == 9
    never = recovery.assign(loss=recovery["loss"] + 9 * recovery["strength"].isna())
    assert math.isnan(crossing_step(never))
    assert overtaking_said(recovery) == "From step 9 of 9 on, the base model lies below every group-lasso model."
    assert overtaking_said(never).endswith("still 8.75 nats behind the best group-lasso model.")
    said = "A penalty of strength 0.1 keeps the curve flat up to a share of 0.75, "
    assert flatness_said(curves) == said + "training without a penalty up to 1.00, the base model up to 0.25."
    assert flatness_said(curves[curves["strength"] != 0]) == said + "the base model up to 0.25."
