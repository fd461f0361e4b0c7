"""The members of a stack as networks of torch's own layers."""

from functools import partial

import torch
from torch import nn

from narrowlib.cmsp import CMSP, broad_tasks, sample_batch
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import TrainingConfig, make_generators, train_stack


def as_sequential(stack, run):
    layers = []
    for weight, bias in zip(stack.weights, stack.biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[2])
        linear.weight.data, linear.bias.data = weight[run].detach().T.clone(), bias[run, 0].detach().clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def assert_same_parameters(stack, run, other, its_run):
    for a, b in zip(stack.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a[run], b[its_run], rtol=1e-3, atol=1e-4)


PROBLEM = CMSP(2, 2, 8, broad_tasks(2))
SIZES = (PROBLEM.n_inputs, 16, 16, 2)


def train(seeds, n_steps=60, record_every=20, batch_size=32, **more):
    generators = make_generators(seeds, "cpu")
    stack = MLPStack(SIZES, generators)
    draw_batch = partial(sample_batch, PROBLEM, batch_size)
    config = TrainingConfig(n_steps=n_steps, learning_rate=3e-3, record_every=record_every)
    return train_stack(stack, draw_batch, generators, config, progress=False, **more), stack


def noted_trainings(monkeypatch, *modules):
    """A list that gets the description of every training that these modules begin."""
    noted, train = [], modules[0].train_stack
    for module in modules:
        monkeypatch.setattr(module, "train_stack", lambda *a, **k: noted.append(k["description"]) or train(*a, **k))
    return noted
