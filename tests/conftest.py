"""What several files of tests stand on.  Under pytest-xdist the processes share one book."""

import os
import shutil
from pathlib import Path

import matplotlib
import pytest
from filelock import FileLock
from trees import ROOT, TRANSIENT, make_book

matplotlib.use("Agg")  # no window opens
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of two processes wait for each other


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests with the mark ``gpu`` where there is none; ``make gpu-queue`` runs them alone."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of its own for a test, with nothing in it."""
    monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def smoke_book(tmp_path_factory) -> Path:
    """The whole book, every cell executed at smoke scale and rendered strictly; the tree it lies in."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    tree, done = shared / "book" / "tree", shared / "book" / "done"
    with FileLock(shared / "book.lock"):
        if not done.exists():
            shutil.rmtree(tree, ignore_errors=True)
            shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*TRANSIENT))
            result = make_book(tree, "smoke")
            assert result.returncode == 0, result.stdout + result.stderr
            done.touch()
    return tree


@pytest.fixture(scope="session")
def site(smoke_book) -> Path:
    """Its pages."""
    return smoke_book / "_build" / "html"
