"""What pages are given beside their cells: data of figures that move, figures shown again, what the scorecard says."""

import json

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from companion import chapters, collect, finish, heroes, interactive, pdf, scorecard, stage
from moving import ASKED as MOVING
from moving import KINDS

from narrowlib import claims
from narrowlib.chapters import style
from narrowlib.chapters.methods.experiment import example_samples
from narrowlib.cmsp import CMSP

CSV = "skill,sparsity,rise,error\nc <b>,0,0,\npython,0,0,0.1\npython,0.5,1.5,0.2\nc <b>,0.5,,0.2\n"
ASKED = {"x": "sparsity", "y": "rise", "series": "skill", "slider": "sparsity", "error": "error"}


def figure(asked, table=CSV):
    contents = {"svg": b"<svg/>", "csv": table.encode()}
    return collect.Figure("first", "fig-one", "A caption.", "What it shows", 0, contents, 4, 1, asked)


def test_only_what_is_asked_for_is_given_to_the_page():
    assert interactive.block(figure(None)) == ""
    assert interactive.block(figure(ASKED, "status\npending\n")) == ""
    page = BeautifulSoup(interactive.block(figure(ASKED)), "html.parser")
    holder = page.select_one("div[hidden]")
    assert holder["data-figure"] == "fig-one" and not page.select("b")
    told = json.loads(holder.script.string)
    assert told["series"] == ["c <b>", "python"] and told["slider"] == [0, 0.5] and told["cursor"]
    assert told["points"] == [[0, 0, 0, 0, None], [0, 1, 0, 0, 0.1], [1, 1, 0.5, 1.5, 0.2]]  # no row without a value
    assert told["labels"] == {"x": "sparsity", "y": "rise", "slider": "sparsity"}


def test_slider_of_its_own_column():
    table = "method,n_parameters,tokens,target_loss\nscratch,10,5,2\nscratch,20,4,2\npruned,10,1,1.5\n"
    asked = {"x": "n_parameters", "y": "tokens", "series": "method", "slider": "target_loss", "scales": {"x": "log"}}
    told = interactive.drawn(figure(asked, table))
    assert not told["cursor"] and told["slider"] == [1.5, 2] and told["scales"] == {"x": "log", "y": "linear"}
    assert told["points"] == [[1, 0, 10, 5], [1, 0, 20, 4], [0, 1, 10, 1]]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({**ASKED, "y": "loss"}, "fig-one is interactive by 'loss'; it must be one of skill, sparsity, rise, error"),
        ({key: ASKED[key] for key in ("x", "y", "series")}, "fig-one lacks slider; it must name x, y, series, slider"),
        ({**ASKED, "colour": "skill"}, "fig-one has an unknown colour"),
        ({**ASKED, "scales": {"x": "root"}}, "the scale of x in fig-one is 'root'; it must be linear or log"),
        ({**ASKED, "labels": {"z": ""}}, "labels of the interactive figure fig-one may name x, y, slider"),
        ({"kind": "film"}, "the kind of fig-one is 'film'; it must be one of chart, bits, network, digits"),
        ({**ASKED, "slider": "skill"}, "fig-one is interactive by 'skill', which has 0 value"),
    ],
)
def test_what_cannot_be_drawn_is_refused(asked, says):
    with pytest.raises(ValueError, match=says):
        interactive.drawn(figure(asked))


def test_cells_say_what_moves():
    charts = {name for name, kind in KINDS.items() if kind == "chart"}
    assert {"fig-frontier-targets", "fig-hierarchy-order", "fig-nonlocality-sharing", "fig-mnist-paper"} <= charts
    assert set(KINDS.values()) == set(interactive.KINDS)
    assert all(set(interactive.COLUMNS) <= set(MOVING[name][1]) for name in charts)


def test_methods_look_as_in_the_figure_and_what_was_not_reached_is_open():
    table = "method,n,tokens,reached\nscratch,10,5,False\nscratch,20,4,True\npruned,10,1,True\n"
    asked = {"x": "n", "y": "tokens", "series": "method", "slider": "n", "reached": "reached"}
    told = interactive.drawn(figure(asked, table))
    assert told["series"] == ["from scratch", "pruned"] and told["open"] == [0]
    looks = [style.METHODS[name] for name in ("scratch", "pruned")]
    assert [style.PALETTE[place] for place in told["places"]] == [look.colour for look in looks]
    assert [interactive.MARKS[mark] for mark in told["marks"]] == [look.marker for look in looks]


def test_a_sample_says_which_bits_belong_to_whom():
    told = interactive.drawn(
        figure({"kind": "bits"}, example_samples(CMSP(2, 2, 5, tasks=[(0,), (0, 1)]), 1).to_csv(index=False))
    )
    assert told["roles"][:2] == ["control"] * 2 and told["bits"][:2] == [1, 1]  # the last sample asks for both
    assert {name: len(places) for name, places in told["subtasks"].items()} == {"sub-task 0": 2, "sub-task 1": 2}


