"""Chapter group-lasso, claims G1 and G2: a group lasso makes networks prunable, and the other skill stays away."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from narrowlib.chapters.style import book_theme, plot_pending
from narrowlib.chapters.two_trees.config import (
    METHODS,
    OTHER,
    RECORDED_SPARSITIES,
    WANTED,
    GroupLassoConfig,
    NonlocalityConfig,
)
from narrowlib.chapters.two_trees.config import GroupLassoPage as Config
from narrowlib.chapters.two_trees.curves import cut_out, kept_sparsity, pruning_curves
from narrowlib.chapters.two_trees.figures.curves import plot_pruning_panels, plot_strength_curves, plot_strengths
from narrowlib.chapters.two_trees.figures.neurons import plot_networks, plot_norms
from narrowlib.chapters.two_trees.lasso_training import regularise
from narrowlib.chapters.two_trees.networks import NOT_KEPT, ablation, copies, pieces, store_for, train_networks
from narrowlib.claims import assess, assess_all, load_claims, reasons, satisfies, verdict
from narrowlib.cmsp import task_name
from narrowlib.devices import pick_device
from narrowlib.intervals import Interval, mean, median
from narrowlib.penalties import exact_prox_group_lasso, group_lasso, group_norms, prox_group_lasso
from narrowlib.pruning import keep_masks
from narrowlib.stacks.networks import MLPStack
from narrowlib.store.kept import Kept
from narrowlib.store.records import origin, paper_record, provenance

STATES = ("before", "after group lasso")
SWEPT = {
    "subgradient": (0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "proximal": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
}
SWEEP_SPARSITIES = tuple(percent / 100 for percent in (*range(10, 90, 10), 85, 90, 95, 98))
GAP_THRESHOLDS = (1e-3, 1e-2, 1e-1)


def lasso_curves(
    stacks: Sequence[MLPStack],
    config: NonlocalityConfig,
    sparsities: Sequence[float],
    stores: Sequence[Kept] = (NOT_KEPT, NOT_KEPT),
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """Pruning curves of the networks before and after group lasso, with a column ``state`` that says which.

    Parameters
    ----------
    stacks : two MLPStack
        The networks before, and after.
    config : NonlocalityConfig
    sparsities : sequence of float
    stores : two Kept, optional
        Where each is kept.
    progress : bool
        Show progress bars.
    """
    curves = partial(pruning_curves, config=config, sparsities=sparsities, progress=progress)
    frames = [
        curves(stack, store=store).assign(state=state)
        for stack, state, store in zip(stacks, STATES, stores, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def lasso_outcome(curves: pd.DataFrame) -> dict[str, dict[str, Interval]]:
    """The quantities of claims G1 and G2, by claim, from `lasso_curves`, with intervals over networks.

    A network that does not keep the wanted composite at the lowest sparsity counts as keeping it up to 0.  See
    ``claims.yaml``.
    """
    before, after = (curves[curves["state"] == state] for state in STATES)
    kept, was_kept = (
        kept_sparsity(frame, stage="pruned").fillna({"sparsity": 0.0}).set_index(["width", "seed"])["sparsity"]
        for frame in (after, before)
    )
    return {
        "G1": {"lasso_kept_sparsity": median(kept), "lasso_gain": median(kept - was_kept)},
        "G2": {"other_accuracy": mean(_regained(curves))},
    }


def _regained(curves: pd.DataFrame) -> pd.Series:
    """Highest accuracy on the other composite after recovery, of each network after group lasso."""
    is_other = (curves["stage"] == "recovered") & (curves["task"] == task_name(OTHER))
    after = curves[is_other & (curves["state"] == STATES[1])]
    return after.groupby(["width", "seed"])["accuracy"].max()


def regained_said(curves: pd.DataFrame) -> str:
    """In how many networks of `lasso_curves` the other composite comes back after group lasso, in a sentence."""
    rule, regained = load_claims()["G2"]["quantities"]["other_accuracy"]["holds"], _regained(curves)
    back = regained[[not satisfies(value, rule) for value in regained]].sort_values()
    told = f"; in {len(back)} it comes back, to {', '.join(back.map('{:.3g}'.format))}" if len(back) else ""
    n_kept_away = len(regained) - len(back)
    return (
        f"After group lasso, the accuracy on the other composite remains {rule} after recovery in {n_kept_away} of "
        f"{len(regained)} networks{told}."
    )


class StrengthSweep(NamedTuple):
    """The results of `strength_sweep`.

    Parameters
    ----------
    networks : DataFrame
        One row per strength and seed: ``method``, ``strength``, ``seed``, ``sparsity`` (the highest of those given at
        which, without recovery, the wanted composite is kept; 0 when at none), ``wanted`` (its accuracy before
        pruning), ``zeros`` (share of neurons whose weights are exactly zero), ``regained`` (highest accuracy on the
        other composite after recovery, over the sparsities).
    curves : DataFrame
        One row per strength, seed, sparsity (0 and those given), task and stage: ``accuracy`` and what else
        `narrowlib.chapters.two_trees.curves.pruning_curves` tells.  The other composite alone is recovered, not at 0.
    """

    networks: pd.DataFrame
    curves: pd.DataFrame


def strength_sweep(
    stack: MLPStack,
    config: NonlocalityConfig,
    lasso: GroupLassoConfig,
    strengths: Sequence[float],
    sparsities: Sequence[float],
    *,
    progress: bool = True,
) -> StrengthSweep:
    """Effect of the strength of the penalty on a network: how far it can be pruned, and which tasks it keeps.

    Every network is regularised with every strength, all of them side by side.  A strength of 0 is the control:
    training on the wanted composite alone.
    """
    runs, given = side_by_side(stack, strengths)
    regularised, _ = regularise(runs, config, lasso, strengths=given, progress=progress)
    return swept(regularised, config, lasso.method, given, sparsities, progress=progress)


def side_by_side(stack: MLPStack, strengths: Sequence[float]) -> tuple[MLPStack, list[float]]:
    """Copies of every network for each strength, and the strength of each copy."""
    runs = [run for _ in strengths for run in range(stack.n_runs)]
    return copies(stack, runs), [strength for strength in strengths for _ in range(stack.n_runs)]


def swept(
    regularised: MLPStack,
    config: NonlocalityConfig,
    method: str,
    given: Sequence[float],
    sparsities: Sequence[float],
    *,
    progress: bool = True,
) -> StrengthSweep:
    """The measures of `strength_sweep` for trained networks: `side_by_side`, each with its strength in ``given``."""
    curves = pruning_curves(regularised, config, sparsities, recover=[OTHER], progress=progress)
    whole = pruning_curves(regularised, config, [0.0], recover=[], progress=progress)
    other = curves[(curves["task"] == task_name(OTHER)) & (curves["stage"] == "recovered")]
    norms = torch.cat(list(group_norms(regularised.units, dict(regularised.named_parameters())).values()), dim=1)
    first = config.first_seed
    columns = {
        "sparsity": kept_sparsity(curves, stage="pruned").fillna({"sparsity": 0}).set_index("seed")["sparsity"],
        "wanted": whole[whole["task"] == task_name(WANTED)].set_index("seed")["accuracy"],
        "zeros": pd.Series((norms == 0).float().mean(1).tolist(), [first + number for number in range(len(given))]),
        "regained": other.groupby("seed")["accuracy"].max(),
    }
    table = pd.DataFrame(columns)  # by number of the run, which stands for the seed there
    seeds = [first + number % given.count(given[0]) for number in range(len(given))]
    about = {"method": method, "strength": given, "seed": seeds}
    both = pd.concat([whole, curves], ignore_index=True)
    number = both["seed"] - first
    both = both.assign(**{name: number.map(dict(enumerate(about[name]))) for name in ("strength", "seed")})
    return StrengthSweep(table.assign(**about).reset_index(drop=True)[[*about, *columns]], both)


def prox_gap(stack: MLPStack, thresholds: Sequence[float]) -> pd.DataFrame:
    r"""How far one sweep of block soft thresholds is from the exact proximal step, on the weights of networks.

    Returns
    -------
    DataFrame
        One row per threshold and run: ``threshold`` (tau), ``run``, ``excess`` (objective
        :math:`\tfrac12\lVert\theta - \theta_0\rVert^2 + \tau R(\theta)` of the sweep less that of the exact step, as
        a share of what the exact step gains over :math:`\theta_0`), ``distance`` (between the two results, as a share
        of the exact step's length).
    """
    start = {name: values.detach().double() for name, values in stack.named_parameters()}

    def length(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        return sum((a[name] - b[name]).square().flatten(1).sum(1) for name in a).sqrt()

    frames = []
    for threshold in thresholds:
        exact = exact_prox_group_lasso(stack.units, start, threshold)
        sweep = {name: values.clone() for name, values in start.items()}
        prox_group_lasso(stack.units, sweep, threshold)
        at_start, at_exact, at_sweep = (
            length(point, start).square() / 2 + threshold * group_lasso(stack.units, point)
            for point in (start, exact, sweep)
        )
        excess, distance = (at_sweep - at_exact) / (at_start - at_exact), length(sweep, exact) / length(exact, start)
        columns = {"run": range(stack.n_runs), "excess": excess.tolist(), "distance": distance.tolist()}
        frames.append(pd.DataFrame({"threshold": threshold, **columns}))
    return pd.concat(frames, ignore_index=True)


def network_edges(stack: MLPStack, config: NonlocalityConfig, seed: int, sparsity: float) -> pd.DataFrame:
    """Every weight of one network after pruning by its ablation scores on the wanted composite.

    Returns
    -------
    DataFrame
        One row per weight between units that are left: ``layer`` (of weights, from 0), ``source`` and ``target``
        (numbers of the units among those left), ``weight``, ``group`` (of an input: control, the name of the sub-task
        that owns the bit, or unused; empty in the other layers).
    """
    run = config.seeds.index(seed)
    masks = {name: mask[[run]] for name, mask in keep_masks(ablation(stack, config, WANTED), sparsity).items()}
    problem, pruned = config.problem, cut_out(stack, [run], masks)
    owners = {position: task_name([i]) for i, subset in enumerate(problem.subsets) for position in subset}
    groups = ["control"] * problem.n_subtasks + [owners.get(bit, "unused") for bit in range(problem.n_task_bits)]
    frames = []
    for layer, weight in enumerate(pruned.weights):
        index = pd.MultiIndex.from_product([range(size) for size in weight.shape[1:]], names=["source", "target"])
        frame = pd.DataFrame({"weight": weight[0].detach().flatten().cpu().numpy()}, index=index).reset_index()
        frames.append(frame.assign(layer=layer, group=[groups[i] for i in frame["source"]] if layer == 0 else ""))
    return pd.concat(frames, ignore_index=True)


def tables(
    config: Config, *, sparsities: Sequence[float] = RECORDED_SPARSITIES, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """The tables that the book records of a run; finished pieces (a few seeds, one width) go to ``config.checkpoints``.

    Given the folder of `narrowlib.chapters.two_trees.nonlocality.tables`, the networks and their pruning curves are
    taken from there.

    Returns
    -------
    dict of str to DataFrame
        ``curves`` (see `lasso_curves`) of every width; and of networks of the page's ``width`` ``sweep`` (see
        `strength_sweep`, both methods), ``gaps`` (see `prox_gap`), and ``edges`` (see `network_edges`) of the first
        of them, before and after, cut as far as the wanted composite is kept without recovery: with ``state`` and
        ``sparsity``.
    """
    experiment, lasso, device = config.experiment, config.lasso, config.device
    where = pick_device(device)
    stores = tuple(store_for(config.checkpoints, experiment, config.device, *more) for more in ((), (lasso,)))
    parts: dict[str, list[pd.DataFrame]] = {}
    for width in sorted({*config.widths, config.width}):
        for piece in pieces(experiment, width, where):
            before = train_networks(piece, width, device=config.device, store=stores[0], progress=progress)
            name = f"regularised-{width}-{piece.seeds[0]}-{piece.seeds[-1]}"
            after = stores[1].keep(name, partial(_regularised, before, piece, lasso, progress), inputs=before)
            stacks = before, MLPStack.from_state(after)
            curves = lasso_curves(stacks, piece, sparsities, stores, progress=progress)
            is_first = piece.seeds[0] == experiment.seeds[0]
            is_shown = width == config.width
            found = _shown(stacks, curves, piece, lasso, stores[1], is_first, progress) if is_shown else {}
            found["curves"] = curves
            for name, table in found.items():
                parts.setdefault(name, []).append(table)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def _regularised(
    stack: MLPStack, config: NonlocalityConfig, lasso: GroupLassoConfig, progress: bool
) -> dict[str, Tensor]:
    return regularise(stack, config, lasso, progress=progress)[0].state_dict()


def _shown(
    stacks: Sequence[MLPStack],
    curves: pd.DataFrame,
    config: NonlocalityConfig,
    lasso: GroupLassoConfig,
    store: Kept,
    is_drawn: bool,
    progress: bool,
) -> dict[str, pd.DataFrame]:
    """What is shown of one width only, kept as one table each; ``is_drawn`` says whether the first network is."""
    first = config.seeds[0]

    def sweep(method: str) -> pd.DataFrame:
        by = lasso.replace(method=method)
        return strength_sweep(stacks[0], config, by, SWEPT[method], SWEEP_SPARSITIES, progress=progress).networks

    def edges() -> pd.DataFrame:
        frames = []
        for state, stack in zip(STATES, stacks, strict=True):
            of_first = curves[(curves["state"] == state) & (curves["seed"] == first)]
            sparsity = kept_sparsity(of_first, stage="pruned")["sparsity"].fillna(0).item()
            frames.append(network_edges(stack, config, first, sparsity).assign(state=state, sparsity=sparsity))
        return pd.concat(frames, ignore_index=True)

    make: dict[str, Callable[[], pd.DataFrame]] = {
        "sweep": lambda: pd.concat([sweep(method) for method in METHODS], ignore_index=True),
        "gaps": lambda: prox_gap(stacks[0], GAP_THRESHOLDS),
    }
    if is_drawn:
        make["edges"] = edges
    name = f"{stacks[0].sizes[1]}-{config.seeds[0]}-{config.seeds[-1]}"
    return {table: store.keep(f"{table}-{name}", compute, inputs=[stacks, curves]) for table, compute in make.items()}
