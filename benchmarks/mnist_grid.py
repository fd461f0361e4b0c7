"""A grid of group lasso runs on MNIST, side by side, against a loop of one run after another with a DataLoader."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import Row, measure_side_by_side, size_of
from narrowlib.chapters.mnist.config import EVEN, N_CLASSES, Config, MnistConfig
from narrowlib.chapters.mnist.lasso import shrink
from narrowlib.data.digits import Digits, mnist_digits
from narrowlib.devices import pick_device
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import make_generators
from narrowlib.store.provenance import provenance

WIDTH = {"cpu": 1_200, "cuda": 1_200, "smoke": 16}
BATCH_SIZE, MAX_NORM = 16, 1.0
N_STEPS = {"cpu": 50, "cuda": 300, "smoke": 40}  # of every run of the grid
SOME_STRENGTHS, SOME_RATES, SOME_REPEATS = (4e-3, 8e-3), (1e-3, 3e-3), 1
BASELINE_RUNS = 1  # of them; the others would take as long
N_TEST = 16  # test digits: steps are measured, not looks at accuracy, which the baseline does without
REPEATS = 5


def mnist_grid() -> list[Row]:
    """Run-steps per second of the grid of group lasso: the paper's on a GPU, a part of it on the CPU."""
    device = pick_device("auto")
    config = grid(device)
    even = mnist_digits(device).only(EVEN)
    even = replace(even, test_images=even.test_images[:N_TEST], test_labels=even.test_labels[:N_TEST])
    width = WIDTH[size_of(device)]
    start = MLPStack((even.train_images.shape[1], width, width, N_CLASSES), make_generators((0,), device))
    lasso, n_steps = config.lasso, config.lasso.method.max_points // BATCH_SIZE
    cases = list(product(lasso.strengths, lasso.method.learning_rates, range(lasso.method.n_repeats)))
    strength, rate, _ = cases[0]
    ours, baseline, ratio = measure_side_by_side(
        lambda: shrink(config, start, even, cases, progress=False),
        lambda: shrink_by_hand(start, even, strength, rate, n_steps, device),
        repeats=REPEATS,
    )
    speeds = len(cases) * n_steps / ours, BASELINE_RUNS * n_steps / baseline
    name = f"{provenance(device)['device']}, float32"
    return [Row("mnist-grid", *speeds, "run-steps/s", ratio * len(cases) / BASELINE_RUNS, name, REPEATS)]


def grid(device: torch.device) -> MnistConfig:
    """Settings for a fixed number of steps: no target is small enough to end a run."""
    of = size_of(device)
    config = Config(lasso_neurons=2, max_points=N_STEPS[of] * BATCH_SIZE)
    if of == "cuda":
        return config.comparison
    some = {"lasso_rates": SOME_RATES, "lasso_strengths": SOME_STRENGTHS, "n_repeats": SOME_REPEATS}
    return config.replace(**some).comparison


class Pictures(Dataset):
    """Digits one by one, as a DataLoader asks for them."""

    def __init__(self, even: Digits) -> None:
        self.images, self.labels = even.train_images.cpu(), even.train_labels.cpu()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.images[number], self.labels[number]


def shrink_by_hand(
    start: MLPStack, even: Digits, strength: float, rate: float, n_steps: int, device: torch.device
) -> None:
    """The baseline: one network of torch's layers, the penalty by autograd, batches from a DataLoader."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(start.sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    network = nn.Sequential(*layers[:-1]).to(device)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer, weight, bias in zip(linear, start.weights, start.biases, strict=True):
            layer.weight.copy_(weight[0].T)
            layer.bias.copy_(bias[0, 0])
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    batches = iter(DataLoader(Pictures(even), batch_size=BATCH_SIZE, shuffle=True))
    for _ in range(n_steps):
        x, labels = (tensor.to(device) for tensor in next(batches))
        loss = nn.functional.cross_entropy(network(x), labels)
        for below, above in pairwise(linear):
            squares = below.weight.square().sum(1) + above.weight.square().sum(0)
            loss = loss + strength * squares.sqrt().sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimiser.step()
