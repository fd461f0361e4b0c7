"""Training until a goal: each run as it would be alone, whoever leaves, and nothing more is spent on it."""

import math

import pytest
import torch
from torch.nn import functional as F

from narrowlib.pruning import apply_masks, slice_state
from narrowlib.stacks.cohort import Cohort, Goal, StepConfig, accuracies, labelled, predictions, recover
from narrowlib.stacks.gradients import StackGradient, clip_gradients_, distillation_loss
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import make_generators

SIZES = (6, 8, 7, 3)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(200, 6, generator=GENERATOR)
Y = X[:, :3].argmax(1)  # learnable
RATES = [1e-2, 1e-2, 3e-2]
ADAM = StepConfig(10)


def stack(n_runs=3):
    return MLPStack(SIZES, make_generators(range(n_runs), "cpu"))


def train(runs, config=ADAM, rates=RATES, accuracy=0.9, max_points=3_000, check_every=100):
    everyone = stack().state_dict()
    chosen = MLPStack.from_state({name: tensor[runs].clone() for name, tensor in everyone.items()})
    goal = Goal(X, Y, accuracy, check_every)
    history = recover(
        chosen,
        X,
        labelled(Y),
        goal,
        config,
        learning_rates=[rates[run] for run in runs],
        seeds=[100 + run for run in runs],
        max_points=[max_points] * len(runs),
        progress=False,
    )
    return history, chosen


