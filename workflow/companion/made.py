"""What an executed notebook was made with: commit, versions, device, parameters, memory.

The kernel reports what only it knows in a last cell, which is taken out again once it has run.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any

from companion import chapters, myst, parameters
from narrowlib.store.provenance import git_state

PACKAGES = ("torch", "numpy", "pandas", "scipy", "matplotlib", "seaborn", "torchvision", "transformers", "datasets")
TAG = "report"
REPORT = f"""
import json, platform, sys
from importlib import metadata
from narrowlib.store.provenance import processor_name

torch = sys.modules.get("torch")
on_gpu = torch is not None and torch.cuda.is_initialized()
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
except ImportError:  # Windows
    import psutil
    peak = psutil.Process().memory_info().peak_wset
print(json.dumps({{
    "versions": {{"python": platform.python_version()}}
    | {{name: metadata.version(name) for name in {PACKAGES!r} if name in sys.modules}},
    "platform": f"{{platform.system()}} {{platform.machine()}}",
    "device": torch.cuda.get_device_name() if on_gpu else processor_name(),
    "n_threads": torch.get_num_threads() if torch is not None and not on_gpu else None,
    "peak_memory_bytes": peak,
    "peak_gpu_memory_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,
}}))
"""


def with_report(notebook: Any) -> Any:
    """The notebook with the cell that reports at its end."""
    import nbformat

    longer = copy.deepcopy(notebook)
    longer.cells.append(nbformat.v4.new_code_cell(REPORT.strip(), metadata={"tags": [TAG]}, id=TAG))
    return longer


def without_report(notebook: Any) -> Any:
    """The notebook without that cell, which has perhaps not run."""
    notebook.cells = [cell for cell in notebook.cells if TAG not in cell.metadata.get("tags", [])]
    return notebook


def take_report(notebook: Any, chapter: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Take the reporting cell out of an executed notebook.

    Returns
    -------
    dict
        What the kernel reported: ``versions``, ``platform``, ``device``, ``n_threads``, ``peak_memory_bytes``,
        ``peak_gpu_memory_bytes``.  And ``commit`` with ``dirty``, see `git_state`, ``parameters`` (all, with the
        defaults), ``source`` (the chapter's file), and ``lines``, first and last in that file, of every code cell.
    """
    report = notebook.cells[-1]
    without_report(notebook)
    said = json.loads("".join(output["text"] for output in report.outputs if output.get("name") == "stdout"))
    return {
        **said,
        **git_state(chapters.ROOT),
        "parameters": {**parameters.quick(chapter), **values},
        "source": chapters.source_path(chapter).relative_to(chapters.ROOT).as_posix(),
        "lines": code_lines(chapters.text_of(chapters.source_path(chapter))),
    }


def code_lines(source: str) -> list[tuple[int, int]]:
    """First and last line, counted from 1, of every code cell of a MyST notebook, its fences included."""
    cells = [token.map for token in myst.fences(source) if token.info.startswith("{code-cell}")]
    return [(first + 1, last) for first, last in cells]
