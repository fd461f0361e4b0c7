"""Claim M1: a teacher of all ten digits, and three methods without a penalty for a network of the even ones.

From scratch, by distillation, and by pruning the teacher at once; the fourth is `narrowlib.chapters.mnist.lasso`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from narrowlib.chapters.mnist.config import (
    N_CLASSES,
    SCORE_BATCHES,
    MethodConfig,
    MnistConfig,
    Outcome,
    TeacherConfig,
    recover_to_goal,
)
from narrowlib.data.digits import Digits
from narrowlib.pruning import keep_masks, slice_state
from narrowlib.scores import activation_gradient_scores
from narrowlib.stacks.gradients import LossAndGradient, distillation_loss
from narrowlib.stacks.networks import MLPStack, accuracies
from narrowlib.stacks.training import labelled, make_generators
from narrowlib.store.kept import Kept
from narrowlib.store.unfinished import check_loss


def train_teacher(config: TeacherConfig, digits: Digits, *, progress: bool = True) -> MLPStack:
    """Train on all digits, with dropout after both hidden layers; the epoch with the best test accuracy is returned."""
    device = digits.train_images.device
    (generator,) = make_generators([config.seed], device)
    stack = MLPStack((digits.train_images.shape[1], config.width, config.width, N_CLASSES), [generator])
    rates = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    optimiser = torch.optim.Adam(stack.parameters(), fused=True, **rates)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, mode="max", factor=0.5, patience=config.patience)
    n_train, best, best_state = len(digits.train_labels), 0.0, {}
    with tqdm(total=config.n_epochs, desc="teacher", unit="epoch", disable=not progress) as bar:
        for epoch in range(1, config.n_epochs + 1):
            order = torch.randperm(n_train, generator=generator, device=device)
            for rows in order.split(config.batch_size):
                logits = _with_dropout(stack, digits.train_images[rows], config.dropout, generator)
                loss = F.cross_entropy(logits, digits.train_labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            found = accuracies(stack, digits.test_images, digits.test_labels)
            last, accuracy = torch.cat([loss.detach()[None], found]).tolist()  # one look at the device
            check_loss(last, epoch * n_train // config.batch_size, config.learning_rate)
            plateau.step(accuracy)
            bar.update()
            if accuracy >= best:
                best, best_state = accuracy, {name: t.detach().clone() for name, t in stack.state_dict().items()}
            if accuracy >= config.enough:
                break
    return MLPStack.from_state(best_state)


def kept_teacher(config: TeacherConfig, digits: Digits, store: Kept, *, progress: bool = True) -> MLPStack:
    """The teacher of these digits, trained where the store does not hold it yet."""

    def train() -> dict[str, Tensor]:
        return train_teacher(config, digits, progress=progress).state_dict()

    return MLPStack.from_state(store.keep("teacher", train, inputs=[digits.train_images, digits.train_labels]))


def _with_dropout(stack: MLPStack, x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Logits of the only run, with autograd: (batch, inputs) to (batch, classes)."""
    for weight, bias in zip(stack.weights[:-1], stack.biases[:-1], strict=True):
        x = torch.addmm(bias[0], x, weight[0]).relu()
        is_kept = torch.rand(x.shape, generator=generator, device=x.device) >= rate
        x = x * is_kept / (1 - rate)
    return torch.addmm(stack.biases[-1][0], x, stack.weights[-1][0])


def from_scratch(config: MnistConfig, even: Digits, *, progress: bool = True) -> Outcome:
    """Networks of every size, from random weights, on the true labels."""
    start = partial(random_networks, config.seeds("from scratch", config.scratch.n_repeats), even)
    return recovered("from scratch", config, config.scratch, even, start, progress=progress)


