"""The rules of the claims on drawn data: without an effect hardly any record passes, with a strong one all do."""

import numpy as np
import pandas as pd
import pytest

from narrowlib import intervals
from narrowlib.chapters.frontier.outcomes import frontier_measures
from narrowlib.chapters.hierarchy.outcomes import breadth_outcome, depth_outcome, order_outcome
from narrowlib.chapters.language.config import RANKED_BY
from narrowlib.chapters.language.lasso import flatness_measures, overtaking_measures
from narrowlib.chapters.language.recovery import recovery_measures
from narrowlib.chapters.language.scoring import proxy_measures
from narrowlib.chapters.mnist.decisions import front_outcome, shrinking_outcome
from narrowlib.chapters.two_trees.group_lasso import lasso_outcome
from narrowlib.chapters.two_trees.nonlocality import pruning_outcome, sharing_outcome
from narrowlib.chapters.unlearning import measures
from narrowlib.claims import assess, load_claims

CLAIMS = load_claims()
N_DRAWS, N_WITH_EFFECT, MOST = 100, 10, 0.05
WANTED, OTHER = "{0,1,2}", "{3,4,5}"


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(intervals, "_RESAMPLES", 400)
    monkeypatch.setattr(measures, "_RESAMPLES", 50)


def hierarchy_runs(times, setting, data="broad", until=100):
    """Curves of runs that learn each task at a time, by task."""
    rows = []
    for seed, row in enumerate(times):
        for task, time in row.items():
            kind = "composite" if task == "all" else "atomic"
            for step in (*sorted(set(row.values())), until):
                rows.append((setting, data, seed, task, kind, step, 0.0 if step >= time else 1.0))
    columns = ["setting", "data", "seed", "task", "kind", "step", "loss"]
    frame = pd.DataFrame(rows, columns=columns).query("step <= @until")
    return frame.assign(n_parameters=1, n_samples=frame["step"])


def h1(rng, effect):
    names = ("a", "b", "c", "d", "all")
    times = [dict(zip(names, rng.uniform(1, 30, 5), strict=True)) for _ in range(10)]
    times = [{**row, "all": row["all"] + 40 * effect} for row in times]
    return order_outcome(hierarchy_runs(times, "broad, depth 3"))


def h2(rng, effect):
    chances = {"broad, depth 3": 0.95, "narrow, depth 3": 0.0} if effect else dict.fromkeys(SETTINGS_OF_H2, 0.3)
    drawn = {
        name: [{"all": 10 if rng.random() < chance else 999} for _ in range(20)] for name, chance in chances.items()
    }
    return breadth_outcome(pd.concat([hierarchy_runs(times, name) for name, times in drawn.items()]))


SETTINGS_OF_H2 = ("broad, depth 3", "narrow, depth 3")


def h3(rng, effect):
    scales = {"broad, depth 3": 15 if effect else 80, "broad, depth 2": 80, "broad, depth 2, wide": 80}
    scales["broad, depth 2"] = scales["broad, depth 2, wide"] = 300 if effect else 80
    frames = [
        hierarchy_runs([{"all": rng.exponential(scale)} for _ in range(10)], name) for name, scale in scales.items()
    ]
    return depth_outcome(pd.concat(frames))


def n1(rng, effect):
    rows = []
    for width in (30, 40, 50):
        for seed in range(5):
            matters = rng.random((2, width)) < 0.5
            matters[1] = np.where(rng.random(width) < 0.8 * effect, matters[0], matters[1])
            rows += [
                (width, seed, "hidden 1", neuron, tree, float(matters[number, neuron]))
                for number, tree in enumerate((WANTED, OTHER))
                for neuron in range(width)
            ]
    return sharing_outcome(pd.DataFrame(rows, columns=["width", "seed", "layer", "neuron", "tree", "score"]))


def pruned_networks(limits, other, width_of=lambda number: 64):
    """Curves of networks that keep the wanted composite up to a limit, before and after recovery, by cut the other."""
    rows = []
    for number, limit in enumerate(limits):
        for cut in np.round(np.arange(0, 1, 0.1), 1):
            for task, accuracy in ((WANTED, 1.0 if cut <= limit else 0.5), (OTHER, other(number) if cut else 1.0)):
                rows += [(width_of(number), number, cut, task, stage, accuracy) for stage in ("pruned", "recovered")]
    return pd.DataFrame(rows, columns=["width", "seed", "sparsity", "task", "stage", "accuracy"])


