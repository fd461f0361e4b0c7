"""The half of grading that runs what a student wrote: execute a notebook and keep its answers as plain data.

Nothing here knows a check or a solution, and only numbers, texts and lists of them leave: whatever else a notebook does
to its process, to Python or to the file of answers, it can only change its own answers.
"""

import contextlib
import json
import numbers
import os
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

ANSWERS, NOTEBOOK = "answers.jsonl", "notebook.ipynb"
N_RUNS = 5  # one more each time that a cell takes the kernel down or does not end: it is left out of the next
MOST_OUTPUT = 1_000_000  # characters kept of all that a notebook prints
MOST_ANSWER = 1_000_000  # characters of one answer, whose length would cost the others
GIB = 2**30


def plain(value: Any) -> Any:
    """The value as numbers, texts, truth values, and lists and dictionaries of these; a TypeError for another."""
    if hasattr(value, "tolist"):  # of numpy, pandas or torch
        value = value.tolist()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, numbers.Real | Decimal):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    raise TypeError(f"it is of type {type(value).__name__}; it must be a number, a text, or a list of these")


def show(path: str, label: str, names: list[str]) -> None:
    """Append one line to the file of answers: what the notebook's names hold now, None where one is not set."""
    space, values = sys.modules["__main__"].__dict__, {}
    for name in names:
        try:
            values[name] = plain(space.get(name))
            if len(json.dumps(values[name])) > MOST_ANSWER:
                raise ValueError(f"it is longer than {MOST_ANSWER:,} characters")
        except Exception as error:
            values = f"{name}: {error}"
            break
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps([label, values]) + "\n")


def run(path: Path, seconds: float) -> None:
    """Execute the notebook in place; a cell that fails stops nothing, one that ends the kernel is left out."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    class Client(NotebookClient):
        n_printed = 0

        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            self.n_printed += len(str(msg["content"])) if msg["msg_type"] != "status" else 0
            if msg["msg_type"] == "status" or self.n_printed < MOST_OUTPUT:
                return super().process_message(msg, cell, cell_index)

    notebook, at = nbformat.read(path, as_version=4), 0

    def started(cell: Any, cell_index: int) -> None:
        nonlocal at
        at = cell_index

    for _ in range(N_RUNS):
        client = Client(notebook, timeout=seconds, allow_errors=True, on_cell_start=started, startup_timeout=120)
        client.iopub_timeout, client.shutdown_kernel, client.store_widget_state = 30, "immediate", False
        try:
            client.execute()
            break
        except (CellTimeoutError, DeadKernelError) as error:
            slow = isinstance(error, CellTimeoutError)
            why = f"it did not end within {seconds:g} seconds" if slow else "it stopped the kernel"
            notebook.cells[at].metadata["tags"] = [client.skip_cells_with_tag]
            said = {"ename": "LeftOut", "evalue": why, "traceback": [f"this cell was left out: {why}"]}
            notebook.cells[at].outputs = [nbformat.v4.new_output("error", **said)]
    done = path.with_suffix(".done")
    nbformat.write(notebook, done)
    done.replace(path)


def limit() -> None:
    """Bound what this process and its kernels can take of memory and disk, where the system knows how."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        wanted = {"RLIMIT_DATA": int(0.8 * memory), "RLIMIT_FSIZE": 4 * GIB, "RLIMIT_CORE": 0}
        for name, most in wanted.items():
            resource.setrlimit(getattr(resource, name), (most, most))


if __name__ == "__main__":
    limit()
    run(Path(sys.argv[1]) / NOTEBOOK, float(sys.argv[2]))
