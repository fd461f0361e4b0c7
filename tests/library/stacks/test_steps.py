"""Many steps at a time are the same steps; what cannot be captured is still done."""

from contextlib import nullcontext

import pytest
import torch

from narrowlib.cmsp import CMSP, CMSPSampler, broad_tasks, sample_batch
from narrowlib.stacks import steps
from narrowlib.stacks.gradients import cross_entropy
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.steps import STEPS_PER_GRAPH, Sampler, StackSteps
from narrowlib.stacks.training import make_generators

PROBLEM = CMSP(2, 2, 8, broad_tasks(2))
N_STEPS = 3 * STEPS_PER_GRAPH + 5


def take(n_steps, *, can_capture, device="cpu"):
    generators = make_generators((0, 1), device)
    stack = MLPStack((PROBLEM.n_inputs, 16, 2), generators)
    adam = torch.optim.Adam(stack.parameters(), lr=3e-3, fused=True, capturable=device == "cuda")
    sampler = CMSPSampler(PROBLEM, 32)
    walk = StackSteps(stack, adam, generators, sampler, precision="float32", loss=cross_entropy)
    walk.can_capture = can_capture
    return walk.run(n_steps), walk.run(7), stack


def assert_same_steps(first, second, **tolerance):
    for a, b in zip((*first[:2], *first[2].parameters()), (*second[:2], *second[2].parameters()), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("can_be_captured", [True, False])
def test_portions_are_the_same_steps(monkeypatch, can_be_captured):
    """The bookkeeping of a captured portion, with its work done again in place of a graph's replay."""
    captured = []

    def capture(work):
        captured.append(work)
        if not can_be_captured:
            raise RuntimeError("operation not permitted when stream is capturing")
        return work

    monkeypatch.setattr(steps, "capture", capture)
    warns = nullcontext() if can_be_captured else pytest.warns(UserWarning, match="one by one.*not permitted")
    with warns:
        portions = take(N_STEPS, can_capture=True)
    assert len(captured) == 1
    assert_same_steps(portions, take(N_STEPS, can_capture=False), rtol=0, atol=0)


@pytest.mark.gpu
def test_a_graph_replays_the_same_steps(monkeypatch):
    captured = take(N_STEPS, can_capture=True, device="cuda")
    monkeypatch.setattr(StackSteps, "_captured", lambda self: self._steps_of_portion)
    assert_same_steps(captured, take(N_STEPS, can_capture=True, device="cuda"), rtol=1e-4, atol=1e-5)


def test_drawing_ahead_gives_the_same_batches():
    sampler = CMSPSampler(PROBLEM, 10)
    assert isinstance(sampler, Sampler) and not isinstance(lambda generators: None, Sampler)
    ahead = sampler.draw(3, make_generators((0, 1), "cpu"))
    generators = make_generators((0, 1), "cpu")
    for number in range(3):
        expected = sample_batch(PROBLEM, 10, generators)
        for a, b in zip(sampler.assemble(ahead[:, number]), expected, strict=True):
            assert torch.equal(a, b)
