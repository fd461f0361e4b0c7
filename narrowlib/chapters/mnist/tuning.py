"""Claim M1 with equal chances: the rivals of pruning tuned over as many settings as the group lasso."""

from itertools import product
from typing import Any

import pandas as pd

from narrowlib.chapters.mnist.config import MethodConfig, MnistConfig
from narrowlib.chapters.mnist.methods import distil, from_scratch
from narrowlib.chapters.mnist.outcomes import best_settings
from narrowlib.data.digits import Digits
from narrowlib.stacks.networks import MLPStack

SGD_RATES = 10  # how much larger a step size of SGD is than the one of Adam in its place
N_TRIES = 2  # repeats by which a setting is chosen
OTHER_SEEDS = 100_000  # between them and the repeats in which it is measured
SCRATCH_STEPS = [
    {"batch_size": size, "weight_decay": decay} for size, decay in product((16, 64, 128), (0.0, 1e-4))
]  # the paper's is the third
DISTILLED = [
    {"temperature": temperature, "hard_weight": weight} for temperature, weight in product((2.0, 8.0, 20.0), (0.1, 0.5))
]  # the paper's is the fifth


def tuned_rivals(config: MnistConfig, teacher: MLPStack, even: Digits, *, progress: bool = True) -> pd.DataFrame:
    """Networks from scratch and distilled, each size at the best of all step sizes with six other settings.

    From scratch those are the batch size and the weight decay, in distillation the temperature and the weight of the
    labels.  Settings are chosen in `N_TRIES` repeats and measured in others; no run sees more samples than one of a
    pruned network.

    Returns
    -------
    DataFrame
        One row per run of a chosen setting: ``method``, ``neurons``, ``learning_rate``, ``setting`` (the other
        settings, in words), ``n_tried`` (settings), ``repeat``, ``points``, ``accuracy``, ``reached``.
    """
    frames = []
    for name, variants in (("scratch", SCRATCH_STEPS), ("distillation", DISTILLED)):
        rates = [rate * (SGD_RATES if name == "distillation" else 1) for rate in config.tuned_rates]
        tries = {"learning_rates": tuple(rates), "n_repeats": N_TRIES}
        tried = [
            _runs(config, name, teacher, even, variant, tries, progress).assign(strength=number)
            for number, variant in enumerate(variants)
        ]
        best = best_settings(pd.concat(tried, ignore_index=True))
        elsewhere = config.replace(first_seed=config.first_seed + OTHER_SEEDS)
        for (number, rate), rows in best.groupby(["strength", "learning_rate"]):
            chosen = {"learning_rates": (rate,), "neurons": tuple(rows["neurons"])}
            variant = variants[int(number)]
            runs = _runs(elsewhere, name, teacher, even, variant, chosen, progress)
            setting = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in variant.items())
            frames.append(runs.assign(setting=setting, n_tried=len(rates) * len(variants)))
    return pd.concat(frames, ignore_index=True).drop(columns=["strength", "network"])


def _runs(
    config: MnistConfig,
    name: str,
    teacher: MLPStack,
    even: Digits,
    variant: dict[str, Any],
    changes: dict[str, Any],
    progress: bool,
) -> pd.DataFrame:
    """The runs of a rival with one of its variants."""
    pruned: MethodConfig = config.attribution
    method = getattr(config, name)
    as_pruned = {"n_repeats": pruned.n_repeats, "max_points": pruned.max_points}
    if name == "scratch":
        method = method.replace(**as_pruned | changes, step=method.step.replace(**variant))
        return from_scratch(config.replace(scratch=method), even, progress=progress).runs
    method = method.replace(**as_pruned | changes)
    return distil(config.replace(distillation=method, **variant), teacher, even, progress=progress).runs
