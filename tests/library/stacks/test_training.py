"""Training on fresh samples: the same as training each run by hand, and the same whoever trains beside it."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from plain_networks import PROBLEM, SIZES, as_sequential, assert_same_parameters, train
from torch.nn import functional as F

from narrowlib.cmsp import sample_batch
from narrowlib.pruning import keep_masks, slice_state
from narrowlib.scores import ablation_scores
from narrowlib.stacks.cohort import runs_per_chunk
from narrowlib.stacks.gradients import cross_entropy
from narrowlib.stacks.networks import MLPStack, losses_without_neurons, predictions
from narrowlib.stacks.training import TrainingConfig, make_generators, record_steps, train_stack
from narrowlib.store.unfinished import DivergedError


def test_stack_member_trains_as_it_would_alone():
    together, stack = train((0, 1, 2))
    for run in range(3):
        alone, single = train((run,))
        torch.testing.assert_close(together[:, run], alone[:, 0], rtol=1e-4, atol=1e-5)
        assert_same_parameters(stack, run, single, 0)


def test_training_is_that_of_a_plain_loop():
    """One run by hand, with torch's own layers, loss and optimiser."""
    losses, stack = train((7,), n_steps=30, record_every=1)
    (generator,) = make_generators((7,), "cpu")
    network = as_sequential(MLPStack(SIZES, [generator]), 0)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3, eps=1e-5)
    for step in range(30):
        x, y = sample_batch(PROBLEM, 32, [generator])
        per_task = torch.stack([F.cross_entropy(network(x[0, t]), y[0, t].long()) for t in range(PROBLEM.n_tasks)])
        torch.testing.assert_close(losses[step, 0], per_task.detach(), rtol=1e-3, atol=1e-4)
        optimiser.zero_grad()
        per_task.mean().backward()
        optimiser.step()
    torch.testing.assert_close(stack.weights[0][0], network[0].weight.T, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("n_steps", "every"), [(10, 5), (11, 5), (3, 5), (1, 1)])
def test_records_cover_every_step_once(n_steps, every):
    steps = record_steps(TrainingConfig(n_steps=n_steps, record_every=every))
    losses, _ = train((0,), n_steps=n_steps, record_every=every)
    assert len(losses) == len(steps) == math.ceil(n_steps / every) and steps[-1] == n_steps
    each, _ = train((0,), n_steps=n_steps, record_every=1)
    last_stretch = each[steps[-2] if len(steps) > 1 else 0 :]
    torch.testing.assert_close(losses[-1], last_stretch.mean(0))


def test_runs_that_leave_stay_as_they_were_and_do_not_disturb_the_others():
    """Runs 1 and 3 leave after the first and second record; the others train on as they would without them."""
    leaving = iter([[1], [3], []])

    def leave(record):
        is_done = torch.zeros(len(record), dtype=torch.bool)
        is_done[next(leaving)] = True
        return is_done

    losses, stack = train((0, 1, 2, 3), leave=leave)
    whole, unbroken = train((0, 1, 2, 3))
    assert losses.isnan().all(-1).tolist() == [[False] * 4, [False, True, False, False], [False, True, False, True]]
    torch.testing.assert_close(losses[:, [0, 2]], whole[:, [0, 2]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses[:2, 3], whole[:2, 3], rtol=1e-4, atol=1e-5)
    for run in (0, 2):
        assert_same_parameters(stack, run, unbroken, run)
    for run, n_steps in ((1, 20), (3, 40)):
        assert_same_parameters(stack, run, train((run,), n_steps=n_steps)[1], 0)


def test_chunks_shrink_with_the_work_and_never_vanish(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert runs_per_chunk((10, 16, 2), 100, cpu) > runs_per_chunk((10, 160, 2), 100, cpu)
    assert runs_per_chunk((10, 16, 2), 10_000, cpu, torch.bfloat16) > runs_per_chunk((10, 16, 2), 10_000, cpu)
    assert runs_per_chunk((1000, 100_000, 2), 10_000, cpu) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert runs_per_chunk((68, 128, 128, 2), 10_000, cpu) == 2  # 26 MB each, of 67 MB
    assert runs_per_chunk((68, 128, 128, 2), 10_000, cpu, torch.bfloat16) == 3  # one per thread
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=2 * 8_000_000))
    assert runs_per_chunk((8, 10, 2), 1_000, gpu) == 50  # half of it by 8 bytes x 20 values x 1,000 samples each
    with pytest.raises(ValueError, match=r"sizes is \(8, 10, 2\) with 1000000 samples per step; one run needs 0.1 GiB"):
        runs_per_chunk((8, 10, 2), 1_000_000, gpu)


def test_penalty_and_constraint_are_applied_at_every_step():
    generators = make_generators((0, 1), "cpu")
    stack = MLPStack(SIZES, generators)
    parameters, calls = dict(stack.named_parameters()), []

    def penalty():
        calls.append(stack.weights[0].grad.norm().item())
        stack.biases[0].grad.fill_(1.0)  # pushes every bias down, whatever the data say

    def constraint():
        parameters["weights.1"].data[:, 3] = 0.0

    before = stack.biases[0].detach().clone()
    hooks = {"penalty": penalty, "constraint": constraint, "progress": False}
    train_stack(stack, partial(sample_batch, PROBLEM, 32), generators, TrainingConfig(n_steps=7), **hooks)
    assert len(calls) == 7 and all(norm > 0 for norm in calls)
    assert (stack.biases[0] < before).all()
    assert (stack.weights[1][:, 3] == 0).all() and (stack.weights[1][:, 4] != 0).all()


@pytest.mark.parametrize(("weight", "rate"), [(None, 1e30), (math.nan, 1e-3), (math.inf, 1e-3)])
def test_a_loss_that_is_no_number_ends_the_training_and_is_no_class(weight, rate):
    generators = make_generators((0, 1), "cpu")
    stack, config = MLPStack(SIZES, generators), TrainingConfig(n_steps=400, record_every=20, learning_rate=rate)
    if weight is not None:
        stack.weights[0].detach()[1] = weight  # of one run
    with pytest.raises(DivergedError, match=r"run [01], is not a finite number after \d+ steps.*learning_rate"):
        train_stack(stack, partial(sample_batch, PROBLEM, 8), generators, config, progress=False)
    stack.biases[-1].detach()[1] = math.nan
    assert (predictions(stack, torch.ones(3, SIZES[0]))[1] == -1).all()


def test_a_dead_network_and_one_without_neurons_have_a_loss_scores_and_a_class():
    generators = make_generators((0, 1), "cpu")
    dead = MLPStack(SIZES, generators)
    for parameter in dead.parameters():
        parameter.detach().zero_()
    x, y = sample_batch(PROBLEM, 8, generators)
    without = losses_without_neurons(dead, x[:, 0], y[:, 0], cross_entropy)
    scores = ablation_scores(torch.full((2,), math.log(2)), without)
    assert all(each.abs().max() < 1e-6 for each in scores.values())
    masks = keep_masks(scores, n_kept=0)
    empty = MLPStack.from_state(slice_state(dead.state_dict(), dead.units, masks))
    for stack in (dead, empty):
        losses = train_stack(
            stack, partial(sample_batch, PROBLEM, 8), generators, TrainingConfig(n_steps=2), progress=False
        )
        assert losses.isfinite().all() and predictions(stack, x[0, 0]).min() >= 0
