"""What records take at the paper's scale: operations and bytes counted step by step, and the hours of a GPU's roofline.

Operations are those of the matrix products (`torch.utils.flop_counter.FlopCounterMode`); bytes are what every operation
that is no view reads and writes, so fused kernels move fewer.  Steps of small networks are counted for one run on two
small batches, in which both counts are affine; those of language models without any memory, in fake tensors.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from companion import parameters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from narrowlib.chapters.breadth.config import PARTS
from narrowlib.chapters.language.config import KINDS
from narrowlib.chapters.language.scoring import COMPARED
from narrowlib.chapters.lasso_map.config import Config as LassoMapPage
from narrowlib.chapters.two_trees.config import RECORDED_SPARSITIES, WANTED, GroupLassoPage
from narrowlib.chapters.two_trees.group_lasso import SWEEP_SPARSITIES, SWEPT
from narrowlib.cmsp import CMSP, CMSPSampler
from narrowlib.data.documents import SKILLS
from narrowlib.devices import pick_dtype
from narrowlib.llm.losses import next_token_loss, one_text_per_block
from narrowlib.llm.models import DEFAULT_NAME, SMALL_NAME, load_causal_lm
from narrowlib.stacks.cohort import Cohort
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import make_generators

N_CLASSES = 2
TO_A_GOAL = ("mnist", "ranking")  # their steps are not known in advance
KEPT = (1 / 6, 1 / 2, 5 / 6)  # shares of the neurons that stand for those of all sparsities
TERA = 1e12


@dataclass(frozen=True)
class Machine:
    """Peak rates as the maker's data sheet has them, dense: operations per second by precision, bytes per second.

    They are those of the H100 SXM, the A100 SXM with 80 GB, and the T4.
    """

    name: str
    float32: float
    tf32: float
    bfloat16: float
    bandwidth: float


MACHINES = (
    Machine("H100", 67 * TERA, 494 * TERA, 989 * TERA, 3.35 * TERA),
    Machine("A100", 19.5 * TERA, 156 * TERA, 312 * TERA, 2.039 * TERA),
    Machine("T4", 8.1 * TERA, 8.1 * TERA, 8.1 * TERA, 0.32 * TERA),  # it has neither TF32 nor bfloat16
)


@dataclass(frozen=True)
class Cost:
    """Operations and bytes."""

    operations: float
    traffic: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.operations + other.operations, self.traffic + other.traffic)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.operations * times, self.traffic * times)

    def seconds(self, machine: Machine, precision: str) -> float:
        """On the roofline: whichever of the two takes longer; ``auto`` is bfloat16."""
        rate = getattr(machine, "bfloat16" if precision == "auto" else precision)
        return max(self.operations / rate, self.traffic / machine.bandwidth)


class _Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write."""

    n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = (each for each in tree_iter((args, kwargs, found)) if isinstance(each, torch.Tensor))
            self.n_bytes += sum(each.numel() * each.element_size() for each in tensors)
        return found


def counted(work: Callable[[], object]) -> Cost:
    """What some work costs."""
    with FlopCounterMode(display=False) as operations, _Traffic() as traffic:
        work()
    return Cost(operations.get_total_flops(), traffic.n_bytes)


def of_paper(chapter: str) -> Any:
    """The settings of a chapter's record at the paper's scale."""
    return parameters.model(chapter)(**parameters.of_profile(chapter, parameters.PAPER))


def _cohort(problem: CMSP, sizes: tuple[int, ...], batch_size: int, precision: str = "float32") -> Cohort:
    generators, dtype = make_generators(range(1), "cpu"), pick_dtype(precision, torch.device("cpu"))
    sampler = CMSPSampler(problem, batch_size, dtype)
    cohort = Cohort(MLPStack(sizes, generators), sampler, generators, [1e-3], precision=precision)
    cohort.run(1)
    return cohort


def stack_step(problem: CMSP, sizes: tuple[int, ...], batch_size: float, precision: str = "float32") -> Cost:
    """One training step of one network."""
    few, more = 16, 32
    small, large = (counted(functools.partial(_cohort(problem, sizes, n, precision).run, 1)) for n in (few, more))
    slope = (large + small * -1) * (1 / (more - few))
    return small + slope * (batch_size - few)


