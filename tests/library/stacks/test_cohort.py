"""Training on fixed samples to a goal: each run as it would be alone, whoever leaves, and no step more than needed."""

import pytest
import torch
from plain_networks import as_sequential, assert_same_parameters
from torch.nn import functional as F

from narrowlib.pruning import apply_masks
from narrowlib.stacks.cohort import Cohort
from narrowlib.stacks.networks import MLPStack, accuracies, predictions
from narrowlib.stacks.steps import EpochSampler
from narrowlib.stacks.training import Goal, StepConfig, labelled, make_generators, train_to_goal

SIZES = (6, 8, 7, 3)
X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)  # learnable
RATES = [1e-2, 1e-2, 3e-2]
ADAM = StepConfig(batch_size=10)


def stack(n_runs=3):
    return MLPStack(SIZES, make_generators(range(n_runs), "cpu"))


def cohort_of(config, rates, seeds=(1, 2)):
    return config.cohort(stack(len(rates)), X, labelled(Y), rates, seeds[: len(rates)])


def train(runs, config=ADAM, accuracy=0.9, max_points=3_000):
    chosen = MLPStack.from_state({name: tensor[runs].clone() for name, tensor in stack().state_dict().items()})
    rates, seeds = [RATES[run] for run in runs], [100 + run for run in runs]
    goal = Goal(inputs=X, labels=Y, accuracy=accuracy, check_every=100)
    given = {"learning_rates": rates, "seeds": seeds, "max_points": [max_points] * len(runs), "progress": False}
    return train_to_goal(chosen, X, labelled(Y), goal, config, **given), chosen


@pytest.mark.parametrize(
    "config",
    [ADAM, StepConfig(batch_size=10, optimiser="sgd"), StepConfig(batch_size=10, max_norm=0.1, weight_decay=0.01)],
)
def test_a_run_ends_as_it_would_alone(config):
    together, stacked = train([0, 1, 2], config)
    for run in range(3):
        alone, single = train([run], config)
        mine = together[together["run"] == run]
        assert mine["points"].tolist() == alone["points"].tolist()
        assert mine["accuracy"].tolist() == pytest.approx(alone["accuracy"].tolist(), abs=0.011)
        assert_same_parameters(stacked, run, single, 0)


def test_runs_leave_at_the_goal_with_the_parameters_they_have_then():
    history, chosen = train([0, 1, 2])
    last = history.groupby("run").last()
    assert (last["accuracy"] >= 0.9).all() and last["points"].nunique() > 1
    assert (history.groupby("run")["accuracy"].apply(lambda a: (a[:-1] < 0.9).all())).all()
    assert accuracies(chosen, X, Y).tolist() == pytest.approx(last["accuracy"].tolist())


def test_samples_are_used_up_and_never_exceeded():
    history, _ = train([0, 1], accuracy=2.0, max_points=550)
    assert history.groupby("run")["points"].agg(list).tolist() == [[0, 100, 200, 300, 400, 500]] * 2


