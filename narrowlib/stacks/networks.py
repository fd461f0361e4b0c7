"""Small networks, many at once: R independent MLPs whose weights are batched tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from narrowlib.devices import moved
from narrowlib.units import Slice, UnitGroup

CPU_PREDICTION_BYTES, GPU_PREDICTION_BYTES = 16 * 2**20, 2**30  # activations of one block of samples to classify
CPU_BLOCK_BYTES = 4 * 2**20  # activations of one ablated layer that still sit in a laptop's caches
GPU_BLOCK_BYTES = 256 * 2**20  # of the same on a GPU, where many neurons go through the layers above at once


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
            raise ValueError(f"sizes is {tuple(sizes)}; it must hold at least two widths of at least 1")
        if not generators:
            raise ValueError("generators is empty; a stack needs one generator per run")
        self.sizes = tuple(sizes)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)
            self.weights.append(_uniform((fan_in, fan_out), bound, generators))
            self.biases.append(_uniform((1, fan_out), bound, generators))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> MLPStack:
        """The stack with these parameters, as ``state_dict`` names them; it shares their memory."""
        weights = [state[f"weights.{layer}"] for layer in range(len(state) // 2)]
        biases = [state[f"biases.{layer}"] for layer in range(len(weights))]
        stack = cls((1, 1), [torch.Generator()])
        stack.sizes = (weights[0].shape[1], *(weight.shape[2] for weight in weights))
        stack.weights, stack.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        return stack

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

    @property
    def units(self) -> tuple[UnitGroup, ...]:
        """Neurons of every hidden layer, ``"hidden 1"`` first: in-weights, bias and out-weights."""
        return tuple(
            UnitGroup(
                name=f"hidden {layer + 1}",
                n_units=width,
                slices=(Slice(f"weights.{layer}", 2), Slice(f"biases.{layer}", 2), Slice(f"weights.{layer + 1}", 1)),
                n_run_axes=1,
            )
            for layer, width in enumerate(self.sizes[1:-1])
        )

    def first(self, n_runs: int) -> MLPStack:
        """The first runs as a separate stack in the same memory: training one trains the other."""
        if not 1 <= n_runs <= self.n_runs:
            raise ValueError(f"n_runs is {n_runs}; it must be from 1 to {self.n_runs}")
        part = MLPStack.__new__(MLPStack)
        nn.Module.__init__(part)
        part.sizes = self.sizes
        part.weights, part.biases = (
            nn.ParameterList(nn.Parameter(tensor.detach()[:n_runs]) for tensor in tensors)
            for tensors in (self.weights, self.biases)
        )
        return part

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every run on its own inputs: (n_runs, batch, inputs) to (n_runs, batch, outputs)."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.baddbmm(bias, x, weight).relu_()  # (runs, batch, width)
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])


def _uniform(shape: tuple[int, int], bound: float, generators: Sequence[torch.Generator]) -> nn.Parameter:
    draws = [torch.empty(shape, device=g.device).uniform_(-bound, bound, generator=g) for g in generators]
    return nn.Parameter(torch.stack(draws))


def accuracies(stack: MLPStack, inputs: Tensor, labels: Tensor, classes: Sequence[int] | None = None) -> Tensor:
    """Share of samples that each run classifies as labelled: (n_runs,).  See `predictions` for ``classes``."""
    return (predictions(stack, inputs, classes) == labels).float().mean(1)


@torch.no_grad()
def predictions(stack: MLPStack, inputs: Tensor, classes: Sequence[int] | None = None) -> Tensor:
    """Class of the highest logit, of each run on the same samples: (n_runs, n); with ``classes``, among these only.

    Of equal logits the first counts; where one is NaN there is no class, and -1 stands for it.
    """
    answers = moved(torch.tensor(range(stack.sizes[-1]) if classes is None else classes), inputs.device)
    block_bytes = GPU_PREDICTION_BYTES if inputs.is_cuda else CPU_PREDICTION_BYTES
    blocks = inputs.split(max(1, block_bytes // (4 * stack.n_runs * max(stack.sizes))))
    logits = (stack(block.expand(stack.n_runs, -1, -1)) for block in blocks)  # (runs, block, classes)
    return torch.cat([_highest(each[..., answers], answers) for each in logits], dim=1)


def _highest(logits: Tensor, answers: Tensor) -> Tensor:
    """(..., n_answers) -> (...)"""
    return answers[logits.argmax(-1)].masked_fill_(logits.isnan().any(-1), -1)


@torch.no_grad()
def losses_without_neurons(
    stack: MLPStack, x: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    r"""Mean loss of every run with one neuron set to zero, for each neuron of each hidden layer.

    A neuron i with activation :math:`h_i` takes a matrix of rank one away from what the next layer receives,

    .. math:: p_{-i} = p - h_i\, W_{i,:}

    In the last hidden layer p are the logits; in the others the layers above are computed on.  No model is copied,
    and samples are taken in blocks, so that memory is bounded.  Neurons that are silent on a block cost nothing.

    Parameters
    ----------
    stack : MLPStack
    x : Tensor, shape (n_runs, n_samples, n_inputs)
    labels : Tensor, shape (n_runs, n_samples)
    loss : callable
        From logits (n, n_samples, n_classes) and labels (n, n_samples) to per-sample losses and their gradient,
        which is not used; see `narrowlib.stacks.gradients.cross_entropy`.

    Returns
    -------
    dict of str to Tensor, float32, shape (n_runs, n_units)
        By the names of ``stack.units``.

    Raises
    ------
    ValueError
        When the shapes do not fit.
    """
    fits = x.ndim == 3 and (x.shape[0], x.shape[2]) == (stack.n_runs, stack.sizes[0]) and labels.shape == x.shape[:2]
    if not fits or not labels.numel():
        raise ValueError(
            f"x has shape {tuple(x.shape)} and labels {tuple(labels.shape)}; they must be ({stack.n_runs}, n_samples, "
            f"{stack.sizes[0]}) and ({stack.n_runs}, n_samples) with at least one sample"
        )
    sums = {group.name: torch.zeros(stack.n_runs, group.n_units, device=x.device) for group in stack.units}
    block_bytes = CPU_BLOCK_BYTES if x.device.type == "cpu" else GPU_BLOCK_BYTES
    n_block = max(1, block_bytes // (4 * max(stack.sizes)))
    for run in range(stack.n_runs):
        layers = [(w[run].T.contiguous(), b[run].T) for w, b in zip(stack.weights, stack.biases, strict=True)]
        for inputs, targets in zip(x[run].split(n_block), labels[run].split(n_block), strict=True):
            received = _received(layers, inputs.to(layers[0][0].dtype).T)
            losses = loss(received[-1].T, targets)[0]
            for layer, total in enumerate(sums.values()):
                total[run] += losses.sum()
                hidden = received[layer].relu()
                active = hidden.any(1).nonzero()[:, 0]
                for neurons in active.split(_at_once(received, layer, block_bytes)):
                    logits = _logits_without(neurons, hidden, received[layer + 1], layers[layer + 1 :])
                    change = loss(logits.mT, targets.expand(len(neurons), -1))[0] - losses  # (neurons, samples)
                    total[run, neurons] += change.sum(-1)
    return {name: total / labels.shape[1] for name, total in sums.items()}


def _takes_many(device: torch.device) -> bool:
    """Whether many neurons go through the layers above at once.  On the CPU one at a time is faster: caches hold it."""
    return device.type != "cpu"


def _at_once(received: Sequence[Tensor], layer: int, block_bytes: int) -> int:
    """How many neurons of a layer are taken together: on a GPU all layers above are held for each, else the logits."""
    above = received[layer + 1 :] if _takes_many(received[-1].device) else received[-1:]
    return max(1, block_bytes // (4 * max(each.numel() for each in above)))


def _received(layers: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> list[Tensor]:
    """What every layer makes of the one below, before the ReLU: (width, n_samples) each, the logits last."""
    received = [torch.addmm(layers[0][1], layers[0][0], x)]
    for weight, bias in layers[1:]:
        received.append(torch.addmm(bias, weight, received[-1].relu()))
    return received


def _logits_without(
    neurons: Tensor, hidden: Tensor, received: Tensor, layers: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Logits without each of the neurons: (n_neurons, n_classes, n_samples), samples last because that is fastest.

    ``received`` is what the first of the ``layers`` above makes of ``hidden`` while no neuron is missing.
    """
    (weight, _), *above = layers
    if not above or _takes_many(received.device):
        below = torch.addcmul(received, weight.T[neurons, :, None], hidden[neurons, None], value=-1)
        for weight, bias in above:
            below = torch.baddbmm(bias, weight.expand(len(neurons), -1, -1), below.relu_())  # (neurons, width, samples)
        return below
    logits = received.new_empty(len(neurons), above[-1][0].shape[0], received.shape[1])
    buffer = torch.empty_like(received)
    for neuron, out in zip(neurons.tolist(), logits, strict=True):
        below = torch.addcmul(received, weight[:, neuron, None], hidden[neuron], value=-1, out=buffer).relu_()
        out.copy_(_received(above, below)[-1])
    return logits
