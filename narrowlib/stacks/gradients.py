"""Losses and gradients of a stack, in buffers that are allocated once.

What autograd would do, written out for ReLU networks: no graph, no allocation in the loop, and matrix products in
bfloat16 where that is asked for.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from narrowlib.devices import pick_dtype
from narrowlib.stacks.networks import MLPStack

LossAndGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    r"""Cross entropy of every sample, in nats, and its gradient in the logits.

    .. math:: L = -\log p_y, \qquad \frac{\partial L}{\partial z_c} = p_c - [c = y], \qquad p = \mathrm{softmax}(z)

    With two classes and the margin :math:`m = z_y - z_{1-y}` this is :math:`L = \log(1 + e^{-m})`, computed as such.

    Parameters
    ----------
    logits : Tensor, shape (..., n_classes)
        Read as float32.
    labels : Tensor, shape (...)
        Class indices; any dtype for two classes, int64 for more.

    Returns
    -------
    losses : Tensor, float32, shape (...)
    gradient : Tensor, float32, shape (..., n_classes)
        Of each sample's own loss.
    """
    logits = logits.float()
    if logits.shape[-1] == 2:
        sign = 2 * labels - 1
        margin = (logits[..., 1] - logits[..., 0]) * sign
        slope = torch.sigmoid(-margin) * sign
        return F.softplus(-margin), torch.stack([slope, -slope], dim=-1)
    log_p = logits.log_softmax(-1)
    index = labels.unsqueeze(-1)
    gradient = log_p.exp().scatter_add(-1, index, log_p.new_full((), -1.0).expand(index.shape))
    return -log_p.gather(-1, index).squeeze(-1), gradient


class StackGradient:
    """Computes a stack's losses and writes the gradient of their mean into the ``grad`` of its parameters.

    Parameters
    ----------
    stack : MLPStack
    n_samples : int
        Samples per run and call.
    loss : callable, optional
        From logits (n_runs, n, n_classes) and labels (n_runs, n) to per-sample losses and their gradient in the
        logits; `cross_entropy` by default.
    precision : {"auto", "float32", "bfloat16"}
        Of the matrix products and activations.  Parameters, their gradients, and losses stay float32.

    Raises
    ------
    ValueError
        For an unknown precision.
    """

    def __init__(
        self, stack: MLPStack, n_samples: int, *, loss: LossAndGradient = cross_entropy, precision: str = "float32"
    ) -> None:
        self.stack, self.loss, self.dtype = stack, loss, pick_dtype(precision, stack.weights[0].device)
        self.n_samples = n_samples
        shapes = [(stack.n_runs, n_samples, width) for width in stack.sizes[1:]]
        device = stack.weights[0].device
        self._activations = [torch.empty(shape, dtype=self.dtype, device=device) for shape in shapes]
        self._deltas = [torch.empty_like(activation) for activation in self._activations]
        for parameter in stack.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    @torch.no_grad()
    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        """Losses of every sample; the gradient of each run's mean loss goes into the parameters.

        Parameters
        ----------
        x : Tensor, shape (n_runs, n_samples, n_inputs)
        labels : Tensor, shape (n_runs, n_samples)

        Returns
        -------
        Tensor, float32, shape (n_runs, n_samples)
        """
        stack, activations, deltas = self.stack, self._activations, self._deltas
        weights = [weight.to(self.dtype) for weight in stack.weights]
        biases = [bias.to(self.dtype) for bias in stack.biases]
        inputs = [x.to(self.dtype), *activations[:-1]]  # of each layer
        for layer, activation in enumerate(activations):
            torch.baddbmm(biases[layer], inputs[layer], weights[layer], out=activation)
            if layer < stack.depth - 1:
                activation.relu_()
        losses, gradient = self.loss(activations[-1], labels)
        deltas[-1].copy_(gradient.div_(self.n_samples))
        for layer in reversed(range(stack.depth)):
            delta = deltas[layer]  # gradient in the pre-activation: (runs, samples, width)
            if delta.dtype == torch.float32:
                torch.bmm(inputs[layer].mT, delta, out=stack.weights[layer].grad)
            else:
                stack.weights[layer].grad.copy_(torch.bmm(inputs[layer].mT, delta))
            stack.biases[layer].grad.copy_(delta.sum(1, keepdim=True))
            if layer:
                below = deltas[layer - 1]
                torch.bmm(delta, weights[layer].mT, out=below)
                torch.ops.aten.threshold_backward.grad_input(below, inputs[layer], 0, grad_input=below)
        return losses


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float, hard_weight: float
) -> tuple[Tensor, Tensor]:
    r"""Distillation loss of every sample in nats, with some weight on the true labels, and its gradient.

    .. math::
        L = (1 - w)\, T^2\, \mathrm{KL}\big(\mathrm{softmax}(z^* / T)\,\big\|\,\mathrm{softmax}(z / T)\big)
            - w \log \mathrm{softmax}(z)_y, \qquad
        \frac{\partial L}{\partial z} = (1 - w)\, T\, (q - q^*) + w\, (p - e_y)

    with q the softened outputs of the student and :math:`q^*` those of the teacher.  The factor :math:`T^2` keeps the
    size of the first part's gradient about the same at every temperature.

    Parameters
    ----------
    logits : Tensor, shape (..., n_classes)
        Of the student, read as float32.
    teacher_logits : Tensor, shape (..., n_classes)
    labels : Tensor, shape (...)
        Class indices.
    temperature : float
        T, positive.
    hard_weight : float
        w, from 0 to 1.

    Returns
    -------
    losses : Tensor, float32, shape (...)
    gradient : Tensor, float32, shape (..., n_classes)
        Of each sample's own loss.

    Raises
    ------
    ValueError
        For a temperature that is not positive or a weight outside 0 to 1.

    Notes
    -----
    Source: Hinton, Vinyals and Dean (2015), section 2.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature!r}; it must be a positive number")
    if not 0 <= hard_weight <= 1:
        raise ValueError(f"hard_weight is {hard_weight!r}; it must be a number from 0 to 1")
    log_q = (logits.float() / temperature).log_softmax(-1)
    log_target = (teacher_logits.float() / temperature).log_softmax(-1)
    target = log_target.exp()
    soft = temperature**2 * (target * (log_target - log_q)).sum(-1)
    hard, gradient = cross_entropy(logits, labels)
    soft_gradient = (log_q.exp() - target).mul_((1 - hard_weight) * temperature)
    return (1 - hard_weight) * soft + hard_weight * hard, soft_gradient.add_(gradient, alpha=hard_weight)


@torch.no_grad()
def clip_gradients_(stack: MLPStack, max_norm: float) -> Tensor:
    """Scale down the gradient of every run whose Euclidean norm, over all of its parameters, is above ``max_norm``.

    Returns
    -------
    Tensor, shape (n_runs,)
        The norms before.

    Raises
    ------
    ValueError
        When ``max_norm`` is not positive.
    """
    if not 0 < max_norm < float("inf"):
        raise ValueError(f"max_norm is {max_norm!r}; it must be a positive number")
    gradients = [parameter.grad for parameter in stack.parameters()]
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]).norm(dim=0)
    factors = (max_norm / norms.clamp(min=max_norm))[:, None, None]
    for gradient in gradients:
        gradient.mul_(factors)
    return norms