def test_a_network_is_told_in_letters():
    rows = [(0, 0, 0, 2.0, "a"), (0, 1, 0, -1.0, "b"), (1, 0, 0, 0.0, "")]
    edges = pd.DataFrame(rows, columns=["layer", "source", "target", "weight", "group"]).assign(panel="1: before")
    (state,) = interactive.drawn(figure({"kind": "network"}, edges.to_csv(index=False)))["states"]
    assert state["groups"] == ["a", "b"] and [layer["shape"] for layer in state["layers"]] == [[2, 1], [1, 1]]
    levels = [
        [interactive.LEVELS.index(letter) - interactive.ZERO for letter in one["weights"]] for one in state["layers"]
    ]
    assert levels == [[interactive.ZERO, -round(interactive.ZERO / 2)], [0]]


def test_pictures_stand_by_size():
    pixels = pd.DataFrame(
        [(size, 0, row, column, (row + column) / 2, 8, 6) for size in (4, 2) for row in (0, 1) for column in (0, 1)],
        columns=["neurons", "picture", "row", "column", "ink", "label", "predicted"],
    )
    asked = {"kind": "digits", "slider": "neurons", "label": "neurons kept"}
    told = interactive.drawn(figure(asked, pixels.to_csv(index=False)))
    assert told["slider"] == [2, 4]
    (picture,) = told["pictures"][0]
    assert (picture["label"], picture["predicted"]) == ("8", "6")
    assert [interactive.LEVELS.index(letter) / 35 for letter in picture["ink"]] == pytest.approx(
        [0, 0.5, 0.5, 1], abs=0.02
    )


def test_figures_are_shown_again_with_caption_and_way():
    text = heroes.shown_again(figure(None))
    assert "/book/_figures/fig-one-" in text and ":alt: What it shows" in text
    assert "{numref}`fig-one`, in {doc}`/book/first`. A caption." in text
    assert stage.filled("% here: figure fig-one\n", {"figure fig-one": text}) == text + "\n"


CLAIM = {
    "chapter": "first",
    "statement": "It works.",
    "quantities": {
        "share": {"what": "share of runs", "paper": 0.7, "source": "a table", "holds": ">= 0.5", "tolerance": 0.1},
        "ratio": {"what": "ratio", "paper": float("nan"), "source": "", "holds": "> 1", "tolerance": float("nan")},
    },
}


def card(share, ratio):
    found = claims.assess("A1", {"share": share, "ratio": ratio}, claims={"A1": CLAIM}).judged
    assessed = {"first": [{**each, "figure": "fig-one"} for each in found]}
    return scorecard.scorecard({"A1": CLAIM, "B1": {**CLAIM, "chapter": "other"}}, "quick", assessed)


def test_text_mentions_what_the_scorecard_says():
    text = "{claim}`A1`: {ours}`A1 share`, {papers}`A1 share`, {papers}`A1 ratio`; {claim}`B1` {ours}`B1 share`; "
    told = "{ref}`A1 <claim-a1>` (direction not seen): 0.6, 0.7, none; "
    told += "{ref}`B1 <claim-b1>` (not yet run) (not known here); "
    assert [scorecard.in_share(share) for share in (0, 0.64, 1)] == ["none", "64%", "all"]
    assert scorecard.mentioned("{in}`A1 share`", card(1.0, 0.5)) == "all"
    assert scorecard.mentioned(text + "{claim}`Z9`", card(0.6, 0.5)) == told + "Z9 (not judged in this book)"
    with pytest.raises(ValueError, match="a page mentions 'shore' of claim A1; it must be one of share, ratio"):
        scorecard.mentioned("{ours}`A1 shore`", card(0.6, 0.5))


def test_open_claims_come_with_the_values_against_them():
    text = scorecard.open_claims(card(0.6, 0.5))
    assert (
        "**direction not seen** (quick)" in text
        and "ratio: 0.5 (fails); rule: `>\u00a01`; the paper's value: none" in text
    )
    assert "share of runs" not in text and "B1 <claim-b1>" in text
    whole = card(0.6, 2)
    whole["claims"][0]["verdict"] = "reproduced"
    whole["claims"].pop()
    assert scorecard.open_claims(whole).startswith("None: every claim was reproduced")


def test_first_page_links_to_the_pdf_while_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "pages", lambda: ["book/first"])
    page = tmp_path / "book" / "first.html"
    page.parent.mkdir()
    page.write_text("a<!-- pdf --><!-- /pdf -->b")
    (tmp_path / finish.PDF).write_bytes(bytes(2_500_000))
    finish.link_pdf(tmp_path)
    assert 'href="../narrow-ai.pdf" download' in page.read_text() and "2.5 MB" in page.read_text()
    (tmp_path / finish.PDF).unlink()
    finish.link_pdf(tmp_path)
    assert page.read_text() == "a<!-- pdf --><!-- /pdf -->b"


def test_without_a_browser_there_is_no_pdf_and_a_reason(monkeypatch, capsys):
    monkeypatch.setattr(pdf.shutil, "which", lambda _: None)
    assert pdf.main([]) == 0
    assert capsys.readouterr().out.startswith("no PDF is made: no Chromium is on the path")
