"""Results of the MNIST comparison: best settings, Pareto fronts, dominance, and forgetting."""

from collections.abc import Mapping

import pandas as pd
import torch

from narrowlib.chapters.mnist.config import EVEN, ODD, MnistConfig, Outcome
from narrowlib.data.digits import Digits
from narrowlib.stacks.networks import MLPStack, accuracies, predictions
from narrowlib.stacks.training import Goal, StepConfig, labelled, train_to_goal

PRUNING_METHODS = ("attribution", "group lasso")
RELEARNING_SEED = 5_000_000  # apart from the seeds of the methods
_SETTING = ["method", "neurons", "strength", "learning_rate"]
_PICTURE_SIDE = 28


def best_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """For every method and size the setting that needs the fewest samples on average.

    As in the paper, a setting counts when at least half of its repeats reach the goal; those go before all others.  A
    run that misses counts with all samples that it saw.

    Returns
    -------
    DataFrame
        One row per method and size: ``method``, ``neurons``, ``strength``, ``learning_rate``, ``points`` (mean over
        the repeats), ``low``, ``high`` (fewest and most), ``n_reached``, ``n_repeats``, ``reached`` (whether half did).
    """
    table = runs.groupby(_SETTING, dropna=False, sort=False).agg(
        points=("points", "mean"),
        low=("points", "min"),
        high=("points", "max"),
        n_reached=("reached", "sum"),
        n_repeats=("repeat", "nunique"),
    )
    table = table.reset_index().assign(reached=lambda rows: 2 * rows["n_reached"] >= rows["n_repeats"])
    table = table.sort_values(["reached", "points"], ascending=[False, True], kind="stable")
    best = table.groupby(["method", "neurons"], sort=False).head(1)
    return best.sort_values(["method", "neurons"]).reset_index(drop=True)


def pareto_front(best: pd.DataFrame) -> pd.DataFrame:
    """The Pareto-optimal sizes of every method: along them, fewer neurons cost more samples.

    Parameters
    ----------
    best : DataFrame
        See `best_settings`.

    Returns
    -------
    DataFrame
        The rows of ``best`` that reach the goal and are on the front, in the order of neurons.
    """
    reached = best[best["reached"]].sort_values(["method", "neurons"])
    fewest = reached.groupby("method")["points"].cummin()
    earlier = fewest.groupby(reached["method"]).shift(fill_value=float("inf"))
    return reached[reached["points"] < earlier].reset_index(drop=True)


def dominance(best: pd.DataFrame) -> pd.DataFrame:
    """Whether pruning beats every network that another method brings to the goal.

    A pruned network dominates another that has as many neurons or more, and needed as many samples or more, if one of
    the two is more.

    Returns
    -------
    DataFrame
        One row per other method and size that reaches the goal: ``method``, ``neurons``, ``points``, ``pruned_by``
        (the pruning method with the fewest samples among networks of no more neurons), ``pruned_neurons``,
        ``pruned_points`` (NaN when there is none), ``ratio`` of ``points`` to it (0 when there is none),
        ``dominated``.
    """
    reached = best[best["reached"]]
    pruned, others = reached[reached["method"].isin(PRUNING_METHODS)], reached[~reached["method"].isin(PRUNING_METHODS)]
    rows = []
    for other in others.itertuples():
        smaller = pruned[pruned["neurons"] <= other.neurons].sort_values(["points", "neurons"])
        about = {"method": other.method, "neurons": other.neurons, "points": other.points}
        if smaller.empty:
            found = {"pruned_by": None, "pruned_neurons": float("nan"), "pruned_points": float("nan"), "ratio": 0.0}
            rows.append({**about, **found, "dominated": False})
            continue
        first = smaller.iloc[0]
        is_better = first["points"] < other.points or (
            first["points"] == other.points and first["neurons"] < other.neurons
        )
        ratio = other.points / max(first["points"], 1)
        found = {"pruned_by": first["method"], "pruned_neurons": first["neurons"], "pruned_points": first["points"]}
        rows.append({**about, **found, "ratio": ratio, "dominated": is_better})
    columns = ["method", "neurons", "points", "pruned_by", "pruned_neurons", "pruned_points", "ratio", "dominated"]
    return pd.DataFrame(rows, columns=columns)


