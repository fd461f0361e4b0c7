"""Written-out gradients are autograd's."""

import math

import pytest
import torch
from torch.nn import functional as F

from narrowlib.stacks.gradients import StackGradient, clip_gradients_, cross_entropy, distillation_loss
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import make_generators


def random_batch(n_classes, shape=(3, 40), n_inputs=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, n_inputs, generator=generator)
    return x, torch.randint(n_classes, shape, generator=generator)


@pytest.mark.parametrize("n_classes", [1, 2, 3, 10])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_cross_entropy_is_torchs(n_classes, scale):
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(3, 50, n_classes, generator=generator)).requires_grad_()
    labels = torch.randint(n_classes, (3, 50), generator=generator)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(3, 50)
    (slope,) = torch.autograd.grad(expected.sum(), logits)
    losses, gradient = cross_entropy(logits.detach(), labels)
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(gradient, slope, atol=1e-6, rtol=1e-5)


def test_float_labels_serve_for_two_classes():
    logits = torch.tensor([[0.3, -1.2], [2.0, 0.1]])
    for a, b in zip(cross_entropy(logits, torch.tensor([0.0, 1.0])), cross_entropy(logits, torch.tensor([0, 1]))):
        assert torch.equal(a, b)


@pytest.mark.parametrize("sizes", [(5, 2), (5, 7, 2), (5, 8, 6, 3), (5, 4, 4, 4, 2)])
def test_gradients_are_autograds(sizes):
    stack = MLPStack(sizes, make_generators(range(3), "cpu"))
    x, labels = random_batch(sizes[-1])
    losses = F.cross_entropy(stack(x).flatten(0, 1), labels.flatten(), reduction="none").view(3, 40)
    losses.mean(1).sum().backward()
    expected = [parameter.grad.clone() for parameter in stack.parameters()]
    gradient_of = StackGradient(stack, 40)
    for _ in range(2):  # buffers and gradients of the first call leave no trace in the second
        ours = gradient_of(x, labels)
    torch.testing.assert_close(ours, losses.detach())
    for parameter, grad in zip(stack.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, atol=1e-6, rtol=1e-4)


def test_bfloat16_is_near_and_parameters_stay_float32():
    stack = MLPStack((5, 64, 64, 2), make_generators(range(3), "cpu"))
    x, labels = random_batch(2, (3, 400))
    StackGradient(stack, 400)(x, labels)
    expected = [parameter.grad.clone() for parameter in stack.parameters()]
    losses = StackGradient(stack, 400, precision="bfloat16")(x, labels)
    assert losses.dtype is torch.float32
    for parameter, grad in zip(stack.parameters(), expected, strict=True):
        assert parameter.dtype is parameter.grad.dtype is torch.float32
        assert (parameter.grad - grad).norm() < 0.1 * grad.norm()  # 8 bits of mantissa, gradients that cancel


@pytest.mark.parametrize(("temperature", "hard_weight"), [(1.0, 0.0), (20.0, 0.1), (3.0, 1.0)])
def test_distillation_loss_is_that_of_torch_and_so_is_its_gradient(temperature, hard_weight):
    student, labels = random_batch(4, (2, 5), 4)
    teacher, _ = random_batch(4, (2, 5), 4, seed=1)
    student.requires_grad_()
    losses, gradient = distillation_loss(student.detach(), teacher, labels, temperature, hard_weight)
    soft = F.kl_div((student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="none")
    hard = F.cross_entropy(student.flatten(0, 1), labels.flatten(), reduction="none").view(2, 5)
    expected = (1 - hard_weight) * temperature**2 * soft.sum(-1) + hard_weight * hard
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-4, atol=1e-5)
    (wanted,) = torch.autograd.grad(expected.sum(), student)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


def test_illegal_numbers_are_named():
    logits, labels = random_batch(4, (2, 5), 4)
    for temperature, hard_weight, says in ((0.0, 0.5, "temperature is 0.0"), (1.0, 1.5, "hard_weight is 1.5")):
        with pytest.raises(ValueError, match=says):
            distillation_loss(logits, logits, labels, temperature, hard_weight)
    stack = MLPStack((5, 2), make_generators((0,), "cpu"))
    with pytest.raises(ValueError, match="precision is 'half'; it must be one of auto, float32, bfloat16"):
        StackGradient(stack, 4, precision="half")
    with pytest.raises(ValueError, match="max_norm is nan"):
        clip_gradients_(stack, math.nan)


def test_gradients_are_clipped_run_by_run_as_torch_does():
    stack = MLPStack((5, 7, 3), make_generators(range(3), "cpu"))
    stack.weights[0].data[1] *= 30  # one run with large gradients
    StackGradient(stack, 40)(*random_batch(3))
    before = [parameter.grad.clone() for parameter in stack.parameters()]
    norms = clip_gradients_(stack, 1.0)
    assert norms.max() > 1 > norms.min()
    for run in range(3):
        parts = [torch.nn.Parameter(gradient[run].clone()) for gradient in before]
        for part, gradient in zip(parts, before, strict=True):
            part.grad = gradient[run].clone()
        total = torch.nn.utils.clip_grad_norm_(parts, 1.0)
        assert norms[run].item() == pytest.approx(total.item(), rel=1e-5)
        for part, parameter in zip(parts, stack.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad[run], part.grad, rtol=1e-4, atol=1e-7)
