"""Recording a chapter outside its notebook: the tables, what made them, and going on after a kill."""

import json

import pandas as pd
import pytest
from companion import __main__ as companion
from companion import chapters, differences, record

from narrowlib.chapters.hierarchy.experiment import HierarchyConfig
from narrowlib.chapters.mnist.config import MnistConfig
from narrowlib.chapters.two_trees.lasso_training import GroupLassoConfig
from narrowlib.chapters.two_trees.networks import NonlocalityConfig
from narrowlib.chapters.two_trees.nonlocality import PAPER_WIDTHS
from narrowlib.store import records


def run(monkeypatch, *arguments):
    return companion.main(["record", *map(str, arguments)])


def test_the_papers_parameters_are_the_defaults_of_the_library():
    values = record.all_parameters("hierarchy", "paper", "")
    config = record.configured(HierarchyConfig, values)
    assert config == HierarchyConfig(precision=values["precision"])


@pytest.mark.parametrize("chapter", ["nonlocality", "group-lasso"])
def test_the_chapter_and_the_experiment_have_the_same_paper(chapter, monkeypatch):
    asked = []
    for module in (record.nonlocality, record.group_lasso):
        monkeypatch.setattr(module, "paper_tables", lambda *given, **where: asked.append(given))
    record.RECORDED[chapter](record.all_parameters(chapter, "paper", ""))
    (config, *lasso, widths), *_ = asked
    values = record.all_parameters(chapter, "paper", "")
    assert config == NonlocalityConfig(precision=values["precision"])
    assert lasso == ([GroupLassoConfig()] if chapter == "group-lasso" else [])
    assert widths == list(PAPER_WIDTHS)


def test_the_group_lasso_is_recorded_for_the_widths_of_nonlocality_and_its_own(monkeypatch):
    asked = {}
    monkeypatch.setattr(record.group_lasso, "paper_tables", lambda *given, **more: asked.update(more, widths=given[2]))
    values = record.all_parameters("group-lasso", "smoke", "width=20")
    record.RECORDED["group-lasso"](values)
    assert (asked["widths"], asked["shown_width"]) == ([8, 12, 20], 20)
    assert record.departures("group-lasso", values)["n_widths"] == {"here": 2, "paper": 7}


@pytest.mark.parametrize("chapter", record.RECORDED)
def test_only_language_models_depart_from_the_paper_at_its_scale(chapter):
    """A record of another model is never held to the paper's values."""
    departs = record.departures(chapter, record.all_parameters(chapter, "paper", ""))
    assert ("model" in departs) == ("model" in chapters.parameters(chapter))
    assert departs.keys() == differences.of_parameters(chapter).keys()


@pytest.mark.parametrize("chapter", record.RECORDED)
def test_every_record_can_be_made_without_a_gpu(chapter):
    """The profile ``cpu`` names every chapter that is recorded, and sets a folder to leave off in."""
    assert chapters.profile_parameters(chapter, "cpu")["checkpoints"]


def test_mnist_and_its_chapter_have_the_same_paper(monkeypatch):
    asked = []
    monkeypatch.setattr(record.mnist, "paper_tables", lambda config, **where: asked.append(config))
    record.RECORDED["mnist"](record.all_parameters("mnist", "paper", ""))
    assert asked == [MnistConfig()]


def test_unlearning_gets_the_parameters_of_its_chapter(monkeypatch):
    from narrowlib.chapters.unlearning import config as settings
    from narrowlib.chapters.unlearning import experiment as unlearning

    asked = []
    monkeypatch.setattr(unlearning, "unlearning_tables", lambda config, **where: asked.append(config))
    record.RECORDED["unlearning"](record.all_parameters("unlearning", "paper", ""))
    (config,) = asked
    assert (config.methods, config.sparsities) == (settings.METHODS, settings.SPARSITIES)
    assert (config.python, config.scratch) == (settings.PAPER_PYTHON, settings.PAPER_SCRATCH)
    assert config.relearning == settings.PAPER_RELEARNING and config.per_category is None


def test_a_record_says_what_made_it_and_how_that_departs_from_the_paper(tmp_path, monkeypatch, capsys):
    settings = f"n_seeds=1 checkpoints={tmp_path / 'left'}"
    assert run(monkeypatch, "hierarchy", "--profile", "smoke", "--set", settings, "--folder", tmp_path) == 0
    assert "learning-curves.parquet" in capsys.readouterr().out
    kept = records.load("learning-curves", tmp_path / "hierarchy")
    assert kept.config["n_seeds"] == 1 and "checkpoints" not in kept.config
    assert kept.provenance["departures"]["n_seeds"] == {"here": 1, "paper": 40}
    assert not {"device", "checkpoints"} & kept.provenance["departures"].keys()
    assert set(kept.frame["setting"]) == {setting.name for setting in HierarchyConfig().settings}

    before = pd.read_parquet(tmp_path / "hierarchy" / "learning-curves.parquet")
    monkeypatch.setattr("narrowlib.chapters.hierarchy.experiment.train_stack", None)  # nothing is trained a second time
    assert run(monkeypatch, "hierarchy", "--profile", "smoke", "--set", settings, "--folder", tmp_path) == 0
    pd.testing.assert_frame_equal(records.load("learning-curves", tmp_path / "hierarchy").frame, before)


@pytest.mark.parametrize(
    ("chapter", "settings", "says"),
    [
        ("intro", "", f"CHAPTER is 'intro'; nothing is recorded but {', '.join(record.RECORDED)}"),
        ("hierarchy", "n_seeds=0", "n_seeds is 0; it must be a whole number"),
        ("hierarchy", "leave_below=0.1", "leave_below is 0.1; it must be a number in [0, 0.1)"),
        ("hierarchy", "device=cuda", "device is 'cuda', but torch finds no GPU"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, chapter, settings, says):
    if "cuda" in settings:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = (chapter, "--profile", "smoke", "--set", settings, "--folder", tmp_path)
    assert run(monkeypatch, *arguments) == 2
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
