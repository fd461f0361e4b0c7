"""Training on CMSP at the setting of the paper's Fig 2, against a loop as one writes it by hand."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import nn

from benchmarks.harness import Row, measure_side_by_side, seconds_of, size_of
from narrowlib.chapters.hierarchy.config import HierarchyConfig, Setting
from narrowlib.cmsp import CMSP, CMSPSampler
from narrowlib.devices import pick_device, pick_dtype
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import TrainingConfig, make_generators, train_stack
from narrowlib.store.provenance import provenance

N_STEPS = {"cpu": 20, "cuda": 2_000, "smoke": 40}  # of one repeat; on a GPU many more than capturing a graph takes
N_RUNS = {"cpu": (1, 4, 16), "cuda": (1, 4, 16, 40, 160), "smoke": (1, 2)}  # side by side, for the cost of more runs
FIG_2_RUNS = {"cpu": 1, "cuda": 40, "smoke": 2}
REPEATS = 7
MATMUL_SIZE = {"cpu": 2048, "cuda": 8192, "smoke": 64}  # large enough to reach the device's rate
BATCH_SIZE = dict.fromkeys(("cpu", "cuda"), HierarchyConfig().batch_size) | {"smoke": 8}
BROAD, NARROW, *_ = HierarchyConfig().settings


def cmsp_train() -> list[Row]:
    """Broad training, depth 3: seed-steps per second."""
    return [_against_baseline("cmsp-train", BROAD)]


def cmsp_train_narrow() -> list[Row]:
    """Narrow training, depth 3: seed-steps per second."""
    return [_against_baseline("cmsp-train-narrow", NARROW)]


def cmsp_train_runs() -> list[Row]:
    """Broad training with more and more runs side by side, each against a single run."""
    device = pick_device("auto")
    precision = _faster_precision(BROAD, 1, device)
    rows = []
    for n_runs in N_RUNS[size_of(device)][1:]:
        many = partial(train_ours, BROAD, n_runs, device, precision)
        one = partial(train_ours, BROAD, 1, device, precision)
        ours, baseline, ratio = measure_side_by_side(many, one, repeats=REPEATS)
        n_steps = N_STEPS[size_of(device)]
        speeds = n_runs * n_steps / ours, n_steps / baseline, n_runs * ratio
        rows.append(_row(f"cmsp-train-runs-{n_runs}", *speeds, "seed-steps/s", device, precision))
    return rows


def cmsp_train_flops() -> list[Row]:
    """Arithmetic of broad training per second, against the rate of a large matrix product on the same device."""
    device = pick_device("auto")
    of = size_of(device)
    n_runs, size = FIG_2_RUNS[of], MATMUL_SIZE[of]
    precision = _faster_precision(BROAD, n_runs, device)
    a = torch.randn(size, size, device=device).to(pick_dtype(precision, device))
    train = partial(train_ours, BROAD, n_runs, device, precision)
    ours, baseline, _ = measure_side_by_side(train, lambda: a @ a, repeats=REPEATS)
    done = flops_per_step(BROAD.sizes, BROAD.problem.n_tasks * BATCH_SIZE[of]) * n_runs * N_STEPS[of] / ours
    possible = 2 * size**3 / baseline
    return [_row("cmsp-train-flops", done / 1e9, possible / 1e9, done / possible, "GFLOP/s", device, precision)]


def flops_per_step(sizes: tuple[int, ...], n_samples: int) -> int:
    """Multiplications and additions in the matrix products of one step of one run: forward, weights, inputs."""
    products = [fan_in * fan_out for fan_in, fan_out in pairwise(sizes)]
    return 2 * n_samples * (3 * sum(products) - products[0])  # the first layer's inputs need no gradient


def _against_baseline(name: str, setting: Setting) -> Row:
    device = pick_device("auto")
    n_runs = FIG_2_RUNS[size_of(device)]
    precision = _faster_precision(setting, n_runs, device)
    ours, baseline, ratio = measure_side_by_side(
        partial(train_ours, setting, n_runs, device, precision),
        partial(train_by_hand, setting.problem, setting.sizes, device),
        repeats=REPEATS,
    )
    n_steps = N_STEPS[size_of(device)]
    return _row(name, n_runs * n_steps / ours, n_steps / baseline, n_runs * ratio, "seed-steps/s", device, precision)


def _row(name: str, ours: float, baseline: float, ratio: float, unit: str, device: torch.device, precision: str) -> Row:
    return Row(name, ours, baseline, unit, ratio, f"{provenance(device)['device']}, {precision}", REPEATS)


def _faster_precision(setting: Setting, n_runs: int, device: torch.device) -> str:
    for precision in ("float32", "bfloat16"):  # whatever starts up at a first call does so here
        train_ours(setting, n_runs, device, precision)
    return min(
        ("float32", "bfloat16"), key=lambda precision: seconds_of(train_ours, setting, n_runs, device, precision)
    )


def train_ours(setting: Setting, n_runs: int, device: torch.device, precision: str) -> None:
    """The library's own loop."""
    generators = make_generators(range(n_runs), device)
    stack = MLPStack(setting.sizes, generators)
    of = size_of(device)
    draw_batch = CMSPSampler(setting.problem, BATCH_SIZE[of], pick_dtype(precision, device))
    n_steps = N_STEPS[of]
    config = TrainingConfig(n_steps=n_steps, record_every=n_steps, precision=precision)
    train_stack(stack, draw_batch, generators, config, progress=False)


def train_by_hand(problem: CMSP, sizes: tuple[int, ...], device: torch.device) -> None:
    """The baseline: one network, and after every step the loss of each task on a batch of its own, read at once."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    network = nn.Sequential(*layers[:-1]).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-5)
    history, batch_size = [], BATCH_SIZE[size_of(device)]
    for _ in range(N_STEPS[size_of(device)]):
        batches = [_plain_batch(problem, task, batch_size, device) for task in problem.tasks]
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        loss = nn.functional.cross_entropy(network(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for task in problem.tasks:
                x, y = _plain_batch(problem, task, batch_size, device)
                history.append(nn.functional.cross_entropy(network(x), y).item())


def _plain_batch(
    problem: CMSP, task: tuple[int, ...], size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    control = torch.zeros(size, problem.n_subtasks, device=device)
    control[:, list(task)] = 1
    bits = torch.randint(0, 2, (size, problem.n_task_bits), device=device)
    labels = bits[:, list(problem.positions(task))].sum(1) % 2
    return torch.cat([control, bits.float()], dim=1), labels
