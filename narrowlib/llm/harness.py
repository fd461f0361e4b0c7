"""Accuracies by the evaluation harness lm-eval: of its own benchmarks, and of the facts of this book."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from narrowlib.store.downloads import UnavailableError

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASKS = Path(__file__).with_name("tasks")  # for the option --include_path of lm-eval
LOCAL = ("narrow_facts_cloze", "narrow_facts_choice")  # need no network


def benchmark_accuracies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str] = LOCAL,
    *,
    batch_size: int = 16,
    limit: int | None = None,
) -> pd.DataFrame:
    """Accuracy of a model on tasks of lm-eval, without examples in the prompt.

    Only numbers come out: neither questions nor answers are kept.  No code of a data set is run.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model, on its device.
    tokenizer : PreTrainedTokenizerBase
    tasks : sequence of str
        Names of tasks: those of `LOCAL`, which need no network; ``counterfact``; any of lm-eval, such as ``arc_easy``
        or ``wmdp_bio``, whose data comes from the Hugging Face hub.
    batch_size : int
        Requests per forward pass.
    limit : int, optional
        Only the first questions of each task.

    Returns
    -------
    DataFrame
        One row per task: ``task``, ``accuracy``, ``standard_error``, ``n_questions``.

    Raises
    ------
    ValueError
        For no task, or one that is not known.
    UnavailableError
        When lm-eval is not installed, or a task's data cannot be had.

    Notes
    -----
    Source: Gao et al. (2024), *The Language Model Evaluation Harness*.
    """
    if isinstance(tasks, str) or not tasks:
        raise ValueError(f"tasks is {tasks!r}; it must be a sequence of at least one name")
    if unknown := sorted(set(tasks) - known_tasks()):
        raise ValueError(f"tasks holds {unknown[0]!r}; neither lm-eval nor {TASKS.name!r} has such a task")
    from lm_eval.models.huggingface import HFLM

    with _quiet():
        harnessed = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        rows = [_accuracy(_task_manager(), harnessed, task, limit) for task in tasks]
    return pd.DataFrame(rows)


def known_tasks() -> set[str]:
    """Names of all tasks, without those of groups of them.

    Raises
    ------
    UnavailableError
        When lm-eval is not installed.
    """
    try:
        with _quiet():
            return set(_task_manager().all_subtasks)
    except ImportError as error:
        raise UnavailableError("lm-eval is not installed; install narrowlib with the extra 'evaluate'") from error


@cache
def _task_manager() -> TaskManager:
    """One for all calls: it reads some ten thousand files."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(TASKS))


def _accuracy(manager: TaskManager, model: HFLM, task: str, limit: int | None) -> dict:
    from lm_eval import simple_evaluate

    options = {"num_fewshot": 0, "limit": limit, "bootstrap_iters": 0, "log_samples": False}
    try:
        found = simple_evaluate(model, tasks=[task], task_manager=manager, **options)
    except (OSError, ValueError) as error:  # what `datasets` raises where the hub cannot be reached
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnavailableError(
            f"the data of {task!r} cannot be downloaded from the Hugging Face hub ({reason}); the tasks "
            f"{' and '.join(LOCAL)} need no network"
        ) from error
    accuracy, n = found["results"][task].get("acc,none"), found["n-samples"][task]["effective"]
    if accuracy is None:
        raise ValueError(f"tasks holds {task!r}, for which lm-eval reports no accuracy; it must be left out")
    return {
        "task": task,
        "accuracy": accuracy,
        "standard_error": (accuracy * (1 - accuracy) / n) ** 0.5,
        "n_questions": n,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """No remarks of lm-eval and its bars, but for errors."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