def test_who_has_reached_the_goal_is_not_trained():
    history, chosen = train([0, 1, 2], accuracy=1e-6)
    assert history["points"].tolist() == [0, 0, 0]
    assert all(torch.equal(a, b) for a, b in zip(chosen.parameters(), stack().parameters(), strict=True))


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_cohort_trains_as_a_plain_loop_would(kind):
    """One run by hand, with torch's own layers and optimiser, on the same batches."""
    cohort = cohort_of(StepConfig(batch_size=10, optimiser=kind, max_norm=0.5, weight_decay=0.01), [1e-2], [5])
    network, rates = as_sequential(stack(1), 0), {"lr": 1e-2, "weight_decay": 0.01}
    make = {"adam": torch.optim.Adam, "sgd": lambda *given, **more: torch.optim.SGD(*given, momentum=0.9, **more)}
    optimiser = make[kind](network.parameters(), **rates)
    losses = []
    for rows in torch.randperm(200, generator=make_generators([5], "cpu")[0]).split(10):
        optimiser.zero_grad()
        losses.append(F.cross_entropy(network(X[rows]), Y[rows]))
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
    torch.testing.assert_close(cohort.run(20), torch.stack(losses).mean().detach().view(1, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cohort.stack(X[None])[0], network(X), rtol=1e-4, atol=1e-5)


def test_every_epoch_shows_every_sample_once():
    sampler, generators = EpochSampler(X, 30), make_generators([1, 2], "cpu")
    rows = [sampler(generators)[1][:, 0] for _ in range(12)]
    epoch, again = torch.cat(rows[:6], 1), torch.cat(rows[6:], 1)  # 180 of 200: no half batch
    assert all(len(set(order.tolist())) == 180 for order in (*epoch, *again))
    assert not torch.equal(epoch[0], epoch[1]) and not torch.equal(epoch, again)
    inputs, rows = sampler(generators)
    assert torch.equal(inputs, X[rows]) and inputs.shape == (2, 1, 30, 6)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_dropped_neurons_stay_dropped_and_can_be_cut_out(kind):
    """Cutting zeros out of parameters and moments changes nothing of what follows."""
    cohorts = whole, cut = [cohort_of(StepConfig(batch_size=10, optimiser=kind), [1e-2, 3e-2]) for _ in range(2)]
    masks = {"hidden 1": torch.arange(8).remainder(2).eq(0).expand(2, -1), "hidden 2": torch.ones(2, 7).bool()}
    for cohort in cohorts:
        cohort.run(5)
        for tensors in cohort.state.values():
            apply_masks(cohort.stack.units, tensors, masks)
    cut.narrow(masks)
    assert cut.stack.sizes == (6, 4, 7, 3)
    for cohort in cohorts:
        cohort.run(20)
    assert (whole.stack.weights[0][:, :, 1::2] == 0).all() and (whole.stack.weights[1][:, 1::2] == 0).all()
    torch.testing.assert_close(whole.stack(X.expand(2, -1, -1)), cut.stack(X.expand(2, -1, -1)), rtol=1e-3, atol=1e-4)


def test_who_stays_can_be_cut_narrower_after_others_have_left():
    one, two = (cohort_of(ADAM, [1e-2, 3e-2]) for _ in range(2))
    for cohort in (one, two):
        cohort.run(10)
    one.leave([True, False])
    masks = {"hidden 1": torch.arange(8)[None] < 5, "hidden 2": torch.ones(1, 7).bool()}
    one.narrow(masks)
    two.narrow({name: mask.expand(2, -1) for name, mask in masks.items()})
    for cohort in (one, two):
        cohort.run(20)
    assert one.runs == [1] and one.n_steps == 30
    assert_same_parameters(one.stack, 0, two.stack, 1)


def test_predictions_do_not_depend_on_the_blocks(monkeypatch):
    whole = predictions(stack(), X)
    monkeypatch.setattr("narrowlib.stacks.networks.CPU_PREDICTION_BYTES", 1_000)
    assert torch.equal(predictions(stack(), X), whole)


def test_numbers_of_runs_and_samples_must_fit():
    with pytest.raises(ValueError, match="2 runs, 0 generators and 2 learning rates"):
        Cohort(stack(2), EpochSampler(X, 10), [], [1.0, 1.0])
    with pytest.raises(ValueError, match="batch_size is 201"):
        EpochSampler(X, 201)


def test_training_goes_on_from_moments_of_other_ages():
    def draw(generators):
        rows = torch.stack([torch.randint(len(X), (1, 10), generator=each) for each in generators])
        return X[rows], rows

    generators = make_generators([1, 2], "cpu")
    options = {"settings": {}, "loss": labelled(Y)}
    straight = Cohort(stack(2), draw, generators, [1e-2, 1e-2], **options)
    straight.run(5)
    values = MLPStack.from_state({name: t.clone() for name, t in straight.stack.state_dict().items()})
    moments = {kind: {n: t.clone() for n, t in tensors.items()} for kind, tensors in straight.state.items()}
    del moments["value"]
    for tensor in (tensors["weights.0"] for tensors in moments.values()):
        tensor[1] = 0  # the second run begins anew, with its first layer
    resumed = Cohort(values, draw, generators, [1e-2, 1e-2], **options, moments=moments, steps_before=[5, 0])
    states = [generator.get_state() for generator in generators]
    straight.run(7)
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    resumed.run(7)
    for parameter, again in zip(straight.stack.parameters(), resumed.stack.parameters(), strict=True):
        torch.testing.assert_close(parameter[0], again[0])
        assert not torch.allclose(parameter[1], again[1], rtol=1e-3)
