"""What is run on a pretended GPU, in a process of its own: see `pretend_gpu` and `test_pretend_gpu`."""

import copy
import inspect
import shutil
from collections import Counter
from contextlib import ExitStack, suppress
from typing import ClassVar
from unittest import mock

import pandas as pd
import pytest
import torch
from drawn_digits import drawn_digits
from grimp import build_graph
from plain_networks import PROBLEM, SIZES
from pretend_gpu import GPU
from tiny_llamas import tiny_llama, tiny_tokenizer, token_ids
from tqdm import tqdm
from train_tiny_llm import CONFIG, Killed, blocks_of, killed_after

from narrowlib import cmsp, penalties
from narrowlib.chapters.mnist.config import Config as MnistPage
from narrowlib.chapters.mnist.config import TeacherConfig
from narrowlib.chapters.mnist.lasso import shrink
from narrowlib.chapters.mnist.methods import train_teacher
from narrowlib.chapters.two_trees import config as two_trees
from narrowlib.chapters.two_trees import lasso_training
from narrowlib.chapters.two_trees.config import METHODS, GroupLassoConfig, NonlocalityConfig
from narrowlib.chapters.two_trees.curves import pruning_curves
from narrowlib.chapters.two_trees.networks import train_networks
from narrowlib.cmsp import CMSPSampler
from narrowlib.data.digits import Digits
from narrowlib.data.facts import Fact
from narrowlib.devices import pick_dtype
from narrowlib.llm.ablation import ablation_losses
from narrowlib.llm.answers import answer_facts
from narrowlib.llm.distillation import soft_targets
from narrowlib.llm.export import sliced
from narrowlib.llm.losses import block_losses
from narrowlib.llm.refit import refit
from narrowlib.llm.scores import VARIANTS, score_units
from narrowlib.llm.training import recover, train_group_lasso
from narrowlib.llm.units import llama_units
from narrowlib.stacks import steps
from narrowlib.stacks.cohort import Cohort
from narrowlib.stacks.gradients import cross_entropy
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import (
    Goal,
    StepConfig,
    TrainingConfig,
    labelled,
    make_generators,
    train_stack,
    train_to_goal,
)
from narrowlib.store import unfinished
from narrowlib.store.unfinished import Checkpoint

SMALL = NonlocalityConfig(n_seeds=2, n_steps=12, batch_size=8, n_samples=32, recovery_steps=64, recovery_batch_size=8)
DIGITS = drawn_digits(80, 40)
TWO_STEPS = CONFIG.replace(n_steps=2, batch_size=2, micro_batch_size=2, n_warmup=0, record_every=1)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(steps, "STEPS_PER_GRAPH", 8)
    with GPU() as found:
        yield found


def train(device, n_steps=24, every=24, precision="float32", **more):
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


@pytest.mark.parametrize(("every", "precision"), [(24, "bfloat16"), (5, "float32")])
def test_steps_are_captured_once_and_the_same(gpu, every, precision):
    assert torch.equal(train("cuda", 24, every, precision), train("cpu", 24, every, precision))
    assert gpu.n_captures == 1 and gpu.n_replays >= 1


def test_who_leaves_and_who_goes_on(gpu, tmp_path, monkeypatch):
    leave = lambda record: torch.arange(3, device=record.device) == 1  # noqa: E731
    torch.testing.assert_close(train("cuda", 24, 12, leave=leave), train("cpu", 24, 12, leave=leave), equal_nan=True)
    whole, save = train("cuda", 30, every=5), Checkpoint.save

    def killed(self, *state):
        save(self, *state)
        if state[1]["n_steps"] > 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(unfinished, "SECONDS_BETWEEN", 0)
    with mock.patch.object(Checkpoint, "save", killed), suppress(KeyboardInterrupt):
        train("cuda", 30, every=5, checkpoint=Checkpoint(tmp_path / "run"))
    shutil.copy(tmp_path / "run", tmp_path / "of another device")
    with mock.patch.object(Cohort, "restore", side_effect=AssertionError("it must start anew")):
        train("cpu", 30, 5, checkpoint=Checkpoint(tmp_path / "of another device"))
    assert torch.equal(train("cuda", 30, every=5, checkpoint=Checkpoint(tmp_path / "run")), whole)


@pytest.mark.parametrize("method", METHODS)
def test_the_group_lasso_is_captured(gpu, method):
    lasso, found = GroupLassoConfig(n_steps=24, batch_size=8, method=method), {}
    for device in ("cuda", "cpu"):
        networks = train_networks(SMALL, 8, device=device, progress=False)
        before = gpu.n_captures
        found[device] = lasso_training.regularise(networks, SMALL, lasso, progress=False)[1]
    assert gpu.n_captures == before == 1, "the networks are too few steps to be captured, the penalty is not"
    pd.testing.assert_frame_equal(found["cuda"], found["cpu"], rtol=1e-4, atol=1e-6)


