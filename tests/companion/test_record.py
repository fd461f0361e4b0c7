"""Recording a chapter outside its notebook: the tables, what made them, and going on after a kill."""

import json
import os
import types
from functools import partial

import pandas as pd
import pytest
import torch
from companion import __main__ as companion
from companion import differences, night, parameters, record

from narrowlib.chapters.hierarchy.config import HierarchyConfig
from narrowlib.llm.small_base import STAND_IN
from narrowlib.store import records
from narrowlib.store.files import sha256_of

RECORDED = record.recorded()


def run(*arguments):
    return companion.main(["record", *map(str, arguments)])


@pytest.mark.parametrize("chapter", RECORDED)
def test_only_language_models_depart_from_the_paper_at_its_scale(chapter):
    """A record of another model is never held to the paper's values."""
    departs = record.departures(chapter, record.all_parameters(chapter, "paper", ""))
    assert ("model" in departs) == ("model" in parameters.quick(chapter))
    assert departs.keys() == differences.of_parameters(chapter).keys()


@pytest.mark.parametrize("chapter", RECORDED)
def test_every_record_can_be_made_without_a_gpu(chapter):
    """The profile ``overnight`` names every chapter that is recorded, and sets a folder to resume from."""
    assert parameters.of_profile(chapter, "overnight")["checkpoints"]


def test_the_group_lasso_is_recorded_for_the_widths_of_nonlocality_and_its_own():
    config = record.configuration(RECORDED["group-lasso"], record.all_parameters("group-lasso", "smoke", "width=20"))
    assert (sorted({*config.widths, config.width}), config.width) == ([8, 12, 20], 20)


def test_a_record_says_what_made_it_and_how_that_departs_from_the_paper(tmp_path, monkeypatch, capsys):
    settings = f"n_seeds=1 checkpoints={tmp_path / 'left'}"
    assert run("hierarchy", "--profile", "smoke", "--set", settings, "--folder", tmp_path) == 0
    assert "learning-curves.parquet" in capsys.readouterr().out
    kept = records.load("learning-curves", tmp_path / "hierarchy")
    assert kept.config["n_seeds"] == 1 and "checkpoints" not in kept.config
    assert kept.provenance["departures"]["n_seeds"] == {"here": 1, "paper": 40}
    assert not {"device", "checkpoints"} & kept.provenance["departures"].keys()
    assert set(kept.frame["setting"]) == {setting.name for setting in HierarchyConfig().settings}

    before = pd.read_parquet(tmp_path / "hierarchy" / "learning-curves.parquet")
    monkeypatch.setattr("narrowlib.chapters.hierarchy.experiment.train_stack", None)  # nothing is trained a second time
    assert run("hierarchy", "--profile", "smoke", "--set", settings, "--folder", tmp_path) == 0
    pd.testing.assert_frame_equal(records.load("learning-curves", tmp_path / "hierarchy").frame, before)


def test_files_of_a_record_lie_beside_it_with_their_sums(tmp_path, monkeypatch, capsys):
    weights = tmp_path / "made"
    weights.write_bytes(b"weights")
    module = types.SimpleNamespace(Config=RECORDED["small-base"].Config)
    module.tables = lambda config: {"losses": pd.DataFrame({"loss": [float(config.n_layers)]})}
    module.files = lambda config: {"model/weights": weights}
    monkeypatch.setattr(record, "recorded", lambda: {"small-base": module})
    assert run("small-base", "--profile", "smoke", "--set", "n_layers=3", "--folder", tmp_path) == 0
    kept, path = records.load("losses", tmp_path / "small-base"), tmp_path / "small-base" / "model" / "weights"
    assert kept.provenance["files"] == {"model/weights": sha256_of(path)} and path.read_bytes() == b"weights"
    assert kept.frame["loss"].tolist() == [3.0]


def test_the_recipe_of_the_small_base_is_its_overnight_record_and_its_stand_in_the_page():
    config = RECORDED["small-base"].Config
    recipe = config.from_parameters(record.all_parameters("small-base", "overnight", ""))
    assert recipe == config(checkpoints=recipe.checkpoints)
    assert config.from_parameters(parameters.quick("small-base")).recipe == STAND_IN