def block_costs(block_length: int, n_rows: int = 8, model: str = DEFAULT_NAME) -> tuple[Cost, Cost]:
    """One block of tokens through a model: training, the optimiser aside, and a forward pass."""
    config = load_causal_lm(model, device="cpu").model.config
    from transformers import AutoModelForCausalLM

    with FakeTensorMode(), one_text_per_block(), torch.autocast("cpu", torch.bfloat16):
        model = AutoModelForCausalLM.from_config(config)
        ids = torch.zeros(n_rows, block_length, dtype=torch.int64)
        forward = lambda: next_token_loss(model(input_ids=ids, use_cache=False).logits, ids)  # noqa: E731
        training = counted(lambda: forward().backward())
        with torch.no_grad():
            return training * (1 / n_rows), counted(forward) * (1 / n_rows)


@dataclass(frozen=True)
class Part:
    """Equal steps of a chapter."""

    chapter: str
    what: str
    n_steps: float
    step: Cost
    precision: str


def parts() -> Iterator[Part]:
    """What the records of the paper's scale consist of; what takes little time is left out."""
    hierarchy = of_paper("hierarchy")
    for setting in hierarchy.settings:
        step = stack_step(setting.problem, setting.sizes, hierarchy.batch_size, hierarchy.precision)
        step *= hierarchy.n_seeds
        yield Part("hierarchy", setting.name, setting.training.n_steps, step, hierarchy.precision)
    page = of_paper("group-lasso")
    for width in page.widths:
        yield _of_width(page, "nonlocality", "training", width, page.n_seeds)
        yield _of_width(page, "nonlocality", "recovery", width, page.n_seeds * 2 * len(RECORDED_SPARSITIES))
    for width in sorted({*page.widths, page.width}):  # the networks are those of nonlocality
        yield _of_width(page, "group-lasso", "group lasso", width, page.n_seeds)
        yield _of_width(page, "group-lasso", "recovery", width, page.n_seeds * 2 * len(RECORDED_SPARSITIES))
    swept = page.n_swept * sum(map(len, SWEPT.values()))
    yield _of_width(page, "group-lasso", "group lasso", page.width, swept)
    yield _of_width(page, "group-lasso", "recovery", page.width, swept * len(SWEEP_SPARSITIES))
    page = of_paper("lasso-map")
    n_runs = page.n_seeds * len(page.strengths)
    for width in page.widths:
        yield _of_width(page, "lasso-map", "training", width, page.n_seeds)
        yield _of_width(page, "lasso-map", "group lasso", width, n_runs)
        yield _of_width(page, "lasso-map", "recovery", width, n_runs * len(page.steps) * len(page.sparsities))
    yield from _breadth()
    yield from _language_models()


def _breadth() -> Iterator[Part]:
    config = of_paper("breadth").experiment
    n_runs = {"map": config.map_seeds}
    different = {(each.problem, each.phases, n_runs.get(each.question, config.n_seeds)) for each in config.settings()}
    for problem, phases, n_seeds in different:
        sizes = (problem.n_inputs, config.width, config.width, N_CLASSES)
        for phase in phases:
            n_samples = config.batch_size * sum(phase.parts) / (PARTS * problem.n_tasks)
            step = stack_step(problem, sizes, n_samples, config.precision) * n_seeds
            yield Part("breadth", "as if no run left", phase.n_steps, step, config.precision)


def _of_width(page: GroupLassoPage | LassoMapPage, chapter: str, what: str, width: int, n_runs: int) -> Part:
    problem, n_steps, batch_size, shares = {
        "training": (page.problem, page.n_steps, page.batch_size, (1,)),
        "group lasso": (page.problem.only(WANTED), page.lasso.n_steps, page.lasso.batch_size, (1,)),
        "recovery": (page.problem.only(WANTED), page.recovery_steps, page.recovery_batch_size, KEPT),
    }[what]
    step = Cost(0, 0)
    for share in shares:
        hidden = max(1, round(share * width))
        sizes = (problem.n_inputs, hidden, hidden, N_CLASSES)
        step += stack_step(problem, sizes, batch_size, page.precision) * (n_runs / len(shares))
    return Part(chapter, f"{what}, width {width}", n_steps, step, page.precision)


