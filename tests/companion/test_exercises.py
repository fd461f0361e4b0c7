"""Exercises with a check: no answer passes as no answer, the folded solution as right, and nonsense not at all."""

import re
from itertools import pairwise

import matplotlib
import pytest
from companion import chapters, parameters

CHECKED = ("nonlocality", "group-lasso", "llm-frontier")
ANSWER = re.compile(r"(\w+) = None  # your answer.*")
SOLUTION = re.compile(r"^````\{solution\} (\S+)$(.*?)^````$", re.M | re.S)
CODE = re.compile(r"^```python$(.*?)^```$", re.M | re.S)
NONSENSE = -12345.0


def tagged(cell, tag):
    return tag in cell.metadata.get("tags", [])


def solutions(chapter):
    """Code of the chapter's folded solutions, by the variable of the exercise that they fill in."""
    blocks = [
        block for _, text in SOLUTION.findall(chapters.source_path(chapter).read_text()) for block in CODE.findall(text)
    ]
    names = [
        ANSWER.fullmatch(cell.source).group(1) for cell in chapters.code_cells(chapter) if tagged(cell, "exercise")
    ]
    return {name: next(block for block in blocks if re.search(rf"^{name} = ", block, re.M)) for name in names}


@pytest.fixture(scope="module", params=CHECKED)
def ran(request):
    """A chapter, and its names after all of its cells at smoke scale, in this process."""
    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    for cell in chapters.code_cells(request.param):
        exec(cell.source, names)
        if tagged(cell, "parameters"):
            names.update(parameters.of_profile(request.param, "smoke"), device="cpu")
    return request.param, names


def checks(chapter):
    cells = chapters.code_cells(chapter)
    pairs = [(cell, after) for cell, after in pairwise(cells) if tagged(cell, "exercise")]
    assert all(tagged(after, "check") for _, after in pairs)
    return {ANSWER.fullmatch(cell.source).group(1): after.source for cell, after in pairs}


def test_at_least_three_exercises_are_checked(ran):
    assert len(checks(ran[0])) >= 3


def test_without_an_answer_the_check_says_so(ran, capsys):
    chapter, names = ran
    for check in checks(chapter).values():
        exec(check, dict(names))
        assert capsys.readouterr().out == "no answer yet\n"


def test_solutions_pass(ran, capsys):
    chapter, names = ran
    for name, solution in solutions(chapter).items():
        mine = dict(names)
        exec(solution, mine)
        assert mine[name] is not None
        capsys.readouterr()
        exec(checks(chapter)[name], mine)
        assert capsys.readouterr().out == "right\n", name


def test_nonsense_does_not_pass(ran):
    chapter, names = ran
    for name, check in checks(chapter).items():
        with pytest.raises(AssertionError):
            exec(check, {**names, name: NONSENSE})