def n2(rng, effect):
    """Without an effect of width; the other composite comes back in either case."""
    widths = np.repeat([64, 128, 1024], 5)
    middle = np.array([CLAIMS["N2"]["limits"][width] for width in widths]) if effect else np.full(15, 0.72)
    limits = np.clip(middle + rng.normal(0, 0.05, 15), 0, 1) + 0.05
    curves = pruned_networks(limits, lambda _: 0.99, lambda number: widths[number])
    return pruning_outcome(curves, CLAIMS["N2"]["limits"])


def lasso(rng, gain, other):
    before, noise = rng.uniform(0.75, 0.9, 6) - gain, rng.normal(0, 0.02, 6)
    after = rng.uniform(0.8, 0.9, 6) + 0.1 * (gain > 0)
    frames = [pruned_networks(before, lambda _: 0.9), pruned_networks(after, lambda number: other + noise[number])]
    return lasso_outcome(pd.concat([f.assign(state=s) for f, s in zip(frames, ("before", "after group lasso"))]))


def g1(rng, effect):
    return lasso(rng, 0.6 * effect, 0.5)["G1"]


def g2(rng, effect):
    """Without an effect: at the bound of what counts as chance."""
    curves = pruned_networks([0.9] * 6, lambda number: 0.5)
    after = curves.assign(state="after group lasso")
    shift = pd.Series(rng.normal(0.0 if effect else 0.05, 0.02, 6))
    is_other = (after["task"] == OTHER) & (after["sparsity"] > 0)
    after.loc[is_other, "accuracy"] += after["seed"].map(shift)
    after = after[(after["task"] == WANTED) | (after["sparsity"] > 0)]
    return lasso_outcome(pd.concat([curves.assign(state="before"), after]))["G2"]


def mnist(rng, factor, chance=1.0):
    """Runs of four methods and three sizes; group lasso is tuned over six settings, the rivals over one."""
    rows = []
    for method, n_settings in (("from scratch", 1), ("distillation", 1), ("attribution", 2), ("group lasso", 6)):
        less = factor if n_settings > 1 else 1.0
        for neurons in (30, 50, 70):
            for setting in range(n_settings):
                for repeat in range(10):
                    points = 1e4 * less * np.exp(rng.normal(0, 0.3))
                    rows.append((method, neurons, 1.0, setting, repeat, points, rng.random() < chance))
    return pd.DataFrame(rows, columns=["method", "neurons", "strength", "learning_rate", "repeat", "points", "reached"])


def m1(rng, effect):
    """Without an effect: pruning is ahead as far as tuning brings its rivals."""
    factor = 0.15 if effect else 0.5
    tuned = mnist(rng, 1.0).query("method in ('from scratch', 'distillation')").eval("points = points / 2")
    return front_outcome(mnist(rng, factor), tuned)


def m2(rng, effect):
    return shrinking_outcome(mnist(rng, 1.0, 1.0 if effect else 0.4), 2400)


def l1(rng, effect):
    """Without an effect: training flattens the curve, with a penalty or without."""
    blocks, rows = rng.normal(3, 0.5, 64), []
    for strength in (np.nan, 0.0, 1e-4, 3e-4, 1e-3):
        rise = 0.05 if effect and strength > 0 else 1.0 if effect or np.isnan(strength) else 0.6
        for cut in (0.0, 0.2, 0.4, 0.6, 0.8):
            losses = blocks + 0.25 * cut * rise + rng.normal(0, 0.1, 64)
            rows.append((strength, cut, losses.mean(), losses))
    return flatness_measures(pd.DataFrame(rows, columns=["strength", "sparsity", "loss", "block_losses"]))


