"""The small library under the executable companion to "On the creation of narrow AI".

A map of the house, from the ground up; a room imports from the rooms below it only.

===========================  ===========================================================================================
`cmsp`                       the task: compositional multitask sparse parity
`units`                      what can be removed from a model: groups of slices of its parameters
`scores`                     how much a unit matters: ablation, attribution, weight norm, random
`pruning`                    masks from scores, units zeroed and units cut out
`penalties`                  the group lasso: penalty, gradient, proximal step
`texts`                      text files that people write, and YAML as they mean it
`settings`                   base of every configuration: types, ranges and meanings once
`claims`                     the paper's claims, their rules and verdicts
`answering`                  answers to exercises: what counts as right, at the precision asked for
`devices`                    the device that a run is on
`store`                      files, records, results kept between runs, downloads, provenance
`data`                       MNIST digits, documents, blocks of tokens, facts
`stacks`                     many small networks trained side by side
`llm`                        language models built like Llama: scores, ablation, training, exact export
`recipe`                     the command ``narrow``: from documents to a smaller checkpoint
`chapters`                   the experiments and figures of the book, a package for each chapter or pair of chapters
===========================  ===========================================================================================

The names below can be imported from here; they are loaded when they are first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "cmsp": ("CMSP", "broad_tasks", "sample_batch"),
    "units": ("Slice", "UnitGroup"),
    "scores": ("ablation_scores", "attribution_scores", "agreement"),
    "pruning": ("keep_masks", "apply_masks", "ablated", "slice_state"),
    "penalties": ("group_lasso", "prox_group_lasso"),
    "stacks.networks": ("MLPStack",),
    "stacks.training": ("TrainingConfig", "train_stack"),
    "data.tokens": ("skill_blocks",),
    "llm.models": ("load_causal_lm",),
    "llm.units": ("llama_units",),
    "llm.scores": ("score_units",),
    "llm.export": ("sliced", "export_vanilla"),
    "llm.training": ("recover", "train_group_lasso"),
    "recipe.narrowing": ("narrow",),
}
_HOMES = {name: f"{__name__}.{room}" for room, names in _ROOMS.items() for name in names}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
