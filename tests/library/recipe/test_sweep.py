"""Several narrowings that differ in sparsity: each once, a table and a figure of all."""

import json

import pandas as pd
import pytest
from test_narrowing import FLAGS, texts
from tiny_llamas import tiny_llama, tiny_tokenizer

from narrowlib.recipe import sweep as sweeping
from narrowlib.recipe.cli import main
from narrowlib.recipe.report import Report


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path / "cache"))
    tiny_llama(max_position_embeddings=128).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "keep.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts(3, 30)))
    named = ["--model", str(tmp_path / "model"), "--keep", str(tmp_path / "keep.jsonl"), "--out", str(tmp_path / "out")]
    return ["sweep", "--quiet", *named, *FLAGS]


def test_every_sparsity_has_a_model_and_a_row(arguments, tmp_path, monkeypatch, capsys):
    assert main([*arguments, "--sparsities", "75%,0.25"]) == 0
    out = tmp_path / "out"
    table = pd.read_csv(out / "sweep.csv")
    assert table["sparsity"].tolist() == [0, 0.25, 0.75]
    assert table["parameters"].is_monotonic_decreasing and table["parameters"].is_unique
    for sparsity, row in table.set_index("sparsity").iloc[1:].iterrows():
        report = Report.read(out / f"sparsity-{sparsity:g}")
        assert report.losses.loc["keep", "after"] == row["loss on keep"]
        assert report.losses.loc["keep", "before"] == table["loss on keep"][0]
    drawn = (out / "sweep.svg").read_text()
    assert drawn.startswith("<svg")
    assert "parameters" in capsys.readouterr().out

    real, new = sweeping.run, []  # another one is added, and nothing is repeated
    monkeypatch.setattr(
        sweeping, "run", lambda config, out, **how: new.append(out.exists()) or real(config, out, **how)
    )
    for stray in (".DS_Store", "sweep.csv~"):  # a folder that was looked into
        (out / stray).write_text("")
    assert main([*arguments, "--sparsities", "25% 50% 75%"]) == 0
    assert new == [True, False, True] and (out / "sweep.svg").read_text() != drawn


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--sparsities", "50%"], "sparsities is '50%'; it must hold at least two different numbers"),
        (["--sparsities", "50% 0.5"], "sparsities is '50% 0.5'; it must hold at least two different numbers"),
        (["--sparsities", "50% 2"], "sparsity holds 2.0; it must hold numbers above 0 and below 1"),
        (["--sparsities", "25% 50%", "--sparsity", "0.5"], "--sparsity"),
    ],
)
def test_what_is_no_sweep_is_refused_before_any_work(arguments, tmp_path, capsys, asked, says):
    assert main([*arguments, *asked]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_no_two_sparsities_share_a_folder(arguments, tmp_path, monkeypatch):
    outs = []
    monkeypatch.setattr(sweeping, "run", lambda config, out, **_: outs.append((out.name, config.sparsity)))
    monkeypatch.setattr(sweeping, "_row", lambda *_: {"sparsity": 0, "parameters": 1, "loss on keep": 1.0})
    assert main([*arguments, "--sparsities", "50% 50.00001% 0.4999999"]) == 0
    assert dict(outs) == {f"sparsity-{sparsity}": (sparsity,) for sparsity in (0.4999999, 0.5, 0.5000001)}


def test_a_folder_of_something_else_is_left_alone(arguments, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    assert main([*arguments, "--sparsities", "25% 50%"]) == 2
    assert "which holds other files" in capsys.readouterr().err