def test_recovery_is_captured(gpu, monkeypatch):
    """At the paper's scale a record of it is 5 steps."""
    assert SMALL.replace(recovery_steps=1_000).recovery.record_every == 5
    monkeypatch.setattr(two_trees, "N_RECORDS", 7)
    config = SMALL.replace(recovery_steps=35)
    assert config.recovery.record_every == 5
    networks = train_networks(SMALL, 8, device="cuda", progress=False)
    before = gpu.n_captures
    pruning_curves(networks, config, (0.5,), recover=[(0, 1, 2)], progress=False)
    assert gpu.n_captures == before + 1


@pytest.mark.parametrize(("optimiser", "calls"), [("adam", [3, 12, 12]), ("sgd", [10] * 4)])
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
    for model, precision in ((ours, "high"), (cpu, "highest")):
        seen = set()
        model.model.register_forward_pre_hook(lambda *_: seen.add(torch.get_float32_matmul_precision()))  # noqa: B023
        groups, batches = llama_units(model, "neurons"), [token_ids(2, 5)]
        scores = score_units(model, groups, batches, variants=VARIANTS, progress=False).values()
        few = {group.name: torch.arange(3) for group in groups}
        found.append([*scores, ablation_losses(model, groups, batches, few, progress=False)[1]])
        assert seen == {precision}, "a GPU has cores for TF32"
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


def test_a_language_model_goes_on_where_its_own_device_left_off(gpu, tmp_path):
    config, cpu = TWO_STEPS.replace(checkpoint_every=1), tiny_llama("llama, tied")
    groups, n_steps = llama_units(cpu, "neurons"), []
    for device, killed_at, left in (("cuda", 2, "left"), ("cpu", 0, "copy"), ("cuda", 0, "left")):
        how = {"groups": groups, "strength": 0.05, "checkpoint": tmp_path / left, "progress": False}
        with suppress(Killed), killed_after(killed_at) as steps:
            train_group_lasso(copy.deepcopy(cpu).to(device), blocks_of(), config, **how)
        n_steps.append(len(steps))
        if killed_at:
            shutil.copytree(tmp_path / "left", tmp_path / "copy")
    assert n_steps == [2, 2, 1]


class Bar(tqdm):
    """A progress bar that notes how often the host has waited by every update."""

    noted: ClassVar[list[Counter]] = []

    def update(self, n=1):
        self.noted.append(GPU.current.waits.copy())
        return super().update(n)

    def __iter__(self):
        for each in super().__iter__():
            self.noted.append(GPU.current.waits.copy())
            yield each


def leaving(device):
    return train(device, 60, 10, leave=lambda record: torch.tensor([0, 1, 2]) == (record.isnan().sum() == 0).int())


def to_goal(device):
    digits = DIGITS.only((0, 2, 4, 6, 8))
    goal = Goal(inputs=digits.test_images.to(device), labels=digits.test_labels.to(device), accuracy=2, check_every=40)
    stack, loss = (
        MLPStack((784, 8, 10), make_generators(range(2), "cpu")).to(device),
        labelled(digits.train_labels.to(device)),
    )
    how = {"learning_rates": [1e-3] * 2, "seeds": range(2), "max_points": [200] * 2, "progress": False}
    train_to_goal(stack, digits.train_images.to(device), loss, goal, StepConfig(batch_size=8), **how)


def teach(device):
    train_teacher(TeacherConfig(width=8, n_epochs=3, enough=1.5), on(device), progress=False)


def shrunk(device):
    config = MnistPage(
        teacher_width=16,
        pruned_neurons="16",
        lasso_neurons="16 24",
        n_repeats=1,
        max_points=200,
        lasso_strengths="1e-3",
    ).comparison
    teacher = MLPStack((784, 16, 16, 10), make_generators(range(1), "cpu")).to(device)
    shrink(config, teacher, on(device), [(1e-3, 1e-3, 0)] * 2, progress=False)


def untrained(device):
    return MLPStack((SMALL.problem.n_inputs, 8, 8, 2), make_generators(range(2), device))


def norms_noted(device):
    lasso = GroupLassoConfig(n_steps=40, batch_size=8, method="proximal")
    lasso_training.regularise(untrained(device), SMALL, lasso, progress=False)


