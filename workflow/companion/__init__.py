"""The workflow of the book: ``python -m companion COMMAND``; see ``__main__`` for the commands.

- The sources: ``chapters`` (pages, parameters, keys), ``exercises``, ``differences``, ``myst`` (as plain Markdown).
- From sources to results: ``plan``, ``execute``, ``made``; outside the notebooks ``record`` and ``with_gpus``.
- From results to pages: ``collect``, ``scorecard``, ``facts``, ``interactive``, ``api``, ``offered``, ``stage``.
- From pages to the site: ``site``, ``finish``, ``pdf``; ``build`` does all of it, ``serve`` shows it.
- Beside the site: ``notebooks``, ``course``, ``grade``, ``publish``.

Jobs that may write to the repository run ``publish`` without any package: it, ``__main__``, ``plainly`` and
``surroundings`` import only the standard library.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "_build"
