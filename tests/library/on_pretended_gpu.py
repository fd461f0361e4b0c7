"""What is run on a pretended GPU, in a process of its own: see `pretend_gpu` and `test_pretend_gpu`."""

import copy
import inspect
from contextlib import ExitStack, suppress
from unittest import mock

import pandas as pd
import pytest
import torch
from plain_networks import PROBLEM, SIZES
from pretend_gpu import GPU
from tiny_llamas import tiny_llama, token_ids
from train_tiny_llm import CONFIG, blocks_of

from narrowlib import cmsp, penalties
from narrowlib.chapters.two_trees import config as two_trees
from narrowlib.chapters.two_trees import lasso_training
from narrowlib.chapters.two_trees.config import METHODS, GroupLassoConfig, NonlocalityConfig
from narrowlib.chapters.two_trees.curves import pruning_curves
from narrowlib.chapters.two_trees.networks import train_networks
from narrowlib.cmsp import CMSPSampler
from narrowlib.devices import pick_dtype
from narrowlib.llm.ablation import ablation_losses
from narrowlib.llm.distillation import soft_targets
from narrowlib.llm.losses import block_losses
from narrowlib.llm.scores import VARIANTS, score_units
from narrowlib.llm.training import recover, train_group_lasso
from narrowlib.llm.units import llama_units
from narrowlib.stacks import steps
from narrowlib.stacks.cohort import Cohort
from narrowlib.stacks.gradients import cross_entropy
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import StepConfig, TrainingConfig, labelled, make_generators, train_stack
from narrowlib.store import unfinished
from narrowlib.store.unfinished import Checkpoint

SMALL = NonlocalityConfig(n_seeds=2, n_steps=12, batch_size=8, n_samples=32, recovery_steps=64, recovery_batch_size=8)
TWO_STEPS = CONFIG.replace(n_steps=2, batch_size=2, micro_batch_size=2, n_warmup=0, record_every=1)


@pytest.fixture
def gpu():
    with GPU() as found:
        yield found


def train(device, n_steps=64, every=48, precision="float32", **more):
    generators = make_generators((0, 1, 2), device)
    stack = MLPStack(SIZES, generators)
    sampler = CMSPSampler(PROBLEM, 16, pick_dtype(precision, torch.device(device)))
    config = TrainingConfig(n_steps=n_steps, learning_rate=3e-3, record_every=every, precision=precision)
    return train_stack(stack, sampler, generators, config, progress=False, **more)


