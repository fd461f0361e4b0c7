"""Run a chapter's experiment outside the notebook and record its tables for the book.

The parameters are those of the chapter, by default at the paper's scale; the profile ``cpu`` holds what two CPU cores
can do of it in hours.  Finished pieces are kept in the folder that ``checkpoints`` names, and the same command goes on
from them after a kill.  The tables, with what made them, go into ``results/paper/CHAPTER``; from there the chapter
draws what it shows of the recorded run.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from companion import chapters, differences, plainly
from companion.execute import chosen_parameters
from narrowlib.chapters.hierarchy import experiment as hierarchy
from narrowlib.chapters.mnist import experiment as mnist
from narrowlib.chapters.mnist.config import LassoConfig, MethodConfig, MnistConfig, TeacherConfig, numbers
from narrowlib.chapters.two_trees import group_lasso, nonlocality
from narrowlib.chapters.two_trees.lasso_training import GroupLassoConfig
from narrowlib.chapters.two_trees.networks import NonlocalityConfig, spaced_widths
from narrowlib.devices import pick_device
from narrowlib.llm.compilation import check_compiler
from narrowlib.stacks.training import StepConfig
from narrowlib.store import checkpoints, records, unfinished
from narrowlib.store.downloads import UnavailableError

WHERE = ("device", "checkpoints")  # parameters that say where a run is made, not what
NOT_THE_PAPERS = ("base_steps",)  # of what the paper does not have
N_RECORDS = 20  # of a training run of a language model
WIDTHS = ("narrow_width", "wide_width", "n_widths")  # of the chapter nonlocality
Tables = Callable[..., dict[str, Any]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapter", help=f"one of {', '.join(RECORDED)}")
    parser.add_argument(
        "--profile",
        default="paper",
        help="paper, cpu for what two cores can do of it in hours, or quick or smoke to try it",
    )
    parser.add_argument("--set", default="", dest="overrides", help="parameters: 'n_seeds=4 n_steps=500'")
    parser.add_argument(
        "--piece", default="", help="make one piece of the work only, which is kept with the checkpoints"
    )
    parser.add_argument(
        "--save-every", type=float, default=checkpoints.SECONDS_BETWEEN, help="seconds between checkpoints"
    )
    parser.add_argument("--folder", type=Path, default=records.PAPER_RESULTS, help="where the records go")
    return parser.parse_args()


def configured(kind: type, values: Mapping[str, Any], **more: Any) -> Any:
    """A configuration from those parameters of the chapter that it has."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names}, **more)


