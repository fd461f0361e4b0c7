"""The data that figures show; not their pixels."""

import io

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from tiny_llamas import tiny_llama

from narrowlib.chapters.hierarchy.config import HierarchyConfig
from narrowlib.chapters.hierarchy.experiment import converged_runs, counted_runs, learning_curves
from narrowlib.chapters.hierarchy.figures import plot_composite_curves, plot_converged, plot_task_curves
from narrowlib.chapters.language.figures.block import plot_llama_block
from narrowlib.chapters.mnist.figures import plot_fronts
from narrowlib.chapters.style import book_theme, figure_data
from narrowlib.chapters.two_trees.figures.curves import plot_pruning_panels, plot_strengths
from narrowlib.chapters.two_trees.figures.neurons import plot_agreement, plot_network, plot_neuron_scores
from narrowlib.llm.units import llama_units


@pytest.fixture(autouse=True)
def figures():
    book_theme()
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def curves():
    config = HierarchyConfig(n_subtasks=2, subset_size=2, n_task_bits=6, n_seeds=2, width=8, batch_size=8, n_steps=10)
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


def test_converged_shows_shares_and_the_papers(curves):
    table = converged_runs(curves)
    paper = counted_runs({"broad, depth 3": (27, 40), "of another experiment": (1, 2)})
    ax = plot_converged(table, paper=paper, ax=plt.figure().gca())
    ours, theirs = (container.lines[0] for container in ax.containers)
    assert ours.get_xdata().tolist() == table["share"].tolist()
    assert theirs.get_xdata()[0] == 27 / 40 and pd.isna(theirs.get_xdata()[1:]).all()
    assert [label.get_text() for label in ax.get_yticklabels()] == table["setting"].tolist()
    assert [text.get_text() for text in ax.texts] == ["0 of 2\n27 of 40 (paper)", *["0 of 2"] * 3]