def distil(config: MnistConfig, teacher: MLPStack, even: Digits, *, progress: bool = True) -> Outcome:
    """Networks of every size, from random weights, that imitate the teacher's outputs on the even digits."""
    with torch.no_grad():
        wanted = torch.cat([teacher(block[None])[0] for block in even.train_images.split(4096)])  # (n, classes)

    def loss(logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        labels = even.train_labels[rows]
        return distillation_loss(logits, wanted[rows], labels, config.temperature, config.hard_weight)

    start = partial(random_networks, config.seeds("distillation", config.distillation.n_repeats), even)
    return recovered("distillation", config, config.distillation, even, start, loss, progress=progress)


def prune_by_attribution(config: MnistConfig, teacher: MLPStack, even: Digits, *, progress: bool = True) -> Outcome:
    """Cut the teacher to every size at once, by attribution scores on even digits, and train what is left.

    Every repeat has its own samples for the scores, and they count as data.
    """
    n_scored = SCORE_BATCHES * config.attribution.step.batch_size
    n_repeats = config.attribution.n_repeats
    scores = attribution(teacher, even, n_scored, config.seeds("attribution", n_repeats))
    start = partial(cut_by, scores, teacher, n_repeats)
    return recovered("attribution", config, config.attribution, even, start, progress=progress, n_before=n_scored)


def cut_by(scores: Mapping[str, Tensor], teacher: MLPStack, n_repeats: int, neurons: int) -> MLPStack:
    """The teacher's neurons of the highest scores, as many in each layer: one network per repeat.

    Parameters
    ----------
    scores : mapping of str to Tensor, shape (n_repeats, n_units)
        By the names of the teacher's units.
    """
    masks = keep_masks(scores, n_kept=neurons // 2, scope="per_layer")
    state = {name: t.detach().expand(n_repeats, -1, -1) for name, t in teacher.state_dict().items()}
    return MLPStack.from_state(slice_state(state, MLPStack.from_state(state).units, masks))


def attribution(network: MLPStack, digits: Digits, n_samples: int, seeds: Sequence[int]) -> dict[str, Tensor]:
    """Activation times gradient of every neuron, in absolute value, averaged over samples: a row of scores per seed."""
    device, scores = digits.train_images.device, []
    for generator in make_generators(seeds, device):
        n = len(digits.train_labels)
        rows = torch.randperm(n, generator=generator, device=device)[:n_samples]
        hidden = hidden_activations(network, digits.train_images[rows][None])
        logits = torch.baddbmm(network.biases[-1], hidden[-1], network.weights[-1])
        losses = F.cross_entropy(logits[0], digits.train_labels[rows], reduction="sum")
        names = [group.name for group in network.units]
        found = dict(zip(names, torch.autograd.grad(losses, hidden), strict=True))
        activations = {name: tensor.detach() for name, tensor in zip(names, hidden, strict=True)}
        scores.append(activation_gradient_scores(activations, found, absolute="inside"))
    return {name: torch.cat([each[name] for each in scores]) for name in scores[0]}


def hidden_activations(stack: MLPStack, x: Tensor) -> list[Tensor]:
    """Activations of every hidden layer, with the graph from each to the next: (runs, samples, width)."""
    hidden = []
    for weight, bias in zip(stack.weights[:-1], stack.biases[:-1], strict=True):
        x = torch.baddbmm(bias, x, weight).relu()
        hidden.append(x)
    return hidden


def random_networks(seeds: Sequence[int], even: Digits, neurons: int) -> MLPStack:
    """Networks with random weights, half of the neurons in each layer: one per seed."""
    sizes = (even.train_images.shape[1], neurons // 2, neurons // 2, N_CLASSES)
    return MLPStack(sizes, make_generators(seeds, even.train_images.device))


def recovered(
    name: str,
    config: MnistConfig,
    method: MethodConfig,
    even: Digits,
    start: Callable[[int], MLPStack],
    loss: LossAndGradient | None = None,
    *,
    n_before: int = 0,
    progress: bool = True,
) -> Outcome:
    """Train the networks that ``start`` makes of a number of neurons, one per repeat, with every learning rate.

    Without a ``loss``, on the true labels; ``n_before`` samples were seen before.
    """
    loss = labelled(even.train_labels) if loss is None else loss
    frames, networks = [], {}
    labels = [(rate, repeat) for rate in method.learning_rates for repeat in range(method.n_repeats)]
    for neurons in method.neurons:
        values = start(neurons).state_dict().items()
        copies = {key: tensor.detach().repeat(len(method.learning_rates), 1, 1) for key, tensor in values}
        stack = MLPStack.from_state(copies)
        ends = recover_to_goal(
            name, config, method, even, stack, loss, labels, [n_before] * len(labels), neurons, progress
        )
        networks[neurons] = stack
        frames.append(ends.assign(strength=float("nan")))
    return Outcome(pd.concat(frames, ignore_index=True), networks)
