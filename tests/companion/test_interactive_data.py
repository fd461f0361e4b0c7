"""What pages are given beside their cells: data of figures that move, figures shown again, what the scorecard says."""

import json

import pytest
from bs4 import BeautifulSoup
from companion import chapters, collect, finish, heroes, interactive, pdf, scorecard, stage

from narrowlib import claims

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
        ({**ASKED, "slider": "skill"}, "fig-one is interactive by 'skill', which has 0 value"),
    ],
)
def test_what_cannot_be_drawn_is_refused(asked, says):
    with pytest.raises(ValueError, match=says):
        interactive.drawn(figure(asked))


def test_cells_say_what_moves():
    asked = {
        cell.metadata["mystnb"]["figure"]["name"]: cell.metadata["interactive"]
        for chapter in chapters.names()
        for cell in chapters.code_cells(chapter)
        if "interactive" in cell.metadata
    }
    assert {"fig-llm-skills", "fig-group-lasso-strength-curves"} <= set(asked)
    assert all(set(interactive.COLUMNS) <= set(one) for one in asked.values())


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
    assert scorecard.mentioned(text + "{claim}`Z9`", card(0.6, 0.5)) == told + "Z9 (not judged in this book)"
    with pytest.raises(ValueError, match="a page mentions 'shore' of claim A1; it must be one of share, ratio"):
        scorecard.mentioned("{ours}`A1 shore`", card(0.6, 0.5))


def test_open_claims_come_with_the_values_against_them():
    text = scorecard.open_claims(card(0.6, 0.5))
    assert (
        "**direction not seen** (quick)" in text
        and "ratio: 0.5 (fails); the rule is `>\u00a01`, the paper's value none" in text
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
