"""The members of a stack as networks of torch's own layers."""

import torch
from torch import nn


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
