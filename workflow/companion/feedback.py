"""Pages of feedback, drawn by nbgrader in a process that a page may take down without ending the run."""

import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from companion import chapters, course, myst, submissions

PAGE_SECONDS = 120
_PICTURE = re.compile(r"attachment:([^\s)>\"']+)")  # one that is not there stops nbconvert


def page(notebook: Any, row: submissions.Row) -> str:
    """The feedback of nbgrader as HTML, without scripts of the student's."""
    from nbconvert.exporters import HTMLExporter
    from nbconvert.preprocessors.sanitize import SanitizeHTML
    from nbgrader.converters import GenerateFeedback
    from nbgrader.utils import determine_grade

    exporter = HTMLExporter(config=GenerateFeedback().config, sanitize_html=True)
    exporter.register_preprocessor(SanitizeHTML(), enabled=True)
    about = {"notebook": f"{row.student}: {row.notebook}", "late_penalty": 0}
    about.update(score=row.points or 0, max_score=row.of or 0)
    for cell in submissions.graded_cells(notebook):
        cell.metadata["nbgrader"]["score"] = determine_grade(cell)[0] or 0
    for cell in notebook.cells:
        there = cell.get("attachments", {})
        cell.source = _PICTURE.sub(lambda found, there=there: found[0] if found[1] in there else found[1], cell.source)
    if row.reason:
        notebook.cells.insert(0, myst.markdown_cell(f"**{row.reason}**", "reason"))
    return exporter.from_notebook_node(notebook, resources={"nbgrader": about})[0]


class Pages:
    """A process that draws pages; a new one after a page that it could not draw."""

    def __init__(self) -> None:
        self.pool: ProcessPoolExecutor | None = None

    def write(self, notebook: Any, row: submissions.Row) -> str:
        """Write the page of a row; returns what went wrong."""
        self.pool = self.pool or ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            text = self.pool.submit(page, notebook, row).result(PAGE_SECONDS)
            chapters.write_if_changed(course.FOLDER / "feedback" / f"{row.notebook}.html", text)
        except Exception as error:
            self.close()
            return f"its feedback page could not be written ({type(error).__name__})"
        return ""

    def close(self) -> None:
        """End the process."""
        if self.pool:
            for process in self.pool._processes.values():
                process.kill()
            self.pool.shutdown(cancel_futures=True)
        self.pool = None
