"""How well attribution (one gradient for all neurons) approximates ablation (one evaluation per neuron)."""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor

from narrowlib.chapters.two_trees.config import NonlocalityConfig
from narrowlib.chapters.two_trees.networks import SCORE_SEED, held_out, neuron_table
from narrowlib.scores import activation_gradient_scores, attribution_scores
from narrowlib.scores import agreement as of_units
from narrowlib.stacks.gradients import cross_entropy
from narrowlib.stacks.networks import MLPStack


def neuron_attributions(stack: MLPStack, config: NonlocalityConfig) -> pd.DataFrame:
    """Attribution score of every neuron on every task, in three variants, on the samples of the ablation scores.

    Returns
    -------
    DataFrame
        As `narrowlib.chapters.two_trees.nonlocality.neuron_scores` has it, with ``variant``: signed and per_weight as
        in `narrowlib.scores.attribution_scores`, and activation x gradient with the absolute value inside the mean
        over samples.  With it outside the score is half the signed one, for every neuron behind a ReLU.
    """
    frames = []
    for task in config.problem.tasks:
        for variant, scores in _attributions(stack, config, task):
            frames.append(neuron_table(scores, config, task).assign(variant=variant))
    return pd.concat(frames, ignore_index=True)


def _attributions(
    stack: MLPStack, config: NonlocalityConfig, task: Sequence[int]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    x, labels = held_out(config, task, SCORE_SEED, range(stack.n_runs), stack.weights[0].device)
    activations, above = {}, x
    for group, weight, bias in zip(stack.units, stack.weights, stack.biases):  # the last layer has no units
        above = activations[group.name] = torch.baddbmm(bias, above, weight).relu()
    losses = cross_entropy(torch.baddbmm(stack.biases[-1], above, stack.weights[-1]), labels)[0]
    parameters = dict(stack.named_parameters())
    gradients = torch.autograd.grad(losses.sum(), [*activations.values(), *parameters.values()])
    of_activations = dict(zip(activations, gradients))
    of_mean = dict(zip(parameters, (gradient / config.n_samples for gradient in gradients[len(activations) :])))
    for variant in ("signed", "per_weight"):
        yield variant, attribution_scores(stack.units, parameters, [of_mean], variant=variant)
    yield "activation x gradient", activation_gradient_scores(activations, of_activations)


def agreement(scores: pd.DataFrame, attributions: pd.DataFrame) -> pd.DataFrame:
    """Correlation of attribution with ablation scores over the neurons of a network, by task and variant.

    Parameters
    ----------
    scores, attributions : DataFrame
        See `narrowlib.chapters.two_trees.nonlocality.neuron_scores` and `neuron_attributions`; of one width, or with a
        column ``width``.

    Returns
    -------
    DataFrame
        One row per network, task and variant: ``pearson`` (Pearson's r), ``pearson_log`` (between the logarithms, of
        the neurons where neither score is zero), ``spearman`` (rank correlation), ``n_neurons``, ``n_positive``
        (those with logarithms).
    """
    network = [name for name in ("width", "seed") if name in scores]
    both = paired(scores, attributions)
    rows = []
    for about, frame in both.groupby([*network, "task", "variant"], sort=False):
        pair = [torch.tensor(frame[name].to_numpy()) for name in ("attribution", "ablation")]
        counts = {"n_neurons": len(frame), "n_positive": int((torch.stack(pair) > 0).all(0).sum())}
        rows.append(dict(zip([*network, "task", "variant"], about)) | of_units(*pair)._asdict() | counts)
    return pd.DataFrame(rows)


def paired(scores: pd.DataFrame, attributions: pd.DataFrame) -> pd.DataFrame:
    """Both scores of every neuron in one row: the keys, ``variant``, ``ablation`` and ``attribution`` in bits."""
    keys = [name for name in ("width", "seed", "layer", "neuron", "task") if name in scores]
    left = scores[[*keys, "score"]].rename(columns={"score": "ablation"})
    right = attributions[[*keys, "variant", "score"]].rename(columns={"score": "attribution"})
    return left.merge(right, on=keys, validate="one_to_many")
