"""Check the parameters of one chapter and execute it with papermill.

The path of the executed notebook is made from the chapter's key, and the notebook is put there only when every cell
has run.  A failing cell leaves the partial notebook in ``_build/failed``.  The notebook's metadata states under
``narrowlib`` how it was made.
"""

import argparse
import contextlib
import logging
import os
import py_compile
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from companion import chapters, locks, made, parameters, plainly, plan, surroundings

KEPT = 8  # executed notebooks kept per chapter, beside the one in the book
EXECUTING = re.compile(r"Executing Cell (\d+)")  # how papermill announces a cell
# Of a chapter, unless others are asked for, whatever the machine has: the last bits depend on it.  Much of the work is
# too small to be shared out, so two chapters side by side get on faster than one on two cores.
THREADS = 1
ENVIRONMENT = {  # where the user has set nothing else
    "GOMP_SPINCOUNT": "5000",  # a thread that waits longer than 0.1 ms sleeps, and leaves a busy machine its core
    "TQDM_MININTERVAL": "5",  # bars of the library, a line each time
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
HOW = {
    "progress_bar": False,
    "log_output": True,
    "start_timeout": 120,  # seconds; a busy machine may need long to start a kernel
    "coalesce_streams": True,  # else how a printed line is cut depends on how busy the machine is
    "extra_arguments": ["--IPKernelApp.log_level=ERROR"],
}


def execute(chapter: str, values: dict[str, Any], output: Path, threads: int) -> None:
    """Run every cell and put the notebook at ``output``.

    A FailedCellError when a cell fails, or its kernel dies or does not start; the notebook up to there is then at
    `failed_path`.
    """
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    progress = Progress(chapter, len(chapters.read_notebook(chapter).cells) + bool(values))
    compile_by_content(chapter)
    os.environ.update({**ENVIRONMENT, **os.environ})
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        surroundings.leave_personal_settings(Path(folder, "jupyter"))
        source, done = Path(folder, "source.ipynb"), Path(folder, "done.ipynb")
        nbformat.write(made.with_report(chapters.read_notebook(chapter)), source)
        try:
            papermill.execute_notebook(source, done, parameters=values, cwd=chapters.ROOT, **HOW)
        except (PapermillExecutionError, RuntimeError) as error:  # the latter of kernels
            partial = made.without_report(nbformat.read(done, as_version=4))
            chapters.write_if_changed(failed_path(chapter), nbformat.writes(partial))
            if getattr(error, "ename", "") == "SettingsError":  # the page's own check of its parameters
                raise parameters.ParameterError(f"{chapter}: {error.evalue.splitlines()[0]}") from error
            raise FailedCellError(chapter, progress.where(), error) from error
        notebook = nbformat.read(done, as_version=4)
    notebook.metadata["narrowlib"] = made.take_report(notebook, chapter, values)
    _make_reproducible(notebook)
    chapters.write_if_changed(output, nbformat.writes(notebook))
    failed_path(chapter).unlink(missing_ok=True)


def compile_by_content(chapter: str) -> None:
    """Have Python compare compiled modules with their sources by content, which it does by time and size otherwise."""
    for module in chapters.modules(chapter):
        with contextlib.suppress(OSError):  # a checkout that can only be read
            path, mode = str(chapters.module_path(module)), py_compile.PycInvalidationMode.CHECKED_HASH
            py_compile.compile(path, quiet=2, invalidation_mode=mode)


class FailedCellError(plainly.Refusal):
    """A cell that raised, or a kernel that died or did not start."""

    exit_code = 1

    def __init__(self, chapter: str, where: str, error: Exception) -> None:
        needed = plan.memory_mb(chapter, parameters.QUICK) / 1000
        cause = f"{error}; was there enough memory? with the parameters of the page it needs about {needed:.1f} GB"
        if hasattr(error, "ename"):
            first = error.source.strip().splitlines()[0]
            cause = f"{error.ename}: {error.evalue} (in the cell that begins {first!r})"
        kept = os.path.relpath(failed_path(chapter))
        super().__init__(f"chapter {chapter}, {where}: {cause}\nthe notebook up to there: {kept}")


def failed_path(chapter: str) -> Path:
    """Where a chapter stays, up to the cell that failed."""
    return chapters.BUILD / "failed" / f"{chapter.replace('/', '-')}.ipynb"


class Progress:
    """Says on the terminal which cell runs, and passes on the progress bars within it."""

    def __init__(self, chapter: str, n_cells: int) -> None:
        self.n_cells, self.cell = n_cells, 0
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(f"[{chapter}] %(message)s"))
        handler.addFilter(self._is_news)
        logger = logging.getLogger("papermill")
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)

    def where(self) -> str:
        """The cell that runs: ``cell 3 of 25``."""
        return f"cell {self.cell} of {self.n_cells}" if self.cell else "before its first cell"

    def _is_news(self, record: logging.LogRecord) -> bool:
        text = str(record.msg).replace("\r", "\n").strip()
        announced = EXECUTING.match(text)
        if announced:
            if int(announced.group(1)) > self.n_cells:  # the report, which is none of the chapter's cells
                return False
            self.cell = int(announced.group(1))
            record.msg = self.where()
            return True
        record.msg = text.splitlines()[-1] if text else ""
        return bool(text) and record.levelno >= logging.WARNING  # what a cell writes to stderr


def _make_reproducible(notebook: Any) -> None:
    """Remove what says nothing about the result: progress bars, paths of this machine, random cell ids."""
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = f"injected-parameters-{number}"
    notebook.metadata.pop("widgets", None)
    for path in ("input_path", "output_path"):
        notebook.metadata["papermill"].pop(path, None)


def _is_progress(output: Any) -> bool:
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def drop_old(folder: Path) -> None:
    """Keep the newest executed notebooks of a chapter, and the one that is in the book."""
    in_book = plan.read_plan()["executed"].values()
    newest_first = sorted(folder.glob("*.ipynb"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest_first[KEPT:]:
        if path.relative_to(chapters.ROOT).as_posix() not in in_book:
            path.unlink()


def threads_of(asked: str | int, name: str = "threads") -> int:
    """`narrowlib.machine.count_threads` of what was asked for; its refusal is told as one of the command."""
    from narrowlib.machine import count_threads

    try:
        return count_threads(asked, name)
    except ValueError as error:
        raise plainly.Refusal(error) from error


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapter", help="name of the chapter, such as hierarchy")
    parser.add_argument("--profile", default=parameters.QUICK, help="smoke, quick or paper")
    parser.add_argument("--set", default="", dest="overrides", help="parameters: 'n_seeds=4 n_steps=500'")
    parser.add_argument("--again", action="store_true", help="execute even if a result exists")
    parser.add_argument("--threads", default=THREADS, help="CPU threads; all for one per core")
    asked = parser.parse_args(arguments)
    threads = threads_of(asked.threads)
    values = parameters.chosen(asked.chapter, asked.profile, asked.overrides)
    output = chapters.executed_path(asked.chapter, values)
    with locks.one_at_a_time(output.stem, f"another process is executing {asked.chapter}; waiting for it"):
        if output.is_file() and not asked.again:
            print(f"{asked.chapter}: up to date (AGAIN=1 executes it again)")
            output.touch()
        else:
            execute(asked.chapter, values, output, threads)
            drop_old(output.parent)
    print(os.path.relpath(output))
    return 0
