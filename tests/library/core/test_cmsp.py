"""Properties of the synthetic task, straight from its definition."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from narrowlib.cmsp import CMSP, broad_tasks, parity_labels, sample_batch, task_name


@st.composite
def problems(draw):
    """Problems of every legal shape, owners of positions scattered, tasks in any order."""
    n_subtasks, subset_size = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    n_task_bits = n_subtasks * subset_size + draw(st.integers(0, 60))
    order = draw(st.permutations(range(n_task_bits)))
    subsets = [order[i * subset_size : (i + 1) * subset_size] for i in range(n_subtasks)]
    task = st.sets(st.integers(0, n_subtasks - 1), min_size=1).map(lambda members: tuple(sorted(members)))
    tasks = draw(st.lists(task, min_size=1, max_size=4, unique=True))
    return CMSP(n_subtasks, subset_size, n_task_bits, tasks, subsets)


def draw(problem, batch_size=40, seed=0):
    x, y = sample_batch(problem, batch_size, [torch.Generator().manual_seed(seed)])
    return x[0], y[0]


@given(problems(), st.integers(0, 10**6))
@example(CMSP(1, 4, 4, [(0,)]), 0)  # every task bit counts
@example(CMSP(2, 32, 64, [(0, 1)]), 0)  # of a whole word
@settings(max_examples=60, deadline=None)
def test_sampled_labels_obey_the_definition(problem, seed):
    x, y = draw(problem, seed=seed)
    assert x.shape == (problem.n_tasks, 40, problem.n_inputs) and y.shape == (problem.n_tasks, 40)
    assert ((x == 0) | (x == 1)).all()
    assert torch.equal(parity_labels(x, problem).float(), y)


@given(problems(), st.data())
@settings(max_examples=60, deadline=None)
def test_only_bits_of_the_task_flip_the_label(problem, data):
    x, y = draw(problem)
    position = data.draw(st.integers(0, problem.n_task_bits - 1))
    flipped = x.clone()
    flipped[..., problem.n_subtasks + position] = 1 - flipped[..., problem.n_subtasks + position]
    for t, task in enumerate(problem.tasks):
        changed = parity_labels(flipped[t], problem) != y[t]
        assert changed.all() if position in problem.positions(task) else not changed.any()


def test_composite_is_the_exclusive_or_of_its_atomics():
    problem = CMSP(3, 4, 20, [(0, 1, 2)])
    x, y = draw(problem, 500)
    parts = []
    for i in range(3):
        alone = x.clone()
        alone[..., :3] = torch.eye(3)[i]
        parts.append(parity_labels(alone, problem))
    assert torch.equal(parts[0] ^ parts[1] ^ parts[2], y.long())


def test_task_bits_and_labels_are_fair_and_independent():
    x, y = draw(CMSP(2, 3, 70, [(0, 1)]), 40_000)  # more than one word of bits
    bits = x[0, :, 2:]
    assert (bits.mean(0) - 0.5).abs().max() < 0.02
    correlations = torch.corrcoef(torch.cat([bits, y[0, :, None]], dim=1).T) - torch.eye(71)
    assert correlations.abs().max() < 0.03  # no pair of bits, and no bit with the label


def test_each_run_draws_from_its_own_generator():
    problem = CMSP(2, 2, 8, [(0,), (0, 1)])
    together, _ = sample_batch(problem, 50, [torch.Generator().manual_seed(seed) for seed in (3, 4)])
    alone, _ = sample_batch(problem, 50, [torch.Generator().manual_seed(4)])
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_names_and_tasks():
    assert broad_tasks(3) == ((0,), (1,), (2,), (0, 1, 2))
    assert task_name((1, 0)) == "{0,1}"
    problem = CMSP(3, 2, 9, broad_tasks(3))
    assert problem.only((2, 0)).tasks == ((0, 2),)
    assert problem.positions((0, 2)) == (0, 1, 4, 5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_subtasks": 0}, "n_subtasks is 0; it must be a whole number of at least 1"),
        ({"n_task_bits": True}, "n_task_bits is True; it must be a whole number"),
        ({"n_task_bits": 5}, "n_task_bits is 5; 2 sub-tasks of 3 bits need at least 6"),
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": [(0, 2)]}, "a task is a set of one or more sub-tasks between 0 and 1"),
        ({"tasks": [(0, 1), (1, 0)]}, "each task may occur only once"),
        ({"subsets": [(0, 1, 2), (2, 3, 4)]}, "the sets must be disjoint"),
        ({"subsets": [(0, 1, 2), (3, 4, 10)]}, "positions must be from 0 to 9"),
        ({"subsets": [(0, 1, 1), (3, 4, 5)]}, "it must hold 2 sets of 3 different positions"),
    ],
)
def test_bad_problems_are_refused_in_words(changes, says):
    good = {"n_subtasks": 2, "subset_size": 3, "n_task_bits": 10, "tasks": [(0, 1)]}
    with pytest.raises(ValueError, match=says):
        CMSP(**{**good, **changes})
