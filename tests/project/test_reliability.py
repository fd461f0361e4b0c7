"""RELIABILITY.md says what was found, and the scripts that find it see what they look for."""

import os
import re
import subprocess
import sys
from itertools import pairwise

import pandas as pd
import pytest
from trees import ROOT, environment_of

from narrowlib.cmsp import CMSP, broad_tasks
from narrowlib.store.kept import Kept

sys.path.insert(0, str(ROOT))

from reliability import children, kills, page, roofline
from reliability.__main__ import CHECKS, FAULTS, merged


def test_the_page_is_made_from_what_was_found():
    assert page.PAGE.read_text() == page.filled(page.PAGE.read_text(), page.read())


@pytest.mark.parametrize("check", ["kills", "sameness", "long-run"])
def test_a_chapter_without_a_row_is_named(check):
    """Whatever chapters there are: nobody keeps their list."""
    about = {"rows": [{"chapter": "peak memory of mnist"}, {"chapter": "hierarchy, larger"}, {"chapter": "_build"}]}
    left = page.not_run(check, about)
    assert {"nonlocality", "lasso-map", "ranking"} <= set(left) and not {"mnist", "hierarchy"} & set(left)
    assert ("recipe" in left) == (check == "long-run")  # which has pages without a record
    made = dict.fromkeys(("device", "python", "torch", "time"), "") | {"seconds": 1}
    filled = page.filled(f"<!-- {check} -->\n<!-- end -->", {check: about | {"made": made}})
    assert f"Not run yet for {', '.join(left)}." in filled


def test_every_record_has_a_roofline():
    assert set(roofline.CHAPTERS) == set(page.chapters_of("roofline"))


def test_rows_of_the_roofline_are_sums_over_parts_and_the_share_is_of_the_largest():
    problem = CMSP(2, 2, 8, broad_tasks(2))
    small, large = (roofline._of_stack("a", 3, 2, problem, [(10, n, n, 2)], 8, "float32") for n in (8, 64))
    row = roofline._row("chapter", [small, large])
    assert row["10^15 operations"] == pytest.approx(3e-15 * (small.step + large.step).operations)
    assert row["steps"] == 6 and 0 < row["hours, H100"] < row["hours, T4"] and 0 < row["CPU, share of its peak"] < 2
    assert roofline.counted(large.ready()).operations == pytest.approx(large.step.operations)  # of both runs


def test_every_check_has_its_table():
    text = page.PAGE.read_text()
    assert all(f"<!-- {name} -->" in text for name in (*CHECKS, "fuzz"))


FOUND = page.read()


@pytest.mark.parametrize("name", [name for name in ("kills", "builds", "sameness") if name in FOUND])
def test_what_was_found_is_as_promised(name):
    for row in FOUND[name]["rows"]:
        assert not [fault for fault in FAULTS if row.get(fault)], row
        assert row.get("kills", 20) >= 20 and row.get("tables", 1) > 0, row


@pytest.mark.skipif("precision" not in FOUND, reason="was not run yet")
def test_outcomes_in_bfloat16_are_those_of_float32():
    """The paired intervals hold 0, and no difference is as large as what the claims let pass."""
    for row in FOUND["precision"]["rows"]:
        assert row["low"] <= 0 <= row["high"] and abs(row["difference"]) < 0.05, row


def test_every_file_that_the_page_names_is_there():
    for name in re.findall(r"`((?:tests|book|results)/[\w./-]+)`", page.PAGE.read_text()):
        assert (ROOT / name).exists(), name


def test_a_piece_written_again_is_seen(tmp_path):
    store = Kept(tmp_path / "left", {})

    def keep(inputs):
        store.keep("table", lambda: pd.DataFrame({"loss": [0.5]}), inputs=inputs)
        return kills.finished_pieces(tmp_path)

    before = keep(1)
    assert sorted(path.name for path in before) == ["kept.json", "result.parquet"]
    assert keep(1) == before and kills.changed(before) == 0
    again = tmp_path / "again"
    (piece,) = (path for path in before if path.suffix == ".parquet")
    again.write_bytes(piece.read_bytes())
    again.replace(piece)
    assert kills.changed(before) == 1
    keep(2)  # takes its place
    assert kills.changed(before) == 2


def test_what_a_run_cost_is_no_difference(tmp_path):
    sums = []
    for folder, seconds, loss in (("a", 1.0, 0.5), ("b", 2.0, 0.5), ("c", 1.0, 0.25)):
        (tmp_path / folder / "chapter").mkdir(parents=True)
        frame = pd.DataFrame({"loss": [loss], "seconds": [seconds]})
        frame.to_parquet(tmp_path / folder / "chapter" / "runs.parquet")
        sums.append(children.tables("chapter", tmp_path / folder))
    assert sums[0] == sums[1] != sums[2]


def test_new_rows_take_the_place_of_those_of_the_same_chapter():
    before = {"rows": [{"chapter": "a", "kills": 1}, {"chapter": "b", "kills": 1}]}
    new = {"chapter": "b", "kills": 2}
    assert merged(before, [new]) == [{"chapter": "a", "kills": 1}, new]
    assert merged(None, [{"kills": 3}]) == [{"kills": 3}]


def test_an_unknown_check_is_refused():
    command = [sys.executable, "-m", "reliability", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == f"ONLY is 'nothing'; it must be one of {', '.join(CHECKS)}\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the scripts fork")
def test_a_killed_recording_comes_to_the_same_end():
    """The long check itself, with two kills."""
    code = (
        "from reliability.kills import killed_chapter; import json; print(json.dumps(killed_chapter('hierarchy', 2)))"
    )
    environment = environment_of(ROOT) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert '"kills": 2' in done.stdout
    assert '"finished pieces made again": 0' in done.stdout and '"tables that differ": 0' in done.stdout


def test_operations_of_a_step_are_those_of_its_matrix_products():
    """Forward, gradient of weights, and gradient of activations, which the first layer does without."""
    problem, sizes, n = CMSP(2, 2, 8, broad_tasks(2)), (10, 24, 16, 2), 50
    products = [a * b for a, b in pairwise(sizes)]
    expected = 2 * problem.n_tasks * n * (3 * sum(products) - products[0])
    cost = roofline.stack_step(problem, sizes, n)
    assert cost.operations == pytest.approx(expected)
    assert cost.traffic > 4 * expected / 24 and cost.seconds(roofline.MACHINES[2], "float32") > 0
