"""Training on CMSP at the setting of the paper's Fig 2, against a loop as one writes it by hand."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import nn

from benchmarks.harness import Row, measure_side_by_side, seconds_of
from narrowlib.cmsp import CMSP, sample_batch
from narrowlib.experiments.hierarchy import HierarchyConfig, Setting
from narrowlib.gradients import PRECISIONS
from narrowlib.models import MLPStack
from narrowlib.records import provenance
from narrowlib.training import TrainingConfig, make_generators, pick_device, runs_per_chunk, train_stack

CPU_STEPS, GPU_STEPS = 20, 100  # of one repeat
GPU_RUNS = 40


def cmsp_train() -> Row:
    """Broad training, depth 3: seed-steps per second."""
    return _compare("cmsp-train", HierarchyConfig().settings[0])


def cmsp_train_narrow() -> Row:
    """Narrow training, depth 3: seed-steps per second."""
    return _compare("cmsp-train-narrow", HierarchyConfig().settings[1])


def _compare(name: str, setting: Setting) -> Row:
    device = pick_device("auto")
    is_gpu = device.type == "cuda"
    n_steps = GPU_STEPS if is_gpu else CPU_STEPS
    batch_size = HierarchyConfig().batch_size
    n_runs = min(GPU_RUNS, runs_per_chunk(setting.sizes, setting.problem.n_tasks * batch_size, device)) if is_gpu else 1
    repeats = 7
    precision = min(
        PRECISIONS, key=lambda name: seconds_of(train_ours, setting, n_runs, batch_size, n_steps, device, name)
    )
    ours, baseline, ratio = measure_side_by_side(
        lambda: train_ours(setting, n_runs, batch_size, n_steps, device, precision),
        lambda: train_by_hand(setting.problem, setting.sizes, batch_size, n_steps, device),
        repeats=repeats,
    )
    return Row(
        name=name,
        ours=n_runs * n_steps / ours,
        baseline=n_steps / baseline,
        unit="seed-steps/s",
        ratio=ratio * n_runs,
        device=f"{provenance(device)['device']}, {precision}",
        repeats=repeats,
    )


def train_ours(
    setting: Setting, n_runs: int, batch_size: int, n_steps: int, device: torch.device, precision: str
) -> None:
    """The library's own loop."""
    generators = make_generators(range(n_runs), device)
    stack = MLPStack(setting.sizes, generators)
    draw_batch = partial(sample_batch, setting.problem, batch_size, dtype=PRECISIONS[precision])
    config = TrainingConfig(n_steps, record_every=n_steps, precision=precision)
    train_stack(stack, draw_batch, generators, config, progress=False)


def train_by_hand(problem: CMSP, sizes: tuple[int, ...], batch_size: int, n_steps: int, device: torch.device) -> None:
    """The baseline: one network, and after every step the loss of each task on a batch of its own, read at once."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    network = nn.Sequential(*layers[:-1]).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-5)
    history = []
    for _ in range(n_steps):
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