def _language_models() -> Iterator[Part]:
    recipe = of_paper("small-base").recipe
    batch = block_costs(recipe.block_length, model=SMALL_NAME)[0] * recipe.batch_size
    yield Part("small-base", "training", recipe.n_steps, batch, "bfloat16")
    pruning, scores, frontier, unlearning = map(of_paper, ("llm-pruning", "llm-scores", "llm-frontier", "unlearning"))
    train, forward = block_costs(pruning.block_length)
    ablated = 2 * scores.n_ablated * scores.n_ablation_blocks
    curves = len(KINDS) * len(COMPARED) * len(scores.sparsities) * len(SKILLS) * scores.n_held_out_blocks
    for what, n_blocks, each in (
        ("scores", scores.n_score_blocks, train),
        ("ablation", ablated, forward),
        ("curves", curves, forward),
    ):
        yield Part("llm-scores", f"{what}, blocks", n_blocks, each, "tf32")
    batch = train * pruning.recovery_batch_size
    n_lasso = len(pruning.strengths)
    yield Part("llm-pruning", "group lasso", pruning.lasso_steps * n_lasso, batch, "bfloat16")
    n_recovered = 3 * len(pruning.pairs) + 1 + n_lasso
    yield Part(
        "llm-pruning", "recovery, as if nothing were cut", pruning.recovery_steps * n_recovered, batch, "bfloat16"
    )
    n_runs = 2 * (len(frontier.students) + len(frontier.sparsities))
    yield Part("llm-frontier", "all ways, as if nothing were cut", frontier.n_steps * n_runs,
               train * frontier.batch_size, "bfloat16")  # fmt: skip
    n_runs = sum(1 for _ in unlearning.runs()) - 1
    step = train * unlearning.python_batch_size
    yield Part("unlearning", "group lasso", unlearning.lasso_steps, step, "bfloat16")
    yield Part("unlearning", "Python, as if nothing were cut", unlearning.python_steps * n_runs, step, "bfloat16")


def roofline() -> list[dict[str, object]]:
    """A row for every chapter: operations and bytes of its steps, and the least hours of each machine."""
    rows: dict[str, dict[str, object]] = {}
    for part in parts():
        nothing = {"chapter": part.chapter, "steps": 0, "10^15 operations": 0.0, "TB moved": 0.0}
        row = rows.setdefault(part.chapter, nothing | {f"hours, {machine.name}": 0.0 for machine in MACHINES})
        row["steps"] += round(part.n_steps)
        row["10^15 operations"] += part.n_steps * part.step.operations / 1e15
        row["TB moved"] += part.n_steps * part.step.traffic / TERA
        for machine in MACHINES:
            row[f"hours, {machine.name}"] += part.n_steps * part.step.seconds(machine, part.precision) / 3600
    share = cpu_share()
    return [row | {"CPU, share of its peak": share if row["chapter"] == "hierarchy" else "not measured"}
            for row in rows.values()]  # fmt: skip


def cpu_share(repeats: int = 5) -> float:
    """Of the rate at which this CPU multiplies large matrices: what a step of the hierarchy's broad runs reaches."""
    config = of_paper("hierarchy")
    setting = config.settings[0]
    cohort = _cohort(setting.problem, setting.sizes, config.batch_size)
    operations = stack_step(setting.problem, setting.sizes, config.batch_size).operations
    a, b = torch.rand(1_024, 1_024), torch.rand(1_024, 1_024)
    shares = []
    for _ in range(repeats):  # in turns: a slow spell of the machine meets both
        peak = 2 * 1_024**3 * 4 / _seconds(lambda: [a @ b for _ in range(4)])
        shares.append(operations * 4 / _seconds(lambda: cohort.run(4)) / peak)
    return statistics.median(shares)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
