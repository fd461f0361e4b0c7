"""The data that is kept with a figure."""

import io
import math
from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from narrowlib.chapters import style as figures
from narrowlib.chapters.style import MEDIA_TYPE, as_csv, figure_data, keep_data, publish_data
from narrowlib.chapters.two_trees.figures.neurons import plot_norms

NORMS = pd.DataFrame({"step": [0, 5, 0, 5], "neuron": [0, 0, 1, 1], "norm": [1.0, 0.5, 2.0, 1 / 3]})


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_one_panel_is_its_table():
    figure, ax = plt.subplots()
    plot_norms(NORMS.assign(layer="first"), ax=ax)
    pd.testing.assert_frame_equal(figure_data(figure), NORMS)


def test_panels_are_named_by_number_and_title():
    figure, axes = plt.subplots(1, 2)
    for ax, (_, frame) in zip(axes, NORMS.groupby("neuron"), strict=True):
        plot_norms(frame, ax=ax)
    axes[0].set_title("one\nneuron")  # after drawing, as chapters do
    data = figure_data(figure)
    assert data["panel"].tolist() == ["1: one neuron"] * 2 + ["2"] * 2
    pd.testing.assert_frame_equal(data[list(NORMS)], NORMS)


def test_what_is_kept_does_not_change_with_the_table():
    figure, ax = plt.subplots()
    frame = NORMS.copy()
    keep_data(ax, frame)
    frame["norm"] = 0.0
    assert figure_data(figure)["norm"].tolist() == NORMS["norm"].tolist()


def test_figure_without_data():
    assert figure_data(plt.figure()).empty


def test_csv_has_six_digits():
    text, every = as_csv(NORMS)
    assert every == 1 and "5,1,0.333333\n" in text
    assert as_csv(pd.DataFrame({"x": [1.23456789e-9, math.nan]}))[0] == 'x\n1.23457e-09\n""\n'


def test_large_tables_are_thinned(monkeypatch):
    monkeypatch.setattr(figures, "MAX_BYTES", 1000)
    frame = pd.DataFrame({"x": range(1000)})
    text, every = as_csv(frame)
    assert every > 1 and len(text) <= 1000
    assert pd.read_csv(io.StringIO(text))["x"].tolist() == list(range(0, 1000, every))


def test_notebooks_show_figures_with_their_data(monkeypatch):
    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    publish_data()
    figure, ax = plt.subplots()
    keep_data(ax, NORMS)
    shown, about = shell.display_formatter.format(figure)
    assert pd.read_csv(io.StringIO(shown[MEDIA_TYPE])).equals(NORMS.round(6))
    assert about[MEDIA_TYPE] == {"rows": 4, "every": 1} and "text/plain" in shown
    assert MEDIA_TYPE not in shell.display_formatter.format(plt.figure())[0]


@pytest.mark.parametrize("side", ["right", "left", "top"])
def test_words_at_ends_stay_apart_and_near(side):
    """Whatever is set after them: limits, titles and a legend that take room from the axes."""
    figure, (ax, _) = plt.subplots(2, 1, figsize=(6, 5), layout="constrained")
    ends = [(0.1, "one"), (0.1, "in two\nlines"), (0.12, "three"), (0.13, "four"), (5.0, "five")]
    figures.label_ends(ax, [(place, place, words, "k") for place, words in ends], side=side)
    ax.set(xlim=(0, 8), ylim=(0, 8), title="two\nlines", xlabel="x")
    figure.legend(handles=[plt.Line2D([], [], label="one")] * 3, loc="outside upper center")
    apart = 1.3 * 9 / (math.sin(math.radians(figures.TURNED)) if side == "top" else 1)
    for dpi in (72, 144):
        figure.set_dpi(dpi)
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in ax.texts]
        along = [(box.x0 if side == "top" else (box.y0 + box.y1) / 2) * 72 / dpi for box in boxes]
        assert all(after - before >= 0.9 * apart for before, after in pairwise(along))
        assert side == "top" or all(after.y0 >= before.y1 for before, after in pairwise(boxes))
        start, anchor = (ax.transData.transform((x, x))[0 if side == "top" else 1] * 72 / dpi for x in (0, 5.0))
        assert abs(along[-1] - anchor) < 9 and abs(along[0] - start) < 9


@pytest.mark.parametrize("limits", [(60, 900), (2e4, 3e5), (3e6, 8e8)])
@pytest.mark.parametrize("n_panels", [1, 4])
def test_numbers_on_a_logarithmic_axis_do_not_touch(limits, n_panels):
    with plt.rc_context():  # the theme stays in this test
        figures.book_theme()
        _numbers_do_not_touch(limits, n_panels)


def _numbers_do_not_touch(limits, n_panels):
    figure, axes = plt.subplots(1, n_panels, figsize=(10, 3), layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.set(xscale="log", xlim=limits)
        figures.plain_ticks(ax.xaxis)
        ax.set_ylabel("a label\nin two lines")
    figure.draw_without_rendering()
    for ax in axes.flat:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
        assert len(boxes) >= 2 and all(after.x0 > before.x1 for before, after in pairwise(boxes))
