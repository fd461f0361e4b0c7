"""Claims M1 and M2: a classifier of the even digits made in four ways, and what each pays in neurons and data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from narrowlib import penalties, pruning, scores
from narrowlib.chapters.mnist import config as mnist_config
from narrowlib.chapters.mnist import lasso as mnist_lasso
from narrowlib.chapters.mnist import methods as mnist_methods
from narrowlib.chapters.mnist.config import EVEN, MnistConfig, Outcome
from narrowlib.chapters.mnist.lasso import METHOD, prune_while_training
from narrowlib.chapters.mnist.methods import distil, from_scratch, prune_by_attribution, train_teacher
from narrowlib.chapters.mnist.outcomes import forgetting
from narrowlib.data.digits import Digits, mnist_digits
from narrowlib.devices import pick_device
from narrowlib.stacks import cohort as recovery
from narrowlib.stacks import gradients, steps, training
from narrowlib.stacks import networks as models
from narrowlib.stacks.networks import MLPStack
from narrowlib.store.downloads import made
from narrowlib.store.records import recorded, source_digest

_CODE = (gradients, models, penalties, pruning, recovery, scores, steps, training)
_CODE += (mnist_config, mnist_lasso, mnist_methods)


@dataclass(frozen=True)
class Comparison:
    """The four methods from one teacher.

    Parameters
    ----------
    teacher : MLPStack
        A stack of one.
    outcomes : dict of str to Outcome
        By method.
    paths : DataFrame
        Accuracy and neurons of every group lasso run while it shrinks; see
        `narrowlib.chapters.mnist.lasso.shrink`.
    """

    teacher: MLPStack
    outcomes: dict[str, Outcome]
    paths: pd.DataFrame

    @property
    def runs(self) -> pd.DataFrame:
        """The runs of all methods; see `narrowlib.chapters.mnist.config.Outcome`."""
        tables = [outcome.runs for outcome in self.outcomes.values()]
        return pd.concat([table for table in tables if len(table)], ignore_index=True)


def compare(config: MnistConfig, digits: Digits, *, checkpoints: str | Path = "", progress: bool = True) -> Comparison:
    """Train the teacher and, from it, the whole grid of every method.

    Parameters
    ----------
    config : MnistConfig
    digits : Digits
        All ten; the runs are where its tensors are.
    checkpoints : path, optional
        Folder in which the teacher and every method that is through are kept: networks as safetensors, tables as
        records.  The same call of the same code goes on from them after a kill.  Empty: nothing is kept.
    progress : bool
        Show progress bars.

    Returns
    -------
    Comparison

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 4.
    """
    device, even = digits.train_images.device, digits.only(EVEN)
    folder = _folder(Path(checkpoints), config, digits) if checkpoints else None
    load = partial(_kept_networks, folder=folder, device=device)
    teacher = load("teacher", lambda: {0: train_teacher(config.teacher, digits, progress=progress)})[0]
    methods = {
        "from scratch": lambda: from_scratch(config, even, progress=progress),
        "distillation": lambda: distil(config, teacher, even, progress=progress),
        "attribution": lambda: prune_by_attribution(config, teacher, even, progress=progress),
    }
    outcomes = {name: _kept(name, config, compute, folder, device)[0] for name, compute in methods.items()}
    shrink = partial(prune_while_training, config, teacher, even, progress=progress)
    outcomes[METHOD], paths = _kept(METHOD, config, shrink, folder, device)
    return Comparison(teacher, outcomes, paths)


def paper_tables(
    config: MnistConfig | None = None,
    *,
    device: str = "auto",
    checkpoints: str | Path = "",
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Everything that the chapter shows, as tables; by default at the paper's scale.

    Returns
    -------
    dict of str to DataFrame
        ``mnist-runs`` and ``mnist-paths``, see `Comparison`, ``mnist-forgetting``, see
        `narrowlib.chapters.mnist.outcomes.forgetting`.
    """
    config = MnistConfig() if config is None else config
    digits = mnist_digits(pick_device(device))
    comparison = compare(config, digits, checkpoints=checkpoints, progress=progress)
    forgotten = forgetting(config, comparison.teacher, comparison.outcomes, digits, progress=progress)
    return {"mnist-runs": comparison.runs, "mnist-paths": comparison.paths, "mnist-forgetting": forgotten}


def _folder(parent: Path, config: MnistConfig, digits: Digits) -> Path:
    """A folder for exactly these runs: what is left of other settings, code, data or devices lies elsewhere."""
    device = digits.train_images.device.type
    made_by = [asdict(config), len(digits.train_labels), device, torch.__version__, source_digest(*_CODE)]
    return parent / f"mnist-{hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]}"


def _kept(
    name: str,
    config: MnistConfig,
    compute: Callable[[], Outcome | tuple[Outcome, pd.DataFrame]],
    folder: Path | None,
    device: torch.device,
) -> tuple[Outcome, pd.DataFrame]:
    """An outcome and its paths, empty for methods without any; from the folder when both are there."""
    done: list[tuple[Outcome, pd.DataFrame]] = []

    def result() -> tuple[Outcome, pd.DataFrame]:
        if not done:
            found = compute()
            done.append((found, pd.DataFrame()) if isinstance(found, Outcome) else found)
        return done[0]

    key = name.replace(" ", "-")
    networks = _kept_networks(key, lambda: result()[0].networks, folder=folder, device=device)
    runs = recorded(f"{key}-runs", asdict(config), lambda: result()[0].runs, folder)
    paths = recorded(f"{key}-paths", asdict(config), lambda: result()[1], folder)
    return Outcome(runs, networks), paths


def _kept_networks(
    name: str, compute: Callable[[], dict[int, MLPStack]], *, folder: Path | None, device: torch.device
) -> dict[int, MLPStack]:
    """Stacks by a number, from one safetensors file when it is there."""
    if folder is None:
        return compute()

    def make(path: Path) -> None:
        stacks = compute().items()
        save_file({f"{n}.{key}": t.cpu().contiguous() for n, s in stacks for key, t in s.state_dict().items()}, path)

    path = folder / f"{name}.safetensors"
    try:
        kept = load_file(made(path, make))
    except SafetensorError:  # a damaged file is made again
        path.unlink()
        kept = load_file(made(path, make))
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in kept.items():
        number, _, parameter = key.partition(".")
        states.setdefault(int(number), {})[parameter] = tensor.to(device)
    return {number: MLPStack.from_state(state) for number, state in sorted(states.items())}