def where(values: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that say where a run is made."""
    return {name: values[name] for name in WHERE}


def hierarchy_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    return hierarchy.paper_tables(configured(hierarchy.HierarchyConfig, values), **where(values))


def widths_of(values: Mapping[str, Any]) -> list[int]:
    """The widths of the chapter nonlocality."""
    return spaced_widths(*(values[name] for name in WIDTHS))


def nonlocality_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    return nonlocality.paper_tables(configured(NonlocalityConfig, values), widths_of(values), **where(values))


def group_lasso_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    lasso = {name.removeprefix("lasso_"): value for name, value in values.items() if name.startswith("lasso_")}
    lasso["n_steps"] = lasso.pop("steps")
    config, width = configured(NonlocalityConfig, values), values["width"]
    widths = sorted({*widths_of(values), width})
    return group_lasso.paper_tables(
        config, configured(GroupLassoConfig, lasso), widths, shown_width=width, **where(values)
    )


def mnist_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    def method(sizes: str, name: str, steps: StepConfig) -> MethodConfig:
        return MethodConfig(numbers(values[sizes]), numbers(values[f"{name}_rates"], float), steps)

    adam, sgd = StepConfig(batch_size=16), StepConfig(batch_size=64, optimiser="sgd", momentum=0.9)
    config = configured(
        MnistConfig,
        values,
        teacher=TeacherConfig(values["teacher_width"], values["teacher_epochs"]),
        scratch=method("neurons", "scratch", adam),
        distillation=method("neurons", "distillation", sgd),
        attribution=method("pruned_neurons", "attribution", adam),
        lasso=LassoConfig(
            method("lasso_neurons", "lasso", StepConfig(batch_size=16, max_norm=1.0)),
            numbers(values["lasso_strengths"], float),
        ),
    )
    return mnist.paper_tables(config, **where(values))


def llm_pruning_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    from narrowlib.chapters.language import tables as llm_tables  # needs the extra llm
    from narrowlib.chapters.language.pruning import LLMPruningConfig
    from narrowlib.llm.settings import LLMTrainingConfig

    recovery = LLMTrainingConfig(
        n_steps=values["recovery_steps"],
        batch_size=values["recovery_batch_size"],
        learning_rate=values["learning_rate"],
        n_warmup=values["n_warmup"],
        precision=values["precision"],
        compiled=values["compiled"],
        record_every=max(1, values["recovery_steps"] // N_RECORDS),
    )
    lasso = dataclasses.replace(recovery, n_steps=values["lasso_steps"], learning_rate=values["lasso_rate"])
    config = configured(LLMPruningConfig, values, recovery=recovery, lasso=lasso)
    strengths = numbers(values["lasso_strengths"], float)
    asked = {"strengths": strengths, "lasso_sparsity": values["lasso_sparsity"]}
    return llm_tables.paper_tables(config, **asked, **where(values))


def frontier_config(values: Mapping[str, Any]) -> Any:
    """The configuration of the chapter llm-frontier."""
    from narrowlib.chapters.frontier.config import FrontierConfig, parse_pairs  # needs the extra llm

    sizes = {"student_heads": tuple(numbers(values["students"])), "pairs": parse_pairs(values["sparsities"])}
    return configured(FrontierConfig, values, **sizes)


def llm_frontier_tables(values: Mapping[str, Any], piece: str = "") -> dict[str, Any]:
    from narrowlib.chapters.frontier import experiment as llm_frontier

    return llm_frontier.paper_tables(frontier_config(values), piece=piece, **where(values))


def unlearning_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    from narrowlib.chapters.unlearning import experiment as unlearning  # needs the extra llm
    from narrowlib.chapters.unlearning.config import unlearning_config

    what = {name: value for name, value in values.items() if name not in (*WHERE, "benchmarks")}
    return unlearning.unlearning_tables(unlearning_config(**what), **where(values))


RECORDED: dict[str, Tables] = {
    "hierarchy": hierarchy_tables,
    "nonlocality": nonlocality_tables,
    "group-lasso": group_lasso_tables,
    "mnist": mnist_tables,
    "llm-pruning": llm_pruning_tables,
    "llm-frontier": llm_frontier_tables,
    "unlearning": unlearning_tables,
}
IN_PIECES = ("llm-frontier",)


def all_parameters(chapter: str, profile: str, overrides: str) -> dict[str, Any]:
    """Every parameter of a chapter with its value, the defaults included.

    The record of the group lasso has the widths of the chapter nonlocality too, whose networks it goes on from.
    """
    defaults = {name: parameter.default for name, parameter in chapters.parameters(chapter).items()}
    values = {**defaults, **chosen_parameters(chapter, profile, overrides)}
    if chapter == "group-lasso":
        before = all_parameters("nonlocality", profile, "")
        values |= {name: before[name] for name in WIDTHS}
    return values


def departures(chapter: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run departs from the paper: per parameter its own value and the paper's."""
    paper = all_parameters(chapter, "paper", "") | differences.of_parameters(chapter)
    return {
        name: {"here": value, "paper": paper[name]}
        for name, value in values.items()
        if name not in (*WHERE, *NOT_THE_PAPERS) and value != paper[name]
    }


def main() -> int:
    asked = arguments()
    try:
        if asked.chapter not in RECORDED:
            raise ValueError(f"CHAPTER is {asked.chapter!r}; nothing is recorded but {', '.join(RECORDED)}")
        if asked.piece and asked.chapter not in IN_PIECES:
            raise ValueError(f"piece is {asked.piece!r}; only {', '.join(IN_PIECES)} can be made in pieces")
        values = all_parameters(asked.chapter, asked.profile, asked.overrides)
        if values.get("compiled"):
            check_compiler(pick_device(values["device"]))
        checkpoints.SECONDS_BETWEEN = unfinished.SECONDS_BETWEEN = asked.save_every
        started = time.monotonic()
        only = {"piece": asked.piece} if asked.piece else {}
        tables = RECORDED[asked.chapter](values, **only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    made = {
        **records.provenance(values["device"]),
        "seconds": round(time.monotonic() - started),  # of this call: pieces that lay ready cost nothing
        "departures": departures(asked.chapter, values),
    }
    if not records.is_first_process():
        return 0
    config = {name: value for name, value in values.items() if name not in WHERE}
    for name, frame in tables.items():
        path = records.save(records.Record(name, frame, config, made), asked.folder / asked.chapter)
        print(os.path.relpath(path))
    return 0


if __name__ == "__main__":
    sys.exit(plainly.run(main))
