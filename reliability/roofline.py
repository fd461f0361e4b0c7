"""What records take at the paper's scale: operations and bytes counted step by step, and the hours of a GPU's roofline.

Operations are those of the matrix products (`torch.utils.flop_counter.FlopCounterMode`); bytes are what every operation
that is no view reads and writes, so fused kernels move fewer.  Steps of small networks are counted for one run on two
small batches, in which both counts are affine; those of language models without any memory, in fake tensors.
"""

from __future__ import annotations

import functools
import operator
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from companion import parameters
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from narrowlib.chapters.breadth.config import PARTS
from narrowlib.chapters.language.config import KINDS
from narrowlib.chapters.language.scoring import COMPARED
from narrowlib.chapters.lasso_map.config import Config as LassoMapPage
from narrowlib.chapters.mnist.config import N_CLASSES as N_DIGITS
from narrowlib.chapters.mnist.config import MethodConfig
from narrowlib.chapters.mnist.tuning import DISTILLED, N_TRIES, SCRATCH_STEPS
from narrowlib.chapters.ranking.experiment import WAYS
from narrowlib.chapters.two_trees.config import RECORDED_SPARSITIES, WANTED, GroupLassoPage
from narrowlib.chapters.two_trees.group_lasso import SWEEP_SPARSITIES, SWEPT
from narrowlib.cmsp import CMSP, CMSPSampler
from narrowlib.data.documents import SKILLS
from narrowlib.devices import pick_dtype
from narrowlib.llm.losses import next_token_loss, one_text_per_block
from narrowlib.llm.models import DEFAULT_NAME, SMALL_NAME, load_causal_lm
from narrowlib.stacks.cohort import Cohort, run_chunks, runs_per_chunk
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import StepConfig, labelled, make_generators

N_CLASSES, PICTURE = 2, 784
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
        """On the roofline: whichever of the two takes longer."""
        rate = getattr(machine, precision)
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


def _cohort(
    problem: CMSP, sizes: tuple[int, ...], batch_size: int, precision: str = "float32", n_runs: int = 1
) -> Cohort:
    generators, dtype = make_generators(range(n_runs), "cpu"), pick_dtype(precision, torch.device("cpu"))
    sampler = CMSPSampler(problem, batch_size, dtype)
    cohort = Cohort(MLPStack(sizes, generators), sampler, generators, [1e-3] * n_runs, precision=precision)
    cohort.run(1)
    return cohort


def stack_step(problem: CMSP, sizes: tuple[int, ...], batch_size: float, precision: str = "float32") -> Cost:
    """One training step of one network."""
    few, more = 16, 32
    small, large = (counted(functools.partial(_cohort(problem, sizes, n, precision).run, 1)) for n in (few, more))
    slope = (large + small * -1) * (1 / (more - few))
    return small + slope * (batch_size - few)


def _digit_cohort(sizes: tuple[int, ...], step: StepConfig, n_runs: int = 1) -> Cohort:
    inputs, stack = torch.rand(4 * step.batch_size, sizes[0]), MLPStack(sizes, make_generators(range(n_runs), "cpu"))
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    cohort = step.cohort(stack, inputs, labelled(labels), [1e-3] * n_runs, range(n_runs))
    cohort.run(1)
    return cohort


def block_costs(block_length: int, n_rows: int = 8, model: str = DEFAULT_NAME) -> tuple[Cost, Cost]:
    """One block of tokens through a model: training, the optimiser aside, and a forward pass."""
    made = _language_model(model)
    with FakeTensorMode(), one_text_per_block(), torch.autocast("cpu", torch.bfloat16):
        forward = _forward(made(), n_rows, block_length)
        training = counted(lambda: forward().backward())
        with torch.no_grad():
            return training * (1 / n_rows), counted(forward) * (1 / n_rows)


