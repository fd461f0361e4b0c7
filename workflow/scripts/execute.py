"""Execute one chapter with papermill, its parameters checked first.

The executed notebook lies at a path made from the chapter's key and is put there only when every cell
has run.  A failing cell leaves the partial notebook in ``_build/failed``.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import chapters

KEPT = 8  # executed notebooks kept per chapter
EXECUTING = re.compile(r"Executing Cell (\d+)")  # how papermill announces a cell
STARTUP_SECONDS = 120  # a busy machine may need long to start a kernel


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapter", help="name of the chapter, such as hierarchy")
    parser.add_argument("--profile", default=chapters.DEFAULT_PROFILE, help="smoke, quick or paper")
    parser.add_argument("--set", default="", dest="overrides", help="parameters: 'n_seeds=4 n_steps=500'")
    parser.add_argument("--again", action="store_true", help="execute even when a result is there")
    return parser.parse_args()


def chosen_parameters(chapter: str, profile: str, overrides: str) -> dict[str, Any]:
    """The profile's parameters with the overrides on top, checked."""
    if chapter not in chapters.names():
        raise chapters.ParameterError(f"CHAPTER is {chapter!r}; it must be one of {', '.join(chapters.names())}")
    try:
        words = shlex.split(overrides)
    except ValueError as error:
        raise chapters.ParameterError(f"P is {overrides!r}; it cannot be split into words: {error}") from None
    given = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise chapters.ParameterError(f"P holds {word!r}; it must hold name=value, separated by spaces")
        given[name] = value
    return {**chapters.profile_parameters(chapter, profile), **chapters.check_parameters(chapter, given)}


def execute(chapter: str, values: dict[str, Any], output: Path) -> None:
    """Run every cell and put the notebook at ``output``.

    Raises
    ------
    papermill.PapermillExecutionError
        When a cell fails; the partial notebook is then at `failed_path`.
    """
    import nbformat
    import papermill

    _show_progress(chapter, len(chapters.read_notebook(chapter).cells) + bool(values))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(chapters.ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("TQDM_MININTERVAL", "5")  # bars of the library, a line each time
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this environment, not of the user
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # bars as text are what is wanted here
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    source, partial = failed_path(chapter).with_suffix(".source.ipynb"), failed_path(chapter)
    partial.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(chapters.read_notebook(chapter), source)
    try:
        papermill.execute_notebook(
            source,
            partial,
            parameters=values,
            cwd=chapters.ROOT,
            progress_bar=False,
            log_output=True,
            start_timeout=STARTUP_SECONDS,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
    finally:
        source.unlink()
    notebook = nbformat.read(partial, as_version=4)
    _make_reproducible(notebook)
    chapters.write_if_changed(output, nbformat.writes(notebook))
    partial.unlink()


def failed_path(chapter: str) -> Path:
    """Where a chapter lies while it runs, and stays when a cell fails."""
    return chapters.BUILD / "failed" / f"{chapter.replace('/', '-')}.ipynb"


def _show_progress(chapter: str, n_cells: int) -> None:
    """Say on the terminal which cell runs, and pass on the progress bars within it."""

    def is_news(record: logging.LogRecord) -> bool:
        text = str(record.msg).replace("\r", "\n").strip()
        cell = EXECUTING.match(text)
        if cell:
            record.msg = f"cell {cell.group(1)} of {n_cells}"
            return True
        record.msg = text.splitlines()[-1] if text else ""
        return bool(text) and record.levelno >= logging.WARNING  # what a cell writes to stderr

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"[{chapter}] %(message)s"))
    handler.addFilter(is_news)
    logger = logging.getLogger("papermill")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


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
    """Keep the newest executed notebooks of a chapter."""
    newest_first = sorted(folder.glob("*.ipynb"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest_first[KEPT:]:
        path.unlink()


def main() -> int:
    asked = arguments()
    try:
        values = chosen_parameters(asked.chapter, asked.profile, asked.overrides)
    except chapters.ParameterError as error:
        print(error, file=sys.stderr)
        return 2
    output = chapters.executed_path(asked.chapter, values)
    if output.is_file() and not asked.again:
        print(f"{asked.chapter}: nothing it depends on has changed since it was executed (AGAIN=1 executes it again)")
    else:
        from papermill.exceptions import PapermillExecutionError

        try:
            execute(asked.chapter, values, output)
        except PapermillExecutionError as error:
            first_line = error.source.strip().splitlines()[0]
            print(
                f"chapter {asked.chapter}, cell {error.exec_count} ({first_line}): {error.ename}: {error.evalue}\n"
                f"the notebook up to there: {os.path.relpath(failed_path(asked.chapter))}",
                file=sys.stderr,
            )
            return 1
        drop_old(output.parent)
    print(os.path.relpath(output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