def l2(rng, effect):
    blocks, rows = rng.normal(3, 0.5, 64), []
    for strength in (np.nan, 1e-4, 3e-4, 1e-3):
        for step, change in ((0, 1.0), (9, -1.0)):
            losses = blocks + effect * change * np.isnan(strength) + rng.normal(0, 0.2, 64)
            rows.append((strength, step, losses.mean(), losses))
    frame = pd.DataFrame(rows, columns=["strength", "step", "loss", "block_losses"])
    return overtaking_measures(frame.assign(split="held out"))


def l3(rng, effect):
    rows = []
    for seed in range(3):
        for method in ("pruned", "scratch", "distilled"):
            for size in (10, 20):
                there = 100 * np.exp(rng.normal(0, 0.2)) * (0.2 if effect and method == "pruned" else 1)
                for tokens, loss in ((1.0, 9.0), (there, 3.0), (400.0, 1.0)):
                    rows.append((seed, method, f"{method}-{size}", size, tokens, loss))
    records = pd.DataFrame(rows, columns=["seed", "method", "run", "n_parameters", "tokens", "loss"])
    return frontier_measures(records.assign(split="held out"), 3.0)


def l4(rng, effect):
    """Without an effect: the score is as good for residual dimensions."""
    frames = []
    for kind, n in (("neurons", 300), ("residual", 300)):
        ablation = rng.normal(size=n)
        follows = 0.0 if effect and kind == "residual" else 1.0
        signed = follows * ablation + rng.normal(0, 0.7, n)
        frames.append(pd.DataFrame({"kind": kind, "ablation": np.exp(ablation), "signed": np.exp(signed)}))
    return proxy_measures(pd.concat(frames))


def l5(rng, effect):
    blocks, rows = rng.normal(3, 0.5, 64), []
    for pair in ((0.5, 0.2), (0.8, 0.5)):
        for variant in (RANKED_BY, "random"):
            for step, lead in ((0, 3.0), (9, 0.05)):
                losses = blocks + effect * lead * (variant == "random") + rng.normal(0, 0.1, 64)
                rows.append((*pair, variant, step, losses.mean(), losses))
    columns = ["neuron_sparsity", "residual_sparsity", "variant", "step", "loss", "block_losses"]
    return recovery_measures(pd.DataFrame(rows, columns=columns).assign(split="held out"))


def u1(rng, effect):
    """Without an effect: what was unlearned does not come back.  At each sparsity another method is lowest."""
    methods, facts = ("random", "attribution", "lasso"), np.arange(150).astype(str)
    chances = {("base", 0.0): [(0.6, 0.6), (0.8, 0.8)]}  # of cloze and choice, before and after learning again
    for sparsity, lowest in zip((0.3, 0.6, 0.8), methods, strict=True):
        for method in methods:
            less = 0.15 * (method == lowest) * effect
            after = (0.35 - less, 0.5 - less) if effect else (0.06, 0.3)
            chances[method, sparsity] = [(0.06, 0.3), after]
    frames = []
    for (method, sparsity), ends in chances.items():
        for step, chance in enumerate(ends):
            cloze, choice = rng.random((2, 150)) < np.array(chance)[:, None]
            about = {"method": method, "sparsity": sparsity, "step": step, "tokens": step, "loss": 1.0}
            frames.append(pd.DataFrame({"prompt": facts, "cloze": cloze, "choice": choice, **about}))
    return measures.unlearning_measures(pd.concat(frames, ignore_index=True))


DRAWN = {name.upper(): draw for name, draw in list(globals().items()) if name.upper() in CLAIMS}


def test_every_claim_is_tried():
    assert set(DRAWN) == set(CLAIMS)


def passes(claim, draw, effect, seed):
    return bool(assess(claim, draw(np.random.default_rng(seed), effect), claims=CLAIMS)["holds"].all())


@pytest.mark.parametrize("claim", DRAWN)
def test_hardly_any_data_without_an_effect_passes(claim):
    passed = [passes(claim, DRAWN[claim], 0, seed) for seed in range(N_DRAWS)]
    assert np.mean(passed) <= MOST


@pytest.mark.parametrize("claim", DRAWN)
def test_data_with_a_strong_effect_passes(claim):
    passed = [passes(claim, DRAWN[claim], 1, seed) for seed in range(N_WITH_EFFECT)]
    assert np.mean(passed) >= 0.9