@pytest.mark.parametrize("config", [ADAM, StepConfig(10, "sgd"), StepConfig(10, max_norm=0.1, weight_decay=0.01)])
def test_a_run_ends_as_it_would_alone(config):
    together, stacked = train([0, 1, 2], config)
    for run in range(3):
        alone, single = train([run], config)
        mine = together[together["run"] == run]
        assert mine["points"].tolist() == alone["points"].tolist()
        assert mine["accuracy"].tolist() == pytest.approx(alone["accuracy"].tolist(), abs=0.011)
        for a, b in zip(stacked.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(a[run], b[0], rtol=1e-3, atol=1e-4)


def test_runs_leave_at_the_goal_with_the_parameters_they_have_then():
    history, chosen = train([0, 1, 2])
    last = history.groupby("run").last()
    assert (last["accuracy"] >= 0.9).all() and last["points"].nunique() > 1
    assert (history.groupby("run")["accuracy"].apply(lambda a: (a[:-1] < 0.9).all())).all()
    assert accuracies(chosen, X, Y).tolist() == pytest.approx(last["accuracy"].tolist())


def test_samples_are_used_up_and_never_exceeded():
    history, _ = train([0, 1], accuracy=2.0, max_points=550, check_every=100)
    assert history.groupby("run")["points"].agg(list).tolist() == [[0, 100, 200, 300, 400, 500]] * 2


def test_who_has_reached_the_goal_is_not_trained():
    history, chosen = train([0, 1, 2], accuracy=1e-6)
    assert history["points"].tolist() == [0, 0, 0]
    assert all(torch.equal(a, b) for a, b in zip(chosen.parameters(), stack().parameters(), strict=True))


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_cohort_trains_as_a_plain_loop_would(kind):
    """One run by hand, with torch's own layers and optimiser, on the same batches."""
    config = StepConfig(10, kind, max_norm=0.5, weight_decay=0.01)
    cohort = Cohort(stack(1), X, make_generators([5], "cpu"), [1e-2], config)
    start = stack(1)
    layers = []
    for weight, bias in zip(start.weights, start.biases, strict=True):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[2])
        linear.weight.data, linear.bias.data = weight[0].detach().T.clone(), bias[0, 0].detach().clone()
        layers += [linear, torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    rates = {"lr": 1e-2, "weight_decay": 0.01}
    adam, sgd = torch.optim.Adam, torch.optim.SGD
    optimiser = (
        adam(network.parameters(), **rates) if kind == "adam" else sgd(network.parameters(), momentum=0.9, **rates)
    )
    (generator,) = make_generators([5], "cpu")
    for rows in torch.randperm(200, generator=generator).split(10):
        cohort.step(labelled(Y))
        optimiser.zero_grad()
        F.cross_entropy(network(X[rows]), Y[rows]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
    torch.testing.assert_close(cohort.stack(X[None])[0], network(X), rtol=1e-4, atol=1e-5)


def test_every_epoch_shows_every_sample_once():
    cohort = Cohort(stack(2), X, make_generators([1, 2], "cpu"), [0.1, 0.1], StepConfig(30))
    epoch = torch.cat([cohort._draw() for _ in range(6)], dim=1)  # 180 of 200: no half batch
    assert all(len(set(rows.tolist())) == 180 for rows in epoch)
    assert not torch.equal(epoch[0], epoch[1])
    again = torch.cat([cohort._draw() for _ in range(6)], dim=1)
    assert not torch.equal(epoch, again)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_dropped_neurons_stay_dropped_and_can_be_cut_out(kind):
    """Cutting zeros out of parameters and moments changes nothing of what follows."""
    cohorts = [
        Cohort(stack(2), X, make_generators([1, 2], "cpu"), [1e-2, 3e-2], StepConfig(10, kind)) for _ in range(2)
    ]
    masks = {"hidden 1": torch.arange(8).remainder(2).eq(0).expand(2, -1), "hidden 2": torch.ones(2, 7).bool()}
    for cohort in cohorts:
        for _ in range(5):
            cohort.step(labelled(Y))
        for tensors in cohort.state.values():
            apply_masks(cohort.stack.units, tensors, masks)
    whole, cut = cohorts
    cut.load({kind: slice_state(tensors, cut.stack.units, masks) for kind, tensors in cut.state.items()})
    assert cut.stack.sizes == (6, 4, 7, 3)
    for cohort in cohorts:
        for _ in range(20):
            cohort.step(labelled(Y))
    assert (whole.stack.weights[0][:, :, 1::2] == 0).all() and (whole.stack.weights[1][:, 1::2] == 0).all()
    torch.testing.assert_close(whole.stack(X.expand(2, -1, -1)), cut.stack(X.expand(2, -1, -1)), rtol=1e-3, atol=1e-4)


def test_who_leaves_does_not_disturb_who_stays():
    two = Cohort(stack(2), X, make_generators([1, 2], "cpu"), [1e-2, 3e-2], ADAM)
    one = Cohort(stack(2), X, make_generators([1, 2], "cpu"), [1e-2, 3e-2], ADAM)
    for step in range(30):
        if step == 10:
            one.keep([1])
        two.step(labelled(Y))
        one.step(labelled(Y))
    assert one.runs == [1] and one.n_points == 300
    torch.testing.assert_close(one.stack.weights[0][0], two.stack.weights[0][1], rtol=1e-4, atol=1e-6)


def test_predictions_do_not_depend_on_the_blocks(monkeypatch):
    whole = predictions(stack(), X)
    monkeypatch.setattr("narrowlib.stacks.cohort.BLOCK_BYTES", 1_000)
    assert torch.equal(predictions(stack(), X), whole)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: StepConfig(0), "batch_size is 0"),
        (lambda: StepConfig(1, "adamw"), "optimiser is 'adamw'; it must be one of adam, sgd"),
        (lambda: StepConfig(1, momentum=1.0), "momentum is 1.0"),
        (lambda: StepConfig(1, weight_decay=-1.0), "weight_decay is -1.0"),
        (lambda: StepConfig(1, max_norm=0.0), "max_norm is 0.0"),
        (lambda: Goal(X, Y, 0.0, 1), "accuracy is 0.0"),
        (lambda: Goal(X, Y, 0.5, 0), "check_every is 0"),
        (lambda: Cohort(stack(2), X, [], [1e-2, 1e-2], ADAM), "2 runs, 0 generators and 2 learning rates"),
        (lambda: Cohort(stack(1), X, make_generators([0], "cpu"), [1.0], StepConfig(201)), "batch_size is 201"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def logits(seed, shape=(2, 5, 4)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("temperature", "hard_weight"), [(1.0, 0.0), (20.0, 0.1), (3.0, 1.0)])
def test_distillation_loss_is_that_of_torch_and_so_is_its_gradient(temperature, hard_weight):
    student, teacher, labels = (
        logits(0).float().requires_grad_(),
        logits(1).float(),
        torch.tensor([[0, 1, 2, 3, 0]] * 2),
    )
    losses, gradient = distillation_loss(student.detach(), teacher, labels, temperature, hard_weight)
    soft = F.kl_div((student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="none")
    hard = F.cross_entropy(student.flatten(0, 1), labels.flatten(), reduction="none").view(2, 5)
    expected = (1 - hard_weight) * temperature**2 * soft.sum(-1) + hard_weight * hard
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-4, atol=1e-5)
    (wanted,) = torch.autograd.grad(expected.sum(), student)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


def test_a_student_that_agrees_with_its_teacher_has_no_soft_loss():
    losses, gradient = distillation_loss(logits(0), logits(0) + 5.0, torch.zeros(2, 5, dtype=torch.int64), 4.0, 0.0)
    assert losses.abs().max() < 1e-4 and gradient.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("temperature", "hard_weight", "says"), [(0.0, 0.5, "temperature is 0.0"), (1.0, 1.5, "hard_weight is 1.5")]
)
def test_distillation_settings_are_checked(temperature, hard_weight, says):
    with pytest.raises(ValueError, match=says):
        distillation_loss(logits(0), logits(1), torch.zeros(2, 5, dtype=torch.int64), temperature, hard_weight)


def test_gradients_are_clipped_run_by_run_as_torch_does():
    many = stack()
    many.weights[0].data[1] *= 30  # one run with large gradients
    StackGradient(many, 20)(X[:20].expand(3, -1, -1), Y[:20].expand(3, -1))
    before = [parameter.grad.clone() for parameter in many.parameters()]
    norms = clip_gradients_(many, 1.0)
    assert norms.max() > 1 > norms.min()
    for run in range(3):
        parts = [torch.nn.Parameter(gradient[run].clone()) for gradient in before]
        for part, gradient in zip(parts, before, strict=True):
            part.grad = gradient[run].clone()
        total = torch.nn.utils.clip_grad_norm_(parts, 1.0)
        assert norms[run].item() == pytest.approx(total.item(), rel=1e-5)
        for part, parameter in zip(parts, many.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad[run], part.grad, rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="max_norm is nan"):
        clip_gradients_(many, math.nan)
