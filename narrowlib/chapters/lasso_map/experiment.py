"""Beyond the paper: effect of the group lasso by its strength, its training steps, and the width of the network."""

from functools import partial

import pandas as pd

from narrowlib.chapters.lasso_map.config import Config
from narrowlib.chapters.two_trees.config import NonlocalityConfig
from narrowlib.chapters.two_trees.group_lasso import side_by_side, swept
from narrowlib.chapters.two_trees.lasso_training import regularised_after
from narrowlib.chapters.two_trees.networks import pieces, store_for, train_networks
from narrowlib.devices import pick_device
from narrowlib.stacks.networks import MLPStack


def strength_map(config: Config, *, progress: bool = True) -> pd.DataFrame:
    """The measures of `narrowlib.chapters.two_trees.group_lasso.strength_sweep` for every width and number of steps.

    The networks of a width are trained once, and with the penalty once with every strength: fewer steps are readings of
    that training.  Given the folder of `narrowlib.chapters.two_trees.nonlocality.tables`, the networks are taken from
    there.  Finished pieces are kept in ``config.checkpoints``, each some seeds of one width.

    Parameters
    ----------
    config : narrowlib.chapters.lasso_map.config.Config
    progress : bool
        Show progress bars.

    Returns
    -------
    DataFrame
        One row per ``width``, ``steps``, ``strength`` (0: the control) and ``seed``: ``sparsity``, ``wanted``,
        ``regained`` and what else `narrowlib.chapters.two_trees.group_lasso.StrengthSweep` has of networks.
    """
    asked = config.experiment, config.device
    networks_kept = store_for(config.checkpoints, *asked)
    store = store_for(config.checkpoints, *asked, config.lasso, config.strengths, config.steps, config.sparsities)
    frames = []
    for width in config.widths:
        for piece in pieces(config.experiment, width, pick_device(config.device)):
            networks = train_networks(piece, width, device=config.device, store=networks_kept, progress=progress)
            compute = partial(_read, networks, piece, config, progress)
            name = f"map-{width}-{piece.seeds[0]}-{piece.seeds[-1]}"
            frames.append(store.keep(name, compute, inputs=networks).assign(width=width))
    return pd.concat(frames, ignore_index=True)


def tables(config: Config, *, progress: bool = True) -> dict[str, pd.DataFrame]:
    """The tables that the book records of a run, see `strength_map`."""
    return {"map": strength_map(config, progress=progress)}


def _read(networks: MLPStack, piece: NonlocalityConfig, config: Config, progress: bool) -> pd.DataFrame:
    runs, given = side_by_side(networks, config.strengths)
    steps = sorted(config.steps)
    readings = regularised_after(runs, piece, config.lasso, steps, strengths=given, progress=progress)
    measure = partial(swept, config=piece, method=config.lasso.method, given=given, sparsities=config.sparsities)
    frames = [measure(stack, progress=progress).networks.assign(steps=n) for n, stack in zip(steps, readings)]
    return pd.concat(frames, ignore_index=True)
