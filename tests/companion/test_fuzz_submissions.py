"""Anything that a student hands in: put back into the form of the course, or refused in a sentence."""

import json

import nbformat
from companion import course, myst, submissions
from fuzzing import fuzzed, paths, replaced
from hypothesis import given
from hypothesis import strategies as st

COURSE = nbformat.v4.new_notebook(
    cells=[
        course.marked(myst.code_cell("n = 1", "one"), grade_id=course.PARAMETERS, locked=True),
        course.marked(myst.code_cell("x = None", "two"), grade_id="ex-a-answer", solution=True),
        course.marked(myst.code_cell("judge(x)", "three"), grade_id="ex-a-check", locked=True, points=1),
    ],
    metadata={"narrowlib": {"chapter": "a"}},
)
HANDED_IN = json.loads(nbformat.writes(COURSE))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
CHANGED = st.builds(replaced, st.just(HANDED_IN), st.sampled_from(list(paths(HANDED_IN))), JSON)
CELLS = st.lists(st.sampled_from(HANDED_IN["cells"]) | JSON, max_size=5)
WRITTEN = (CHANGED | CELLS.map(lambda cells: {**HANDED_IN, "cells": cells}) | JSON).map(json.dumps)
ENCODED = st.builds(str.encode, WRITTEN, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"]))
CUT = st.builds(lambda data, end: data[:end], ENCODED, st.integers(0, 2_000))


@fuzzed("notebooks that were handed in")
@given(ENCODED | CUT | st.binary(max_size=40), st.sampled_from([".ipynb", ".IPYNB", ".ipynb.txt", ""]))
def test_anything_is_put_back_into_the_course_or_refused_in_a_sentence(tmp_path_factory, content, ending):
    path = tmp_path_factory.getbasetemp() / f"handed-in{ending}"
    path.write_bytes(content)
    try:
        submitted = submissions.read(path)
        chapter = submissions.chapter_of(submitted, {"a": COURSE})
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
        return
    notebook = submissions.assembled(submitted, {"a": COURSE}[chapter])
    nbformat.validate(notebook)
    known = submissions.known_cells(notebook)
    assert set(known) - {"ex-a-answer"} == {course.PARAMETERS, "ex-a-check"}
    assert [known[name].source for name in (course.PARAMETERS, "ex-a-check")] == ["n = 1", "judge(x)"]
    assert notebook.metadata == COURSE.metadata and json.loads(nbformat.writes(notebook))
    nbformat.writes(notebook).encode()
