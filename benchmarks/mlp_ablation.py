"""Ablation of every neuron of a network, against a copy of the model for each."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Row, measure_side_by_side, size_of
from narrowlib.cmsp import CMSP, sample_batch
from narrowlib.devices import pick_device
from narrowlib.stacks.gradients import cross_entropy
from narrowlib.stacks.networks import MLPStack, losses_without_neurons
from narrowlib.stacks.training import make_generators
from narrowlib.store.provenance import provenance

WIDTH = {"cpu": 512, "cuda": 512, "smoke": 16}
N_SAMPLES = {"cpu": 2_000, "cuda": 2_000, "smoke": 20}
BASELINE_NEURONS = 16  # of each layer; the others would take as long
REPEATS = 5


def mlp_ablation() -> list[Row]:
    """Neurons ablated per second: both hidden layers of a network of width 512, on 2,000 samples of {0,1,2}."""
    device = pick_device("auto")
    width, n_samples = WIDTH[size_of(device)], N_SAMPLES[size_of(device)]
    problem = CMSP(n_subtasks=6, subset_size=3, n_task_bits=18, tasks=[(0, 1, 2)])
    generators = make_generators((0,), device)
    stack = MLPStack((problem.n_inputs, width, width, 2), generators)
    x, labels = (tensor.squeeze(1) for tensor in sample_batch(problem, n_samples, generators))  # (1, samples, ...)
    ours, baseline, ratio = measure_side_by_side(
        lambda: losses_without_neurons(stack, x, labels, cross_entropy),
        lambda: ablate_by_copying(stack, x, labels.long()),
        repeats=REPEATS,
    )
    n_ours, n_baseline = 2 * width, 2 * BASELINE_NEURONS
    speeds = n_ours / ours, n_baseline / baseline
    name = f"{provenance(device)['device']}, float32"
    return [Row("mlp-ablation", *speeds, "neurons/s", ratio * n_ours / n_baseline, name, REPEATS)]


@torch.no_grad()
def ablate_by_copying(stack: MLPStack, x: Tensor, labels: Tensor) -> list[float]:
    """The baseline: copy the model, set one neuron to zero, run it, read the loss."""
    losses = []
    for layer in range(stack.depth - 1):
        for neuron in range(0, stack.sizes[1], stack.sizes[1] // BASELINE_NEURONS):
            model = copy.deepcopy(stack)
            model.weights[layer][:, :, neuron] = 0
            model.biases[layer][:, :, neuron] = 0
            model.weights[layer + 1][:, neuron] = 0
            losses.append(F.cross_entropy(model(x).flatten(0, 1), labels.flatten()).item())
    return losses
