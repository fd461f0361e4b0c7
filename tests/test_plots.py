"""The data that figures show; not their pixels."""

import matplotlib

matplotlib.use("Agg")

import io

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from narrowlib.cmsp import CMSP
from narrowlib.experiments.hierarchy import HierarchyConfig, converged_runs, learning_curves
from narrowlib.experiments.methods import example_samples
from narrowlib.plots import book_theme, plot_composite_curves, plot_converged, plot_samples, plot_task_curves


@pytest.fixture(autouse=True)
def figures():
    book_theme()
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def curves():
    config = HierarchyConfig(2, 2, 6, n_seeds=2, width=8, batch_size=8, n_steps=10)
    return learning_curves(config, device="cpu", progress=False)


def labelled(ax):
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def test_task_curves_show_every_task(curves):
    run = curves.query("setting == 'broad, depth 3' and seed == 0")
    lines = labelled(plot_task_curves(run, ax=plt.figure().gca()))
    assert set(lines) == {"{0}, atomic", "{1}, atomic", "{0,1}, composite"}
    shown = lines["{0,1}, composite"].get_ydata()
    assert shown.tolist() == run.query("task == '{0,1}'")["loss"].tolist()
    styles = {name: line.get_linestyle() for name, line in lines.items()}
    assert styles["{0}, atomic"] != styles["{0,1}, composite"]  # not by colour alone


@pytest.mark.parametrize("x", ["n_samples", "n_composite_samples"])
def test_composite_curves_show_every_run(curves, x):
    deep = curves.query("depth == 3 and kind == 'composite'")
    ax = plot_composite_curves(deep, x=x, threshold=0.1, ax=plt.figure().gca())
    runs = [line for line in ax.get_lines() if len(line.get_xdata()) > 2]
    assert len(runs) == 4  # two seeds, broad and narrow
    assert {max(line.get_xdata()) for line in runs} == set(deep.groupby("data")[x].max())
    assert set(labelled(ax)) == {"broad (2 seeds)", "narrow (2 seeds)"}
    assert "samples" in ax.get_xlabel() and "(bits)" in ax.get_ylabel()


def test_converged_shows_shares_and_the_papers(curves):
    table = converged_runs(curves)
    ax = plot_converged(table, paper=pd.Series({"broad, depth 3": 0.675}), ax=plt.figure().gca())
    paper = labelled(ax)["the paper"]
    assert paper.get_xdata()[0] == 0.675 and pd.isna(paper.get_xdata()[1:]).all()
    assert [label.get_text() for label in ax.get_yticklabels()] == table["setting"].tolist()


def test_samples_show_every_bit():
    samples = example_samples(CMSP(2, 2, 6, [(0,), (0, 1)]), 3)
    assert len(samples) == 6 * 8
    counted = samples[samples["counted"]]
    assert counted.groupby("sample")["bit"].sum().mod(2).tolist() == samples.groupby("sample")["label"].first().tolist()
    ax = plot_samples(samples, ax=plt.figure().gca())
    assert len(ax.patches) == len(samples)
    texts = [text.get_text() for text in ax.texts]
    assert sum(text.startswith("label ") for text in texts) == 6


def test_figures_are_the_same_bytes_every_time(curves):
    def drawn():
        figure = plt.figure()
        plot_task_curves(curves.query("setting == 'broad, depth 3' and seed == 0"), ax=figure.gca())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()

    assert drawn() == drawn()
