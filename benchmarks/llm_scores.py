"""Scores of a language model's neurons: ablation against zeroing and running again, attribution against gradients."""

from __future__ import annotations

import copy
import ctypes
import gc
import threading
from collections.abc import Callable
from functools import partial

import psutil
import torch
from torch import Tensor, nn

from benchmarks.harness import Row, measure_side_by_side, size_of
from benchmarks.language_model import default_model, name_of, random_blocks
from narrowlib.devices import pick_device
from narrowlib.llm.ablation import ablation_losses
from narrowlib.llm.scores import score_units
from narrowlib.llm.units import llama_units
from narrowlib.pruning import ablated
from narrowlib.units import UnitGroup, unit_sums

N_TOKENS = {"cpu": (1, 128), "cuda": (8, 1024), "smoke": (2, 16)}  # sequences and their length
NEURONS_PER_LAYER = {"cpu": 2, "cuda": 8, "smoke": 1}
BASELINE_LAYERS = 3  # the lowest, the middle and the highest: the baseline takes as long in each
REPEATS = 3
MIB = 2**20


def llm_ablation() -> list[Row]:
    """Neurons ablated per second, spread over all layers, and the memory that it takes beside the model.

    The first row is against zeroing a neuron's weights in place and running everything again, the others against a copy
    of the model for each neuron.
    """
    device = pick_device("auto")
    model = default_model(device).model
    groups, ids = llama_units(model, "neurons"), random_blocks(model, N_TOKENS[size_of(device)])
    drawn = torch.Generator().manual_seed(0)
    units = {g.name: torch.randint(g.n_units, (NEURONS_PER_LAYER[size_of(device)],), generator=drawn) for g in groups}
    sampled = [(group, int(units[group.name][0])) for group in groups[:: (len(groups) - 1) // (BASELINE_LAYERS - 1)]]
    ours = partial(ablation_losses, model, groups, [ids], units, progress=False)
    n_ours, rows = sum(map(len, units.values())), []
    for name, baseline in (("llm-ablation", zero_and_rerun), ("llm-ablation-copy", copy_and_run)):
        by_hand = partial(baseline, model, sampled, ids)
        fast, slow, ratio = measure_side_by_side(ours, by_hand, repeats=REPEATS)
        speeds = n_ours / fast, len(sampled) / slow
        rows.append(Row(name, *speeds, "neurons/s", ratio * n_ours / len(sampled), name_of(model), REPEATS))
    memory = [peak_bytes(run, device) / MIB for run in (ours, partial(copy_and_run, model, sampled, ids))]
    rows.append(Row("llm-ablation-memory", *memory, "MiB at most", memory[1] / memory[0], name_of(model), 1))
    return rows


def llm_attribution() -> list[Row]:
    """Signed scores of all neurons: seconds of a pass over two batches, from activations or from gradients of weights.

    The last column is how many times faster ours is: at least 1.33 for at most 0.75 of the time.
    """
    device = pick_device("auto")
    model = default_model(device).model
    groups = llama_units(model, "neurons")
    batches = [random_blocks(model, N_TOKENS[size_of(device)], seed=seed) for seed in range(2)]
    measured = measure_side_by_side(
        lambda: score_units(model, groups, batches, progress=False),
        lambda: attribution_by_weights(model, groups, batches),
        repeats=REPEATS,
    )
    memory = [
        peak_bytes(run, device) / MIB
        for run in (
            partial(score_units, model, groups, batches, progress=False),
            partial(attribution_by_weights, model, groups, batches),
        )
    ]
    return [
        Row("llm-attribution", *measured[:2], "s", measured[2], name_of(model), REPEATS),
        Row("llm-attribution-memory", *memory, "MiB at most", memory[1] / memory[0], name_of(model), 1),
    ]


@torch.no_grad()
def zero_and_rerun(model: nn.Module, sampled: list[tuple[UnitGroup, int]], ids: Tensor) -> list[float]:
    """The baseline: a neuron's weights at zero, the whole model run, its loss read, the weights put back."""
    losses = []
    for group, unit in sampled:
        parameters = {each.parameter: model.get_parameter(each.parameter) for each in group.slices}
        kept = [parameters[each.parameter].select(each.axis, unit).clone() for each in group.slices]
        for each in group.slices:
            parameters[each.parameter].select(each.axis, unit).zero_()
        losses.append(float(model(input_ids=ids, labels=ids, use_cache=False).loss))
        for each, values in zip(group.slices, kept, strict=True):
            parameters[each.parameter].select(each.axis, unit).copy_(values)
    return losses


@torch.no_grad()
def copy_and_run(model: nn.Module, sampled: list[tuple[UnitGroup, int]], ids: Tensor) -> list[float]:
    """The baseline of the paper's code: a copy of the model for each neuron."""
    losses = []
    for group, unit in sampled:
        mask = torch.arange(group.n_units, device=ids.device) != unit
        with ablated(copy.deepcopy(model), [group], {group.name: mask}) as without:
            losses.append(float(without(input_ids=ids, labels=ids, use_cache=False).loss))
    return losses


def attribution_by_weights(model: nn.Module, groups: tuple[UnitGroup, ...], batches: list[Tensor]) -> dict[str, Tensor]:
    """The baseline: gradients of all weights, summed up over the batches, times the weights."""
    model.zero_grad()
    for ids in batches:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    scores = {group.name: unit_sums(group, parameters, gradients, of=torch.mul).abs() for group in groups}
    model.zero_grad()
    return scores


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most memory that a call holds at any time beyond what was held before it; on a CPU looked at every 2 ms."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps what was freed, and would hand it out unseen
    if trim is not None:
        trim(0)
    process, is_over, seen = psutil.Process(), threading.Event(), []

    def watch() -> None:
        while not is_over.wait(0.002):
            seen.append(process.memory_info().rss)

    before = process.memory_info().rss
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        run()
    finally:
        is_over.set()
        thread.join()
    return max([before, *seen]) - before
