"""Run a chapter's experiment outside the notebook and record its tables for the book.

The parameters are those of the chapter, by default at the paper's scale; the profile ``overnight`` holds a reduced
scale that two CPU cores can run in a night.  Finished pieces are kept in the folder ``checkpoints``, and the same
command continues from them after a kill.  The tables and their provenance are written to ``results/paper/CHAPTER``,
from where the chapter reads the recorded run.
"""

import argparse
import errno
import inspect
import os
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from companion import chapters, differences, parameters
from companion.execute import threads_of
from companion.plainly import Refusal
from narrowlib import machine
from narrowlib.chapters.pages import WHERE, can_be_written
from narrowlib.devices import pick_device
from narrowlib.settings import Settings
from narrowlib.store import records, unfinished
from narrowlib.store.downloads import UnavailableError
from narrowlib.store.files import replacing, sha256_of
from narrowlib.store.kept import Kept
from narrowlib.store.provenance import provenance

NOT_THE_PAPERS = (  # of what the paper does not have, or does not tell
    "compiled",
    "evaluate_every",
    "n_held_out_blocks",
    "n_records",
    "relearning_batch_size",
    "relearning_steps",
)


def recorded() -> dict[str, ModuleType]:
    """The chapters whose experiment is recorded, with the module of each: those that have ``tables``."""
    modules = {name: parameters.page_module(name) for name in chapters.names()}
    return {name: module for name, module in modules.items() if hasattr(module, "tables")}


def all_parameters(chapter: str, profile: str, overrides: str) -> dict[str, Any]:
    """Every parameter of a chapter with its value, the values of its page included."""
    return {**parameters.quick(chapter), **parameters.chosen(chapter, profile, overrides)}


def configuration(module: ModuleType, values: Mapping[str, Any]) -> Settings:
    """The parameters, checked by the model of the page."""
    config = module.Config.from_parameters(values)
    if getattr(config, "compiled", False):
        from narrowlib.llm.compilation import check_compiler

        check_compiler(pick_device(config.device))
    return config


def departures(chapter: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run departs from the paper: per parameter its own value and the paper's."""
    paper = parameters.of_profile(chapter, parameters.PAPER)
    told = paper | differences.of_parameters(chapter)
    here = parameters.model(chapter)(**values).to_parameters()
    return {
        name: {"here": value, "paper": told[name]}
        for name, value in here.items()
        if name not in (*WHERE, *NOT_THE_PAPERS) and (value != paper[name] or told[name] != paper[name])
    }


def record(chapter: str, asked: argparse.Namespace) -> None:
    """Run the experiment of a chapter and write its tables."""
    known = recorded()
    if chapter not in known:
        raise Refusal(f"CHAPTER is {chapter!r}; it must be one of {', '.join(known)}")
    module = known[chapter]
    if asked.piece and "piece" not in inspect.signature(module.tables).parameters:
        raise Refusal(f"piece is {asked.piece!r}; the record of {chapter} is not made in pieces")
    values = all_parameters(chapter, asked.profile, asked.overrides)
    folder = asked.folder.absolute() / chapter
    if not can_be_written(folder):  # which would be found hours later
        raise PermissionError(errno.EACCES, "", str(folder))
    started = time.monotonic()
    try:
        config = configuration(module, values)
        piece = {"piece": asked.piece} if asked.piece else {}
        store = Kept(config.checkpoints, [chapter, what(config), *piece.values()], device=pick_device(config.device))
        tables = store.keep("record", partial(module.tables, config, **piece))
    except ValueError as error:
        raise Refusal(error) from error
    except UnavailableError as error:
        raise NotThereError(error) from error
    made = provenance(config.device) | {"departures": departures(chapter, values)}
    made["reference_seconds"] = round(machine.reference_seconds(), 4)
    made["seconds"] = round(store.seconds or time.monotonic() - started)  # of all calls, killed ones too
    if records.is_first_process():
        if hasattr(module, "files"):
            made["files"] = _left(module.files(config), folder)
        for name, frame in tables.items():
            path = records.save(records.Record(name, frame, what(config), made), folder)
            print(os.path.relpath(path))


def _left(files: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Copy files that belong to a record beside its tables; their sha256 sums by name."""
    for name, path in files.items():
        with replacing(folder / name) as new:
            shutil.copyfile(path, new)
    return {name: sha256_of(folder / name) for name in files}


def what(config: Settings) -> dict[str, Any]:
    """Every parameter that a record is made with, but for where."""
    return {name: value for name, value in config.to_parameters().items() if name not in WHERE}


class NotThereError(Refusal):
    """Data or a model that could not be loaded."""

    exit_code = 1


def options(about: str = __doc__.splitlines()[0]) -> argparse.ArgumentParser:
    """What is asked of a record, or of all."""
    parser = argparse.ArgumentParser(description=about)
    add = parser.add_argument
    add("--profile", default="paper", help="paper, overnight (reduced, for two cores), or a smaller one for a test")
    add("--set", default="", dest="overrides", help="parameters: 'n_seeds=4 n_steps=500'")
    add("--piece", default="", help="only one part of the work, such as one table, if the record is made in parts")
    add("--save-every", type=float, default=unfinished.SECONDS_BETWEEN, help="seconds between checkpoints")
    add("--threads", default=None, help="CPU threads; all for one per core; by default torch chooses")
    add("--folder", type=Path, default=records.PAPER_RESULTS, help="folder for the records")
    return parser


def main(arguments: list[str]) -> int:
    parser = options()
    parser.add_argument("chapter", help="a chapter whose experiment is recorded, such as hierarchy")
    asked = parser.parse_args(arguments)
    unfinished.SECONDS_BETWEEN = asked.save_every
    use_threads(asked.threads)
    record(asked.chapter, asked)
    return 0


def use_threads(asked: str | None) -> None:
    """Compute with as many threads as are asked for, if any are."""
    if asked:
        torch.set_num_threads(threads_of(asked))
