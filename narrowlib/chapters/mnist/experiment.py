"""Claims M1 and M2: a classifier of the even digits made in four ways, and the neurons and data that each needs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from narrowlib.chapters.mnist.config import EVEN, Config, MnistConfig, Outcome
from narrowlib.chapters.mnist.lasso import METHOD, prune_while_training
from narrowlib.chapters.mnist.methods import distil, from_scratch, kept_teacher, prune_by_attribution
from narrowlib.chapters.mnist.outcomes import forgetting
from narrowlib.chapters.mnist.tuning import tuned_rivals
from narrowlib.data.digits import Digits, mnist_digits
from narrowlib.devices import pick_device
from narrowlib.stacks.networks import MLPStack
from narrowlib.store.kept import Kept


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
        tables = [outcome.runs.drop(columns="network") for outcome in self.outcomes.values() if len(outcome.runs)]
        return pd.concat(tables, ignore_index=True)


def compare(config: MnistConfig, digits: Digits, *, checkpoints: str | Path = "", progress: bool = True) -> Comparison:
    """Train the teacher and, from it, the whole grid of every method.

    Parameters
    ----------
    config : MnistConfig
    digits : Digits
        All ten; the runs are where its tensors are.
    checkpoints : path, optional
        Folder in which the teacher and every finished method are kept, see `narrowlib.store.kept.Kept`.  Empty: nothing
        is kept.
    progress : bool
        Show progress bars.

    Returns
    -------
    Comparison

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 4.
    """
    even, store = digits.only(EVEN), Kept(checkpoints, config, device=digits.train_images.device)
    teacher = kept_teacher(config.teacher, digits, store, progress=progress)
    data = [digits.train_images, digits.train_labels]
    methods = {
        "from scratch": lambda: from_scratch(config, even, progress=progress),
        "distillation": lambda: distil(config, teacher, even, progress=progress),
        "attribution": lambda: prune_by_attribution(config, teacher, even, progress=progress),
    }
    outcomes = {name: _kept_outcome(store, name, compute, [data, teacher])[0] for name, compute in methods.items()}
    shrink = partial(prune_while_training, config, teacher, even, progress=progress)
    outcomes[METHOD], paths = _kept_outcome(store, METHOD, shrink, [data, teacher])
    return Comparison(teacher, outcomes, paths)


def tables(config: Config, *, progress: bool = True) -> dict[str, pd.DataFrame]:
    """Everything that the chapter shows, as tables.

    Returns
    -------
    dict of str to DataFrame
        ``mnist-runs`` and ``mnist-paths``, see `Comparison`, ``mnist-forgetting``, see
        `narrowlib.chapters.mnist.outcomes.forgetting`, ``mnist-tuned``, see
        `narrowlib.chapters.mnist.tuning.tuned_rivals`.
    """
    asked, digits = config.comparison, mnist_digits(pick_device(config.device))
    comparison = compare(asked, digits, checkpoints=config.checkpoints, progress=progress)
    teacher, even = comparison.teacher, digits.only(EVEN)
    store = Kept(config.checkpoints, asked, device=digits.train_images.device)
    tune = partial(tuned_rivals, asked, teacher, even, progress=progress)
    tuned = store.keep("tuned rivals", tune, inputs=[even.train_images, teacher])
    forgotten = forgetting(asked, comparison.teacher, comparison.outcomes, digits, progress=progress)
    return {
        "mnist-runs": comparison.runs,
        "mnist-paths": comparison.paths,
        "mnist-forgetting": forgotten,
        "mnist-tuned": tuned,
    }


def _kept_outcome(
    store: Kept, name: str, compute: Callable[[], Outcome | tuple[Outcome, pd.DataFrame]], inputs: object
) -> tuple[Outcome, pd.DataFrame]:
    """An outcome and its paths, empty for methods without any, from the store when they are there."""

    def tables_and_networks() -> dict[str, object]:
        found = compute()
        outcome, paths = (found, pd.DataFrame()) if isinstance(found, Outcome) else found
        states = {neurons: stack.state_dict() for neurons, stack in outcome.networks.items()}
        return {"networks": states, "runs": outcome.runs, "paths": paths}

    kept = store.keep(name, tables_and_networks, inputs=inputs)
    networks = {neurons: MLPStack.from_state(state) for neurons, state in kept["networks"].items()}
    return Outcome(kept["runs"], networks), kept["paths"]