def test_a_record_takes_as_many_threads_as_are_asked_for_and_says_so(tmp_path, request):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    found = {}
    for threads in ("1", "all"):
        asked = ("--profile", "smoke", "--set", "width=512 batch_size=64 checkpoints=", "--threads", threads)
        assert run("hierarchy", *asked, "--folder", tmp_path / threads) == 0
        found[threads] = records.load("learning-curves", tmp_path / threads / "hierarchy")
    n_threads = [kept.provenance["n_threads"] for kept in found.values()]
    assert n_threads == [1, len(os.sched_getaffinity(0))]
    pd.testing.assert_frame_equal(*(kept.frame for kept in found.values()), rtol=1e-3)
    assert run("hierarchy", "--threads", "two") == 2


@pytest.mark.parametrize(
    ("chapter", "settings", "says"),
    [
        ("intro", "", f"CHAPTER is 'intro'; it must be one of {', '.join(RECORDED)}"),
        ("hierarchy", "leave_below=0.1", "leave_below is 0.1; it must be a number of at least 0 and below 0.1"),
        ("hierarchy", "device=cuda", "device is 'cuda', but torch finds no GPU"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, chapter, settings, says):
    if "cuda" in settings:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = (chapter, "--profile", "smoke", "--set", settings, "--folder", tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_paper_record_is_there_or_not_or_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PAPER_RESULTS", tmp_path)
    assert records.paper_record("hierarchy", "learning-curves") is None
    records.save(records.Record("learning-curves", pd.DataFrame({"loss": [1.0]})), tmp_path / "hierarchy")
    assert records.paper_record("hierarchy", "learning-curves").frame["loss"].tolist() == [1.0]
    about = tmp_path / "hierarchy" / "learning-curves.json"
    about.write_text(json.dumps({"sha256": "0"}))
    with pytest.raises(records.BadRecordError, match="damaged"):
        records.paper_record("hierarchy", "learning-curves")


@pytest.fixture
def recorded_once(tmp_path, monkeypatch):
    """One record, of two chapters that are recorded, made with the parameters of the profile smoke in 7,200 s."""
    known = {name: RECORDED[name] for name in ("hierarchy", "ranking")}
    config = record.configuration(known["ranking"], record.all_parameters("ranking", "smoke", ""))
    made = {"seconds": 7_200, "reference_seconds": 2.0, "n_threads": 2}
    kept = records.Record("points", pd.DataFrame({"seed": [0]}), record.what(config), made)
    records.save(kept, tmp_path / "ranking")
    monkeypatch.setattr(record, "recorded", lambda: known)
    monkeypatch.setattr(records, "PAPER_RESULTS", tmp_path)
    monkeypatch.setattr("narrowlib.machine.reference_seconds", lambda: 3.0)


def test_all_records_are_told_with_their_time_and_one_that_fails_stops_no_other(recorded_once, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(night.subprocess, "call", lambda command: called.append(command[3:]) or len(called) == 1)
    assert companion.main(["records", "--profile", "smoke", "--set=device=cpu"]) == 1
    assert [command[:2] for command in called] == [["record", "hierarchy"], ["record", "ranking"]]
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == [
        "  hierarchy  not known: no record was made with these parameters",
        "  ranking    3 h 00 min",  # this machine takes three seconds for what the other did in two
    ]
    assert told[2:] == [
        "all chapters: at least 3 h 00 min",
        "[1 of 2] hierarchy; until all is done: at least 3 h 00 min",
        "[2 of 2] ranking; until all is done: 3 h 00 min",
    ]


def test_other_parameters_take_another_time(recorded_once):
    asked = record.options().parse_args(["--profile", "smoke", "--set=n_repeats=9 device=cpu"])
    assert night.expected("ranking", asked, 2.0) is None
    wrong = record.options().parse_args(["--profile", "smoke", "--set=n_repeats=none"])
    assert night.expected("ranking", wrong, 2.0) is None  # and its record says why