def test_neurons_are_ordered_by_the_tree_they_serve():
    values = {0: (0.0, 0.5), 1: (0.5, 0.0), 2: (0.3, 0.3)}  # neuron: score on one tree, on the other
    scores = pd.DataFrame(
        [(n, task, task, v) for n, pair in values.items() for task, v in zip(("{0}", "{3}"), pair, strict=True)],
        columns=["neuron", "task", "tree", "score"],
    )
    ax = plot_neuron_scores(scores, ax=plt.figure().gca())
    shown = ax.collections[0].get_array().reshape(2, 3)
    assert shown[0].tolist() == [0.5, 0.3, 1e-4] and shown[1].tolist() == [1e-4, 0.3, 0.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["{0}", "{3}"]


def test_control_stands_apart_and_methods_side_by_side():
    sweep = pd.DataFrame(
        {
            "method": ["subgradient"] * 3 + ["proximal"] * 2,
            "strength": [0.0, 0.01, 0.1, 1.0, 10.0],
            "zeros": [0.0, 0.1, 0.2, 0.5, 0.9],
        }
    )
    ax = plot_strengths(sweep, y="zeros", ax=plt.figure().gca())
    lines = labelled(ax)
    dots, mean = lines["subgradient, each network"], lines["subgradient, mean"]
    assert dots.get_xdata().tolist() == [0.001, 0.01, 0.1] and mean.get_xdata().tolist() == [0.01, 0.1]
    assert lines["proximal, mean"].get_ydata().tolist() == [0.5, 0.9]
    assert mean.get_linestyle() != lines["proximal, mean"].get_linestyle()
    ticks = dict(zip(ax.get_xticks(), (text.get_text() for text in ax.get_xticklabels()), strict=True))
    assert ticks.pop(0.001) == "0"
    assert ticks == {10.0**power: f"$10^{{{power}}}$" for power in (-2, -1, 0, 1)}


def test_agreement_leaves_out_zeros():
    scores = pd.DataFrame({"layer": list("aab"), "ablation": [0.0, 1.0, 2.0], "attribution": [1.0, 3.0, 4.0]})
    lines = labelled(plot_agreement(scores, ax=plt.figure().gca()))
    assert {name: (*line.get_xdata(), *line.get_ydata()) for name, line in lines.items()} == {"a": (1, 3), "b": (2, 4)}
    assert lines["a"].get_marker() != lines["b"].get_marker()


def test_network_draws_every_weight_that_counts():
    rows = [
        (0, 0, 0, 2.0, "control"),
        (0, 1, 0, 0.01, "{0}"),  # too small beside 2
        (0, 0, 1, 0.5, "control"),
        (0, 1, 1, -1.0, "{0}"),
        (1, 0, 0, 1.0, ""),
        (1, 1, 0, -1.0, ""),
    ]
    edges = pd.DataFrame(rows, columns=["layer", "source", "target", "weight", "group"])
    ax = plot_network(edges, ax=plt.figure().gca())
    first, second = ax.collections
    assert (len(first.get_segments()), len(second.get_segments())) == (3, 2)
    assert first.get_linewidths() == pytest.approx([0.3 + 1.7 * size for size in (0.25, 0.5, 1.0)])  # largest on top
    assert first.get_colors()[:, 3] == pytest.approx([0.25, 0.5, 1.0])
    (red, _), blue = (first.get_colors()[[1, 1]], first.get_colors()[2])
    assert red[0] > red[2] and blue[2] > blue[0]
    assert [dashes[1] is None for dashes in first.get_linestyles()] == [True, False, True]  # not by colour alone
    ends = {tuple(map(tuple, segment)) for segment in second.get_segments()}
    assert ends == {((0.25, 1.0), (0.5, 2.0)), ((0.75, 1.0), (0.5, 2.0))}  # neuron 0 stands above input 0
    assert [text.get_text() for text in ax.texts] == ["control", "{0}"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["inputs", "hidden 1\n2 neurons", "labels"]


@pytest.mark.parametrize(("n_values", "shape"), [(3, (2, 3)), (5, (5, 2))])
def test_panels_have_a_task_and_a_value_each(n_values, shape):
    rows = [
        (value, task, 0, sparsity, stage, value / 10)
        for value in range(n_values)
        for task in ("{0}", "{1}")
        for sparsity in (0.0, 0.5)
        for stage in ("pruned", "recovered")
    ]
    columns = ["width", "task", "seed", "sparsity", "stage", "accuracy"]
    figure = plot_pruning_panels(pd.DataFrame(rows, columns=columns), by="width")
    grid = figure.axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == shape
    titles = {ax.get_title(): ax for ax in figure.axes}
    assert set(titles) == {f"{task}, width {value}" for task in ("{0}", "{1}") for value in range(n_values)}
    assert labelled(titles["{1}, width 2"])["after recovery"].get_ydata().tolist() == [0.2, 0.2]


def test_panels_say_when_the_record_is_pending():
    (ax,) = plot_pruning_panels(None, by="width").axes
    assert "pending" in ax.texts[0].get_text()


def test_kept_data_are_the_columns_shown(curves):
    deep = curves.query("depth == 3 and kind == 'composite'")
    figure, ax = plt.subplots()
    plot_composite_curves(deep, x="n_composite_samples", ax=ax)
    kept = figure_data(figure)
    assert kept.columns.tolist() == ["data", "seed", "n_composite_samples", "loss"] and len(kept) == len(deep)
    table = converged_runs(curves)
    figure, ax = plt.subplots()
    plot_converged(table, paper=counted_runs({"broad, depth 3": (27, 40)}), ax=ax)
    assert figure_data(figure)["of"].tolist() == ["here"] * 4 + ["the paper"]


def test_figures_are_the_same_bytes_every_time(curves):
    def drawn():
        figure = plt.figure()
        plot_task_curves(curves.query("setting == 'broad, depth 3' and seed == 0"), ax=figure.gca())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()

    assert drawn() == drawn()


BEST = pd.DataFrame(
    [
        ("attribution", 16, 500.0, 400, 600, True),
        ("attribution", 64, 200.0, 200, 200, True),
        ("from scratch", 16, 900.0, 900, 900, False),
        ("from scratch", 64, 800.0, 700, 900, True),
    ],
    columns=["method", "neurons", "points", "low", "high", "reached"],
)


def test_fronts_show_every_size_and_a_line_per_method():
    ax = plot_fronts(BEST, BEST[BEST["reached"]], ax=plt.figure().gca())
    marks = [line for line in ax.get_lines() if line.get_linestyle() == "None" and len(line.get_xdata())]
    shown = {(x, y) for line in marks for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    assert shown >= set(zip(BEST["neurons"], BEST["points"], strict=True))
    hollow = [line for line in marks if line.get_markerfacecolor() == "white"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in hollow] == [(16, 900)]
    fronts = [line.get_xdata().tolist() for line in ax.get_lines() if line.get_linestyle() != "None"]
    assert [16, 64] in fronts and [64] in fronts
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert {text.get_text() for text in ax.texts} == {
        "attribution",
        "from scratch",
        "hollow: goal missed in most repeats",
    }
    assert [label.get_text() for label in ax.get_xticklabels()] == ["16", "64"]


def test_the_drawing_of_a_block_shows_what_units_own():
    """Beside the units of the library: every matrix that a unit has a part of, along the same axis."""
    ax = plot_llama_block(n_neurons=24, n_residual=32, n_heads=4, n_layers=3)
    drawn = {tuple(row) for row in figure_data(ax.figure)[["unit", "matrix", "part"]].to_numpy()}
    model, owned = tiny_llama(), set()
    for unit, kind in (("neuron", "neurons"), ("residual dimension", "residual"), ("head", "heads")):
        for group in llama_units(model, kind):
            for each in group.slices:
                matrix = each.parameter.split(".")[-2].removesuffix("_proj")
                if "_proj" in each.parameter:
                    owned.add((unit, matrix, ("row", "column")[each.axis]))
    assert drawn == owned
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["neuron (24 in a layer)", "residual dimension (32)", "head (4 in a layer)", "layer (3)"]