def weights_noted(device):
    lasso = GroupLassoConfig(batch_size=8)
    lasso_training.regularised_after(untrained(device), SMALL, lasso, [10, 25, 40], progress=False)


def on(device):
    """The drawn digits on a device."""
    return Digits(**{name: tensor.to(device) for name, tensor in vars(DIGITS).items()})


def taught(device):
    model = tiny_llama("llama, tied").to(device)
    how = {"groups": llama_units(model, "neurons"), "strength": 0.05, "held_out": blocks_of(6, seed=1)}
    train_group_lasso(model, blocks_of(), TWO_STEPS.replace(n_steps=6, record_every=2), **how, progress=False)


def of_model(run):
    """A case that gets a tiny language model, its neurons and its residual dimensions."""

    def case(device):
        model = tiny_llama("llama, tied").to(device)
        run(model, [group for kind in ("neurons", "heads", "residual") for group in llama_units(model, kind)])

    return case


def scored(model, groups):
    score_units(model, groups, [token_ids(2, 5)] * 3, variants=VARIANTS, progress=False)


def ablated_alone(model, groups):
    units = {group.name: torch.arange(2) for group in groups}
    ablation_losses(model, groups, [token_ids(2, 5)] * 2, units, tokens_per_forward=20, progress=False)


def refitted(model, groups):
    masks = {group.name: torch.arange(group.n_units) % 2 == 0 for group in groups if "heads" not in group.name}
    refit(sliced(model, masks), model, masks, token_ids(12, 9), progress=False)


def answered(model, groups):
    some = [Fact("letters", "test", "w3 w4", f"w{n}", (f"w{n}", "w6", "w7 w8", "w9 w10")) for n in range(20, 23)]
    answer_facts(model, tiny_tokenizer(), some, batch_size=1, progress=False)


CASES = {  # of loops that show a bar, and penalties in them: how many records are between the first and last update
    "stacks.training: steps": (3, lambda device: train(device, 40, 5)),
    "stacks.training: who leaves": (5, leaving),
    "stacks.training: to a goal": (5, to_goal),
    "chapters.mnist.methods: the teacher": (2, teach),
    "chapters.mnist.lasso: a look after a cut": (11, shrunk),
    "chapters.two_trees.lasso_training: norms": (4, norms_noted),
    "chapters.two_trees.lasso_training: weights": (4, weights_noted),
    "llm.loop: steps, and what is held out": (2 * 2, taught),
    "llm.losses: of blocks": (0, of_model(lambda model, _: block_losses(model, blocks_of(6), batch_size=2))),
    "llm.scores: every variant": (0, of_model(scored)),
    "llm.ablation: of every kind": (0, of_model(ablated_alone)),
    "llm.distillation: what is stored": (2, of_model(lambda model, _: soft_targets(blocks_of(12), model, n_kept=4))),
    "llm.answers: batches": (2, of_model(answered)),
    "llm.refit: four systems a layer": (2 * 4, of_model(refitted)),
}
MOST_CAPTURES = {"stacks.training: who leaves": 2}  # one more for those that go on
GRAPH = build_graph("narrowlib", include_external_packages=True)
LOOPS, PENALISED = ({name.partition(".")[2] for name in GRAPH.find_modules_that_directly_import(imported)}
                    for imported in ("tqdm", "narrowlib.penalties"))  # fmt: skip
ON_THE_HOST = {"data.tokens", "llm.models", "recipe.steps"}  # they read text and files, or call other loops
ONCE = {"chapters.ranking.experiment", "chapters.two_trees.group_lasso"}  # they take norms of what is trained


def test_every_loop_is_counted():
    assert {name.partition(":")[0] for name in CASES} | ON_THE_HOST | ONCE == LOOPS | PENALISED


@pytest.mark.parametrize("name", CASES)
def test_the_host_waits_at_most_once_a_record(gpu, monkeypatch, name):
    """The least of a loop of any length: nothing between two records of it waits."""
    n_records, run = CASES[name]
    module = name.partition(":")[0]
    monkeypatch.setattr(f"narrowlib.{module if module in LOOPS else 'stacks.training'}.tqdm", Bar)
    monkeypatch.setattr(Bar, "noted", [])
    run("cuda")
    assert len(Bar.noted) > 2 or name.startswith("llm.scores"), "too few updates to tell"
    waits = Bar.noted[-1] - Bar.noted[0]
    assert waits.total() <= n_records + gpu.n_captures, waits  # a capture waits once
    assert gpu.n_captures <= MOST_CAPTURES.get(name, 1)


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
            SMALL, GroupLassoConfig(n_steps=24, batch_size=8, method="proximal"), progress=False,
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