def _language_model(name: str) -> Callable[[], nn.Module]:
    """Makes a random model with the shapes of this one."""
    config = load_causal_lm(name, device="cpu").model.config
    from transformers import AutoModelForCausalLM

    return functools.partial(AutoModelForCausalLM.from_config, config)


def _forward(model: nn.Module, n_rows: int, block_length: int) -> Callable[[], Tensor]:
    ids = torch.zeros(n_rows, block_length, dtype=torch.int64)
    return lambda: next_token_loss(model(input_ids=ids, use_cache=False).logits, ids)


Call = Callable[[], object]


@dataclass(frozen=True)
class Part:
    """Equal steps of a chapter; ``ready`` returns a call that does some of them on the CPU, as many as are counted."""

    what: str
    n_steps: float
    step: Cost
    precision: str
    ready: Callable[[], Call]


def _of_stack(
    what: str,
    n_steps: float,
    n_runs: float,
    problem: CMSP,
    shapes: Sequence[tuple[int, ...]],
    batch_size: float,
    precision: str,
) -> Part:
    """Steps of runs on composite tasks, an equal share of them of each shape; the last one is the largest."""
    precision = "bfloat16" if precision == "auto" else precision  # whatever the CPU that counts is made for
    step = Cost(0, 0)
    for sizes in shapes:
        step += stack_step(problem, sizes, batch_size, precision) * (n_runs / len(shapes))

    def ready() -> Call:
        n_samples = max(1, round(batch_size))
        at_once = runs_per_chunk(shapes[-1], problem.n_tasks * n_samples, torch.device("cpu"))
        n_here = max(1, min(round(n_runs), at_once))
        return functools.partial(_cohort(problem, shapes[-1], n_samples, n_runs=n_here).run, 1)

    return Part(what, n_steps, step, precision, ready)


