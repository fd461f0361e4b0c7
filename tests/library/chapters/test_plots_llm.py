"""Figures of language models: what they draw, by their data."""

import matplotlib.pyplot as plt
import pytest

from narrowlib.chapters.language.figures.block import plot_llama_block
from narrowlib.chapters.style import figure_data
from narrowlib.llm.units import llama_units


@pytest.fixture(autouse=True)
def fresh_figure():
    yield plt.figure()
    plt.close("all")


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_drawing_of_a_block_shows_what_units_own():
    """Beside the units of the library: every matrix that a unit has a part of, along the same axis."""
    from tiny_llamas import tiny_llama

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
    assert labels(ax) == ["neuron (24 in a layer)", "residual dimension (32)", "head (4 in a layer)", "layer (3)"]
