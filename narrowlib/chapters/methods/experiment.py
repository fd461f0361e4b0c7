"""Samples of the task for the chapter on methods."""

import pandas as pd
import torch

from narrowlib.cmsp import CMSP, sample_batch, task_name


def example_samples(problem: CMSP, n_samples: int, *, seed: int = 0) -> pd.DataFrame:
    """A few samples of every task, one row per bit.

    Returns
    -------
    DataFrame
        ``sample``, ``task``, ``position`` (0 is the first control bit), ``bit``, ``role`` (control, a
        sub-task, or unused), ``counted`` (whether the bit enters the label), ``label``.
    """
    x, y = sample_batch(problem, n_samples, [torch.Generator().manual_seed(seed)])
    owner = {position: f"sub-task {i}" for i, subset in enumerate(problem.subsets) for position in subset}
    rows = []
    for t, task in enumerate(problem.tasks):
        counted = set(problem.positions(task))
        for s in range(n_samples):
            for position, bit in enumerate(x[0, t, s].int().tolist()):
                place = position - problem.n_subtasks  # among the task bits
                rows.append(
                    {
                        "sample": t * n_samples + s,
                        "task": task_name(task),
                        "position": position,
                        "bit": bit,
                        "role": "control" if place < 0 else owner.get(place, "unused"),
                        "counted": place in counted,
                        "label": int(y[0, t, s]),
                    }
                )
    return pd.DataFrame(rows)