def train_cohort(device, *calls, optimiser="adam"):
    x, labels = torch.rand(64, 20, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10
    stack = MLPStack((20, 8, 8, 10), make_generators(range(4), "cpu")).to(device)
    config, loss = StepConfig(batch_size=8, max_norm=1.0, optimiser=optimiser), labelled(labels.to(device))
    cohort = config.cohort(stack, x.to(device), loss, [1e-3, 1e-3, 2e-3, 2e-3], range(4))
    return cohort, [cohort.run(n_steps) for n_steps in calls]


@pytest.mark.parametrize(("every", "precision"), [(48, "bfloat16"), (5, "float32")])
def test_steps_are_captured_once_and_the_same(gpu, every, precision):
    assert torch.equal(train("cuda", 48, every, precision), train("cpu", 48, every, precision))
    assert gpu.n_captures == 1 and gpu.n_replays >= 1


def test_the_host_does_not_wait_within_steps(gpu):
    """Only to see that the losses of each of four graphs are finite: 64 more steps take so many."""

    def waits(n_steps):
        gpu.waits.clear()
        train("cuda", n_steps, 5)
        return gpu.waits.total()

    train("cuda", 16, 16)
    assert waits(128) - waits(64) == 4, gpu.waits


def test_who_leaves_and_who_goes_on(gpu, tmp_path, monkeypatch):
    leave = lambda record: torch.arange(3, device=record.device) == 1  # noqa: E731
    torch.testing.assert_close(train("cuda", 48, 24, leave=leave), train("cpu", 48, 24, leave=leave), equal_nan=True)
    whole, save = train("cuda", 48, every=5), Checkpoint.save

    def killed(self, *state):
        save(self, *state)
        if state[1]["n_steps"] > 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(unfinished, "SECONDS_BETWEEN", 0)
    with mock.patch.object(Checkpoint, "save", killed), suppress(KeyboardInterrupt):
        train("cuda", 48, every=5, checkpoint=Checkpoint(tmp_path / "run"))
    assert (tmp_path / "run").is_file()
    assert torch.equal(train("cuda", 48, every=5, checkpoint=Checkpoint(tmp_path / "run")), whole)


@pytest.mark.parametrize("method", METHODS)
def test_the_group_lasso_is_captured(gpu, method):
    lasso, found = GroupLassoConfig(n_steps=40, batch_size=8, method=method), {}
    for device in ("cuda", "cpu"):
        networks = train_networks(SMALL, 8, device=device, progress=False)
        before = gpu.n_captures
        found[device] = lasso_training.regularise(networks, SMALL, lasso, progress=False)[1]
    assert gpu.n_captures == before == 1, "the networks are too few steps to be captured, the penalty is not"
    pd.testing.assert_frame_equal(found["cuda"], found["cpu"], rtol=1e-4, atol=1e-6)


def test_recovery_is_captured(gpu, monkeypatch):
    """At the paper's scale a record of it is 5 steps."""
    assert SMALL.replace(recovery_steps=1_000).recovery.record_every == 5
    monkeypatch.setattr(two_trees, "N_RECORDS", 13)
    config = SMALL.replace(recovery_steps=65)
    assert config.recovery.record_every == 5
    networks = train_networks(SMALL, 8, device="cuda", progress=False)
    before = gpu.n_captures
    pruning_curves(networks, config, (0.5,), recover=[(0, 1, 2)], progress=False)
    assert gpu.n_captures == before + 1


@pytest.mark.parametrize(("optimiser", "calls"), [("adam", [3, 20, 20]), ("sgd", [10] * 4)])
def test_fixed_samples(gpu, optimiser, calls):
    cohort, ours = train_cohort("cuda", *calls, optimiser=optimiser)
    _, others = train_cohort("cpu", *calls, optimiser=optimiser)
    for a, b in zip(ours, others, strict=True):
        torch.testing.assert_close(a.cpu(), b)
    assert gpu.n_captures == (calls[0] > 3)
    gpu.waits.clear()
    cohort.run(calls[-1])
    assert not gpu.waits
    cohort.leave([False, True, True, False])
    assert cohort.run(calls[-1]).isfinite().all()


def test_language_models_are_scored(gpu):
    cpu = tiny_llama("llama, tied")
    ours = copy.deepcopy(cpu).to("cuda")
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    found = []
    for model in (ours, cpu):
        groups, batches = llama_units(model, "neurons"), [token_ids(2, 5)]
        scores = score_units(model, groups, batches, variants=VARIANTS, progress=False).values()
        few = {group.name: torch.arange(3) for group in groups}
        found.append([*scores, ablation_losses(model, groups, batches, few, progress=False)[1]])
    for a, b in zip(*found, strict=True):
        for name in b:
            torch.testing.assert_close(a[name].cpu(), b[name], rtol=1e-3, atol=1e-5)


def test_language_models_are_trained(gpu):
    cpu, found = tiny_llama("llama, tied"), []
    groups = llama_units(cpu, "neurons")
    keep = {group.name: torch.arange(group.n_units) % 2 == 0 for group in groups}
    held_out = {"held_out": blocks_of(2, seed=1), "progress": False}
    for device in ("cuda", "cpu"):
        model = copy.deepcopy(cpu).to(device)
        targets = soft_targets(blocks_of(4), model, n_kept=4, progress=False)
        found.append([
            train_group_lasso(model, blocks_of(), TWO_STEPS, groups=groups, strength=0.05, **held_out),
            recover(model, targets, TWO_STEPS, groups=groups, masks=keep, keep_best=True, **held_out),
        ])  # fmt: skip
    for ours, theirs in zip(*found, strict=True):
        pd.testing.assert_series_equal(ours["loss"], theirs["loss"], rtol=1e-3)


def test_the_host_does_not_wait_for_a_language_model(gpu):
    model = tiny_llama("llama, tied").to("cuda")

    def waits(n_steps):
        gpu.waits.clear()
        recover(model, blocks_of(), TWO_STEPS.replace(n_steps=n_steps, record_every=n_steps), progress=False)
        return gpu.waits.copy()

    assert not waits(4) - waits(2)
    gpu.waits.clear()
    block_losses(model, blocks_of(8), batch_size=2, progress=False)
    assert not [asked for asked, n in gpu.waits.items() if n >= 4 and "from the host" not in asked[0]]


def reads_every_step(self, *given, real=steps.StackSteps._step):
    real(self, *given)
    float(self._total.sum())


CONSTANTS = inspect.unwrap(cmsp._constants)


def on_the_host(sampler, device):
    return CONSTANTS(sampler, torch.device("cpu"))


def looks(name, value):
    return value.unsqueeze(-1) if isinstance(value, torch.Tensor) and bool((value >= 0).all()) else value


MISTAKES = {
    "masks that stay on the host": ((cmsp, "_constants", on_the_host), lambda: train("cuda"), "same device|capturing"),
    "a penalty that looks at a value": (
        (penalties, "_per_unit", looks),
        lambda: lasso_training.regularise(
            train_networks(SMALL, 8, device="cuda", progress=False),
            SMALL, GroupLassoConfig(n_steps=48, batch_size=8, method="proximal"), progress=False,
        ),
        "capturing",
    ),
    "a loss that is read at every step": (
        (steps.StackSteps, "_step", reads_every_step), lambda: train("cuda"), "capturing",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("error:steps are launched one by one")
@pytest.mark.parametrize("name", MISTAKES)
def test_planted_mistakes_are_found(gpu, name):
    mistake, check, message = MISTAKES[name]
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(*mistake))
        stack.enter_context(pytest.raises((RuntimeError, UserWarning), match=message))
        check()


def test_cross_entropy_and_cohorts_take_what_is_on_the_device(gpu):
    with pytest.raises(RuntimeError, match="same device"):
        cross_entropy(torch.rand(2, 3, 4, device="cuda"), torch.zeros(2, 3, dtype=torch.int64))
    assert isinstance(train_cohort("cuda", 1)[0], Cohort)