def forgetting(
    config: MnistConfig, teacher: MLPStack, outcomes: Mapping[str, Outcome], digits: Digits, *, progress: bool = True
) -> pd.DataFrame:
    """What networks narrowed to the even digits still know about the odd ones, and how fast they relearn them.

    Of every method and size the runs of the best setting are trained on all ten digits for a short while.  A network
    from scratch has never seen an odd digit; it shows what is learned anew.

    Parameters
    ----------
    config : MnistConfig
    teacher : MLPStack
    outcomes : mapping of str to Outcome
        By method.
    digits : Digits
        All ten.
    progress : bool
        Show progress bars.

    Returns
    -------
    DataFrame
        One row per network and stage: ``method``, ``neurons``, ``repeat``, ``stage`` (narrowed, or relearned), and
        the accuracies on test digits, ``odd``, ``among_odd`` (odd digits, only the five odd answers open) and
        ``even``.  The method "teacher" is the teacher itself.
    """
    even, odd = digits.only(EVEN), digits.only(ODD)
    step = StepConfig(batch_size=config.relearning_batch_size)
    never = Goal(inputs=odd.test_images, labels=odd.test_labels, accuracy=2.0, check_every=config.relearning_points)
    networks = [("teacher", 2 * teacher.sizes[1], [0], teacher)]
    for method, outcome in outcomes.items():
        networks += [(method, *each) for each in best_networks(outcome)]
    frames = []
    for method, neurons, repeats, stack in networks:
        stack = MLPStack.from_state({name: t.detach().clone() for name, t in stack.state_dict().items()})
        for stage in ("narrowed", "relearned"):
            if stage == "relearned":
                train_to_goal(
                    stack,
                    digits.train_images,
                    labelled(digits.train_labels),
                    never,
                    step,
                    learning_rates=[config.relearning_rate] * stack.n_runs,
                    seeds=[RELEARNING_SEED + config.first_seed + repeat for repeat in repeats],
                    max_points=[config.relearning_points + step.batch_size] * stack.n_runs,
                    progress=progress,
                    description=f"all digits, {method}, {neurons} neurons",
                )
            found = {
                "odd": accuracies(stack, odd.test_images, odd.test_labels).tolist(),
                "among_odd": accuracies(stack, odd.test_images, odd.test_labels, ODD).tolist(),
                "even": accuracies(stack, even.test_images, even.test_labels).tolist(),
            }
            frames.append(
                pd.DataFrame({**found, "repeat": repeats}).assign(method=method, neurons=neurons, stage=stage)
            )
    return pd.concat(frames, ignore_index=True)


def best_networks(outcome: Outcome) -> list[tuple[int, list[int], MLPStack]]:
    """Of every size the networks of the best setting: neurons, the repeats, and a stack of them."""
    found = []
    kept = outcome.runs[outcome.runs["network"] >= 0]
    for neurons, rows in kept.merge(best_settings(outcome.runs)[_SETTING], on=_SETTING).groupby("neurons"):
        state = outcome.networks[neurons].state_dict().items()
        stack = MLPStack.from_state({name: tensor.detach()[rows["network"].tolist()] for name, tensor in state})
        found.append((neurons, rows["repeat"].tolist(), stack))
    return found


@torch.no_grad()
def mistakes(stack: MLPStack, digits: Digits, n_pictures: int) -> pd.DataFrame:
    """Pixels of the first test digits that the first network of a stack gets wrong.

    Returns
    -------
    DataFrame
        One row per pixel: ``picture``, ``row``, ``column``, ``ink`` (0 to 1), ``label``, ``predicted``.
    """
    first = MLPStack.from_state({name: tensor[:1] for name, tensor in stack.state_dict().items()})
    predicted = predictions(first, digits.test_images)[0]
    wrong = (predicted != digits.test_labels).nonzero()[:n_pictures, 0]
    side = range(_PICTURE_SIDE)
    index = pd.MultiIndex.from_product([range(len(wrong)), side, side], names=["picture", "row", "column"])
    frame = pd.DataFrame({"ink": digits.test_images[wrong].flatten().cpu().numpy()}, index=index).reset_index()
    labels, found = (values[wrong].cpu().numpy() for values in (digits.test_labels, predicted))
    return frame.assign(label=labels[frame["picture"]], predicted=found[frame["picture"]])