def _of_digits(what: str, method: MethodConfig, n_times: int = 1) -> Iterator[Part]:
    """Steps of runs on digits, each with all its samples."""
    n_runs = n_times * len(method.learning_rates) * method.n_repeats
    for neurons in method.neurons:
        sizes = (PICTURE, neurons // 2, neurons // 2, N_DIGITS)
        step = counted(functools.partial(_digit_cohort(sizes, method.step).run, 1)) * n_runs

        def ready(sizes: tuple[int, ...] = sizes) -> Call:
            (at_once, *_) = run_chunks(MLPStack(sizes, make_generators(range(1), "cpu")), range(n_runs))
            return functools.partial(_digit_cohort(sizes, method.step, len(at_once)).run, 1)

        n_steps = method.max_points / method.step.batch_size
        yield Part(f"{what}, {neurons} neurons", n_steps, step, "float32", ready)


def _hierarchy() -> Iterator[Part]:
    config = of_paper("hierarchy")
    easier = [each for each in config.easier.settings if each.problem.n_tasks > 1]
    for of, settings in ((config, config.settings), (config.easier, easier)):
        for each in settings:
            yield _of_stack(each.name, each.training.n_steps, of.n_seeds, each.problem, [each.sizes],
                            of.batch_size, of.precision)  # fmt: skip


def _nonlocality() -> Iterator[Part]:
    page = of_paper("group-lasso")  # the networks are the same
    for width in page.widths:
        yield _of_width(page, "training", width, page.n_seeds)
        yield _of_width(page, "recovery", width, page.n_seeds * 2 * len(RECORDED_SPARSITIES))


def _group_lasso() -> Iterator[Part]:
    page = of_paper("group-lasso")
    for width in sorted({*page.widths, page.width}):  # the networks are those of nonlocality
        yield _of_width(page, "group lasso", width, page.n_seeds)
        yield _of_width(page, "recovery", width, page.n_seeds * 2 * len(RECORDED_SPARSITIES))
    swept = page.n_swept * sum(map(len, SWEPT.values()))
    yield _of_width(page, "group lasso", page.width, swept)
    yield _of_width(page, "recovery", page.width, swept * len(SWEEP_SPARSITIES))


def _lasso_map() -> Iterator[Part]:
    page = of_paper("lasso-map")
    n_runs = page.n_seeds * len(page.strengths)
    for width in page.widths:
        yield _of_width(page, "training", width, page.n_seeds)
        yield _of_width(page, "group lasso", width, n_runs)
        yield _of_width(page, "recovery", width, n_runs * len(page.steps) * len(page.sparsities))


def _of_width(page: GroupLassoPage | LassoMapPage, what: str, width: int, n_runs: int) -> Part:
    problem, n_steps, batch_size, shares = {
        "training": (page.problem, page.n_steps, page.batch_size, (1,)),
        "group lasso": (page.problem.only(WANTED), page.lasso.n_steps, page.lasso.batch_size, (1,)),
        "recovery": (page.problem.only(WANTED), page.recovery_steps, page.recovery_batch_size, KEPT),
    }[what]
    hidden = [max(1, round(share * width)) for share in shares]
    shapes = [(problem.n_inputs, size, size, N_CLASSES) for size in hidden]
    return _of_stack(f"{what}, width {width}", n_steps, n_runs, problem, shapes, batch_size, page.precision)


def _breadth() -> Iterator[Part]:
    config = of_paper("breadth").experiment
    n_runs = {"map": config.map_seeds}
    different = {(each.problem, each.phases, n_runs.get(each.question, config.n_seeds)) for each in config.settings()}
    for problem, phases, n_seeds in different:
        sizes = (problem.n_inputs, config.width, config.width, N_CLASSES)
        for phase in phases:
            n_samples = config.batch_size * sum(phase.parts) / (PARTS * problem.n_tasks)
            yield _of_stack("training", phase.n_steps, n_seeds, problem, [sizes], n_samples, config.precision)


def _mnist() -> Iterator[Part]:
    config = of_paper("mnist").comparison
    lasso, n_strengths = config.lasso.method, len(config.lasso.strengths)
    whole = lasso.replace(neurons=(2 * config.teacher.width,))
    yield from _of_digits("from scratch", config.scratch)
    yield from _of_digits("distillation", config.distillation)
    yield from _of_digits("attribution", config.attribution)
    yield from _of_digits("group lasso", whole, n_strengths)
    yield from _of_digits("after the group lasso", lasso, n_strengths)
    tried = {"learning_rates": config.tuned_rates, "n_repeats": N_TRIES, "max_points": config.attribution.max_points}
    yield from _of_digits("distillation, tuned", config.distillation.replace(**tried), len(DISTILLED))
    for variant in SCRATCH_STEPS:
        step = config.scratch.step.replace(**variant)
        yield from _of_digits("from scratch, tuned", config.scratch.replace(**tried, step=step))


def _ranking() -> Iterator[Part]:
    yield from _of_digits("all ways", of_paper("ranking").comparison.attribution, len(WAYS))


def _of_blocks(what: str, n_blocks: float, precision: str, block_length: int, at_once: int = 1,
               model: str = DEFAULT_NAME, is_training: bool = True) -> Part:  # fmt: skip
    """Passes of a language model over so many times ``at_once`` blocks, as if nothing were cut."""
    cost = _block_costs(block_length, model)[0 if is_training else 1]

    def ready() -> Call:
        forward = _forward(_language_model(model)(), 1, block_length)
        return (lambda: forward().backward()) if is_training else torch.no_grad()(forward)

    return Part(what, n_blocks, cost * at_once, precision, ready)


_block_costs = functools.cache(lambda block_length, model: block_costs(block_length, model=model))


def _small_base() -> Iterator[Part]:
    recipe = of_paper("small-base").recipe
    yield _of_blocks("training", recipe.n_steps, "bfloat16", recipe.block_length, recipe.batch_size, SMALL_NAME)


def _llm_scores() -> Iterator[Part]:
    scores = of_paper("llm-scores")
    ablated = 2 * scores.n_ablated * scores.n_ablation_blocks
    curves = len(KINDS) * len(COMPARED) * len(scores.sparsities) * len(SKILLS) * scores.n_held_out_blocks
    yield _of_blocks("scores", scores.n_score_blocks, "tf32", scores.block_length)
    yield _of_blocks("ablation", ablated, "tf32", scores.block_length, is_training=False)
    yield _of_blocks("curves", curves, "tf32", scores.block_length, is_training=False)


def _llm_pruning() -> Iterator[Part]:
    page = of_paper("llm-pruning")
    n_lasso = len(page.strengths)
    n_recovered = 3 * len(page.pairs) + 1 + n_lasso
    sizes = page.block_length, page.recovery_batch_size
    yield _of_blocks("group lasso", page.lasso_steps * n_lasso, "bfloat16", *sizes)
    yield _of_blocks("recovery", page.recovery_steps * n_recovered, "bfloat16", *sizes)


def _llm_frontier() -> Iterator[Part]:
    page = of_paper("llm-frontier")
    n_runs = 2 * (len(page.students) + len(page.sparsities))
    yield _of_blocks("all ways", page.n_steps * n_runs, "bfloat16", page.block_length, page.batch_size)


def _unlearning() -> Iterator[Part]:
    page = of_paper("unlearning")
    n_runs = sum(1 for _ in page.runs()) - 1
    sizes = page.block_length, page.python_batch_size
    yield _of_blocks("group lasso", page.lasso_steps, "bfloat16", *sizes)
    yield _of_blocks("Python", page.python_steps * n_runs, "bfloat16", *sizes)


CHAPTERS: dict[
    str, Callable[[], Iterator[Part]]
] = {  # of what a record of the paper's scale consists, small work aside
    "hierarchy": _hierarchy,
    "nonlocality": _nonlocality,
    "group-lasso": _group_lasso,
    "mnist": _mnist,
    "llm-scores": _llm_scores,
    "llm-pruning": _llm_pruning,
    "llm-frontier": _llm_frontier,
    "unlearning": _unlearning,
    "lasso-map": _lasso_map,
    "small-base": _small_base,
    "breadth": _breadth,
    "ranking": _ranking,
}


def roofline(chapters: Sequence[str]) -> list[dict[str, object]]:
    """A row for every chapter: operations and bytes, the least hours of each machine, and what this CPU reaches."""
    return [_row(chapter, list(CHAPTERS[chapter]())) for chapter in chapters]


def _row(chapter: str, parts: Sequence[Part]) -> dict[str, object]:
    whole = functools.reduce(operator.add, (part.step * part.n_steps for part in parts))
    hours = {
        f"hours, {machine.name}": sum(part.n_steps * part.step.seconds(machine, part.precision) for part in parts)
        / 3600
        for machine in MACHINES
    }
    main = max(parts, key=lambda part: part.n_steps * part.step.operations)
    return {
        "chapter": chapter,
        "steps": sum(round(part.n_steps) for part in parts),
        "10^15 operations": whole.operations / 1e15,
        "TB moved": whole.traffic / TERA,
        **hours,
        "CPU, share of its peak": cpu_share(main.ready()),
    }


def cpu_share(work: Call, repeats: int = 5, seconds: float = 0.3) -> float:
    """Of the rate at which this CPU multiplies large matrices in float32: what some work reaches."""
    operations = counted(work).operations
    a, b = torch.rand(1_024, 1_024), torch.rand(1_024, 1_024)
    n_calls = max(1, round(seconds / _seconds(work)))
    shares = []
    for _ in range(repeats):  # in turns: a slow spell of the machine meets both
        peak = 2 * 1_024**3 * 4 / _seconds(lambda: [a @ b for _ in range(4)])
        shares.append(operations * n_calls / _seconds(lambda: [work() for _ in range(n_calls)]) / peak)
    return statistics.median(shares)


def _seconds(work: Call) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
