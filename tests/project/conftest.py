"""What several files of these tests ask of the project."""

import subprocess

import pytest
from trees import ROOT


@pytest.fixture(scope="session")
def targets():
    """The commands that ``make help`` lists."""
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {line.split()[1] for line in told.splitlines() if line.startswith("  make ")}
