"""Small networks, many at once: R independent MLPs whose weights are batched tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLPStack(nn.Module):
    r"""R independent ReLU networks of one shape, evaluated by batched matrix products.

    Run r computes, with :math:`h_0 = x`,

    .. math:: h_{l} = \mathrm{relu}(h_{l-1} W_{r,l} + b_{r,l}), \qquad z = h_{L-1} W_{r,L} + b_{r,L}

    Parameters
    ----------
    sizes : sequence of int
        Widths from input to output, ``(68, 128, 128, 2)``.  The *depth* of the paper is the number L of
        linear layers, ``len(sizes) - 1``.
    generators : sequence of torch.Generator
        One per run; weights and biases of run r are drawn from generator r alone, uniform between
        plus and minus ``1 / sqrt(fan_in)`` (the default of ``torch.nn.Linear``).

    Attributes
    ----------
    weights : ParameterList
        Layer l has shape (n_runs, sizes[l], sizes[l + 1]).
    biases : ParameterList
        Layer l has shape (n_runs, 1, sizes[l + 1]).
    """

    def __init__(self, sizes: Sequence[int], generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        if len(sizes) < 2 or any(size < 1 for size in sizes):
            raise ValueError(f"sizes is {tuple(sizes)}; it must hold two or more widths of at least 1")
        if not generators:
            raise ValueError("generators is empty; a stack needs one generator per run")
        self.sizes = tuple(sizes)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)
            self.weights.append(_uniform((fan_in, fan_out), bound, generators))
            self.biases.append(_uniform((1, fan_out), bound, generators))

    @property
    def n_runs(self) -> int:
        """Number of independent networks."""
        return self.weights[0].shape[0]

    @property
    def depth(self) -> int:
        """Number of linear layers."""
        return len(self.sizes) - 1

    @property
    def n_parameters(self) -> int:
        """Weights and biases of one run."""
        return sum(fan_in * fan_out + fan_out for fan_in, fan_out in pairwise(self.sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every run on its own inputs: (n_runs, batch, inputs) to (n_runs, batch, outputs)."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.baddbmm(bias, x, weight).relu_()  # (runs, batch, width)
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])


def _uniform(shape: tuple[int, int], bound: float, generators: Sequence[torch.Generator]) -> nn.Parameter:
    draws = [torch.empty(shape, device=g.device).uniform_(-bound, bound, generator=g) for g in generators]
    return nn.Parameter(torch.stack(draws))
