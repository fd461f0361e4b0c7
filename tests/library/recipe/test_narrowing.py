"""Narrowing a model of one's own: the same model after a kill, a plain checkpoint, refusals in one sentence."""

import gc
import io
import itertools
import json
import random
import re
import resource
import shlex
import shutil
from functools import partial
from math import inf, isfinite
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from bs4 import BeautifulSoup
from datasets import Dataset
from markdown_it import MarkdownIt
from tiny_llamas import Counting, tiny_llama, tiny_tokenizer, word_pieces
from train_tiny_llm import Killed, killed_after
from transformers import GenerationConfig

from narrowlib.data import tokens
from narrowlib.llm.losses import block_losses
from narrowlib.llm.models import LanguageModel
from narrowlib.recipe import cut, estimate, narrowing, steps
from narrowlib.recipe.cli import _parser, _print, main
from narrowlib.recipe.intake import texts_of
from narrowlib.recipe.measured import samples_of
from narrowlib.recipe.narrowing import narrow
from narrowlib.recipe.report import Report, loss_table, without_folders, write_report
from narrowlib.recipe.settings import RecipeConfig
from narrowlib.recipe.sweep import configs_of, sweep
from narrowlib.settings import SettingsError

SMALL = {
    "block_length": 16, "batch_size": 2, "score_tokens": 64, "recovery_tokens": 128, "held_out_tokens": 64,
    "precision": "float32", "device": "cpu", "learning_rate": 1e-2, "multiple_of": 1,
}  # fmt: skip
FLAGS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
BOTH = {"units": ("neurons", "residual"), "sparsity": (0.5, 0.25)}


def texts(low, high, n_documents=40, n_words=40):
    draw = random.Random(low)
    return [" ".join(f"w{draw.randint(low, high)}" for _ in range(n_words)) for _ in range(n_documents)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NARROWLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a tiny model, documents to keep, and others."""
    folder = tmp_path_factory.mktemp("work")
    tiny_llama(max_position_embeddings=128).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    (folder / "keep.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts(3, 30)))
    (folder / "lose").mkdir()
    for number, text in enumerate(texts(31, 60)):
        (folder / "lose" / f"{number}.txt").write_text(text)
    return folder


def given(work, **more):
    return {"model": str(work / "model"), "keep": str(work / "keep.jsonl"), **SMALL, "progress": False, **more}


def flags(work, *more):
    return ["run", "--quiet", "--model", str(work / "model"), "--keep", str(work / "keep.jsonl"), *FLAGS, *more]


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def kept(folder):
    """Names of the finished steps."""
    return sorted(path.parents[1].name for path in folder.glob(".out.unfinished/*/*/*/kept.json"))


@pytest.fixture(scope="module")
def done(work):
    return narrow(**given(work, lose=str(work / "lose"), out=work / "done", **BOTH))


def test_the_checkpoint_is_plain_and_as_good_as_the_report_says(work, done):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(done.folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert (model.config.hidden_size, model.config.intermediate_size) == (24, 12)
    assert model.num_parameters() == done.numbers["shape"]["after"]["parameters"]
    written = model.generate(**tokenizer("w3 w4", return_tensors="pt", return_token_type_ids=False), max_new_tokens=3)
    assert written.shape[1] > 2
    config = RecipeConfig(**done.numbers["made from"]["settings"])
    found = {}
    for split in ("select", "held-out"):
        blocks = texts_of(config)["keep"].blocks(tokenizer, split, at_most=64, block_length=16, progress=False)
        found[split] = block_losses(model, blocks, progress=False).mean().item()
    curves = done.curves
    lowest = curves[curves["split"] == "held out"]["loss"].min()
    assert found["select"] == pytest.approx(lowest, abs=1e-5)  # chosen by
    assert found["held-out"] == pytest.approx(done.losses.loc["keep", "after"], abs=1e-5)  # and by nothing
    assert list(work.glob(".done*")) == []  # nothing is left beside it


def test_the_report_needs_nothing_but_itself_and_says_what_json_says(done):
    page = BeautifulSoup((done.folder / "report.html").read_text(), "html.parser")
    assert not page.select("script, link, img, iframe") and "url(" not in page.style.string
    assert page.find("svg")["aria-label"] and page.html["lang"] == "en"
    text = page.get_text()
    for number in (f"{done.losses.loc['lose', 'after']:.3f}", f"{done.numbers['shape']['after']['parameters']:,}"):
        assert number in text
    assert Report.read(done.folder).numbers == json.loads(json.dumps(done.numbers))
    assert set(done.numbers["speed"]) == {"before", "after"}


@pytest.mark.parametrize("name", ["a|b", "`<b>`", "two\nlines", "---", "key: [1, &x"])
def test_card_and_page_hold_any_name(done, tmp_path, name):
    numbers = json.loads(json.dumps(done.numbers)) | {"origin": {"base_model": name, "license": name}}
    numbers["inputs"]["keep"]["source"] = numbers["model"] = name
    write_report(numbers, tmp_path)
    about, text = (tmp_path / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    found = yaml.safe_load(about)
    assert (found["base_model"], found["license"]) == (name, name)
    card = BeautifulSoup(MarkdownIt("commonmark").enable("table").render(text), "html.parser")
    plain = " ".join(name.split())
    assert card.h1.text == f"{plain}, narrowed" and f"licence is that of the original: {plain}. " in card.p.text
    (row,) = [row for row in card("tr") if row.td and row.td.text == f"keep: {plain}"]
    errors = {(each["when"], each["text"]): each["standard_error"] for each in numbers["losses"]}
    assert [f"± {errors[when, 'keep']:.3f}" in cell.text for when, cell in zip(("before", "after"), row("td")[1:])] == [
        True
    ] * 2
    page = BeautifulSoup((tmp_path / "report.html").read_text(), "html.parser")
    assert page.h1.text == f"A narrowed {name}" and f"The model was made from {name}. " in page.text


def test_the_same_call_again_changes_nothing(work, done, capsys):
    before = weights(done.folder), (done.folder / "report.json").read_bytes()
    again = narrow(**given(work, lose=str(work / "lose"), out=work / "done", **BOTH))
    assert again.numbers == done.numbers
    assert (weights(done.folder), (done.folder / "report.json").read_bytes()) == before
    other = flags(work, "--lose", str(work / "lose"), "--sparsity", "0.3", "--out", str(done.folder))
    assert main(other) == 2
    assert "a call with other units, sparsity; it must be a new or empty folder" in capsys.readouterr().err
    assert weights(done.folder) == before[0]


def test_killed_in_training_and_run_again_it_ends_at_the_same_bits(work, done, tmp_path):
    out = tmp_path / "out"
    options = given(work, lose=str(work / "lose"), out=out, **BOTH)
    with pytest.raises(Killed), killed_after(3):
        narrow(**options)
    assert not out.exists()  # nothing half-written
    assert kept(tmp_path) == []  # the steps before it are in the cache
    assert any(file.suffix == ".safetensors" for file in tmp_path.glob("**/*.unfinished/**/*"))  # of the training
    with killed_after(inf) as steps:
        report = narrow(**options)
    assert len(steps) < 4 and weights(out) == weights(done.folder)
    assert report.numbers["losses"] == done.numbers["losses"] and report.numbers["curves"] == done.numbers["curves"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_finished_steps_are_not_repeated(work, done, tmp_path, monkeypatch, capsys):
    arguments = flags(work, "--lose", str(work / "lose"), "--out", str(tmp_path / "out"))
    arguments += ["--units", "neurons,residual", "--sparsity", "0.5,0.25"]

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for name in ("recover", "write_report"):
        with monkeypatch.context() as patched:
            patched.setattr(steps, name, interrupted)
            assert main(arguments) == 130
        assert capsys.readouterr().err == "interrupted; the same command continues from here\n"
        assert not (tmp_path / "out").exists()
        monkeypatch.setattr(cut, "masks_for", None)  # nothing is scored a second time
    monkeypatch.setattr(steps, "recover", None)  # nor trained
    assert main(arguments) == 0
    assert weights(tmp_path / "out") == weights(done.folder)


def test_flags_and_configuration_file_are_the_same(work, done, tmp_path, capsys):
    settings = {**SMALL, "model": str(work / "model"), "keep": str(work / "keep.jsonl"), "lose": str(work / "lose")}
    lines = [f"{name}: {value}" for name, value in settings.items()]
    config = tmp_path / "narrow.yaml"
    config.write_text(
        "\n".join([*lines, "units: [neurons, residual]", "sparsity: 0.5,0.25", "seed: 7"]) + f"\nout: {done.folder}\n"
    )
    assert main(["run", "--quiet", "--config", str(config), "--seed", "0"]) == 0
    assert "report.html" in capsys.readouterr().out  # the result of the same settings, found


@pytest.mark.parametrize(("target", "n_kept", "neurons"), [(9.0, 3, 2), (2.5, 2, 10), (0.5, 0, 24)])
def test_rounds_stop_at_the_loss_and_keep_the_last_model_that_held(
    work, tmp_path, monkeypatch, target, n_kept, neurons
):
    losses = iter([1.0, 2.0, 3.0])  # after recovery, of the rounds

    def lost(*_, **__):
        return pd.DataFrame({"step": [1], "tokens": [32], "split": ["held out"], "loss": [next(losses)]})

    monkeypatch.setattr(steps, "recover", lost)
    options = {"units": ("neurons", "heads"), "rounds": 3, "sparsity": 0.9, "target_loss": target}
    report = narrow(**given(work, out=tmp_path / "out", **options))
    assert [each["counts"]["neurons"] for each in report.numbers["rounds"]] == [17, 10, 2][: n_kept + 1]
    assert sum(each["kept"] for each in report.numbers["rounds"]) == n_kept
    assert report.numbers["target met"] == (n_kept > 0)
    card = (report.folder / "README.md").read_text()
    assert ("the rest was trained further" in card) == (n_kept > 0) == ("before any cut" not in card)
    assert report.numbers["shape"]["after"]["neurons per layer"] == neurons
    assert json.loads((report.folder / "config.json").read_text())["intermediate_size"] == neurons


def test_target_parameters_are_reached_from_below(work, tmp_path):
    report = narrow(**given(work, out=tmp_path / "out", target_parameters=14_000, recovery_tokens=0))
    found = report.numbers["shape"]["after"]
    one_more = 3 * 32 * 3  # a neuron in each of three layers
    assert found["parameters"] <= 14_000 < found["parameters"] + one_more


def test_weights_are_written_in_the_dtype_that_is_asked_for(work, tmp_path):
    report = narrow(**given(work, out=tmp_path / "out", sparsity="50%", recovery_tokens="0", dtype="bfloat16"))
    shape, file = report.numbers["shape"], report.folder / "model.safetensors"
    assert json.loads((report.folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert shape["after"]["bytes"] == 2 * shape["after"]["parameters"] <= file.stat().st_size
    assert shape["before"]["bytes"] == 4 * shape["before"]["parameters"]
    losses = loss_table(report.folder, {}, progress=False).set_index("text")["loss"]
    assert losses["keep"] == pytest.approx(report.losses.loc["keep", "after"], abs=1e-6)
    for when, what in itertools.product(("before", "after"), ("read", "write")):
        slowest, fastest = report.numbers["speed range"][when][what]
        assert 0 < slowest <= report.numbers["speed"][when][what] <= fastest


def test_accuracies_and_samples_of_both_models_are_told(work, tmp_path, capsys):
    asked = ["--eval", "narrow_facts_cloze narrow_facts_choice", "--eval-limit", "3", "--samples", "2"]
    arguments = flags(work, "--lose", str(work / "lose"), "--sparsity", "0.5", "--out", str(tmp_path / "out"), *asked)
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert told.startswith("19% fewer parameters, reads ") and "narrow_facts_choice" in told
    report = Report.read(tmp_path / "out")
    assert report.accuracies.index.tolist() == ["narrow_facts_choice", "narrow_facts_cloze"]
    assert report.accuracies[["before", "after"]].isin([0, 1 / 3, 2 / 3, 1]).all(axis=None)
    samples = report.numbers["samples"]
    assert [row["text"] for row in samples] == ["keep"] * 2 + ["lose"] * 2
    assert all(row["before"] and row["after"] and len(row["prompt"].split()) > 4 for row in samples)
    assert any(row["before"] != row["after"] for row in samples)
    page = BeautifulSoup((tmp_path / "out" / "report.html").read_text(), "html.parser")
    assert page.find("p", "line").text == told.splitlines()[0]
    assert {"narrow_facts_choice", samples[0]["after"]} <= {each.text for each in page(["th", "pre"])}
    (command,) = [each.text for each in page("pre") if each.text.startswith("narrow run ")]
    assert command.endswith(" --out ...")
    again = _parser().parse_args(shlex.split(command.replace("...", str(tmp_path / "again")))[1:])
    given_again = {name: value for name, value in vars(again).items() if name in RecipeConfig.model_fields}
    assert RecipeConfig(**given_again).lasting == report.numbers["made from"]["settings"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "narrow_facts_choice (3 questions)" in card and "| keep: keep.jsonl | " in card and str(work) not in card


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("/home/ada/notes.txt (0.5), python", "notes.txt (0.5), python"),
        ("~/notes/", "notes"),
        ("../mine", "mine"),
        (r"C:\Users\ada\notes", "notes"),
        ("owner/data", "owner/data"),
        ("./", "."),
        ("-", "-"),
    ],
)
def test_no_folder_of_this_machine_is_told_to_others(source, told):
    assert without_folders(source) == told


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("no_such", "eval holds 'no_such'; it must hold names of tasks of lm-eval"),
        ("mmlu", "eval holds 'mmlu'; it must hold names of tasks of lm-eval"),  # a group of tasks
    ],
)
def test_tasks_that_are_none_are_refused_before_any_work(work, tmp_path, capsys, asked, says):
    assert main(flags(work, "--sparsity", "0.5", "--out", str(tmp_path / "out"), "--eval", asked)) == 2
    assert capsys.readouterr().err == f"{says}\n" and not list(tmp_path.iterdir())


def test_tuning_lasso_and_distillation_take_part(work, tmp_path, monkeypatch):
    teachers, real = [], steps.recover

    def watched(*arguments, teacher=None, **options):
        teachers.append(teacher)
        return real(*arguments, teacher=teacher, **options)

    monkeypatch.setattr(steps, "recover", watched)
    options = {"finetune_tokens": 64, "lasso_tokens": 64, "lasso_strength": 0.01, "distillation": 0.5}
    report = narrow(**given(work, out=tmp_path / "out", sparsity=0.5, **options))
    assert report.curves["stage"].unique().tolist() == ["fine-tuning", "group-lasso", "recovery-1"]
    assert report.curves["tokens"].is_monotonic_increasing
    tuning, recovery = teachers
    assert tuning is None and recovery.config.intermediate_size == 24  # the uncut model teaches the cut one


def test_no_more_models_are_held_than_a_step_needs(work, tmp_path, monkeypatch):
    """Two where a refit looks at both, one where only one is measured, trained or written."""
    from transformers import LlamaForCausalLM

    def n_models():
        gc.collect()  # of the tests before
        return sum(type(each) is LlamaForCausalLM and each.device.type != "meta" for each in gc.get_objects())

    held, at_first = {}, n_models()

    def watched(name, real):
        def called(*arguments, **options):
            held.setdefault(name, set()).add(n_models() - at_first)
            return real(*arguments, **options)

        return called

    for name in ("refit", "mean_loss", "recover", "export_vanilla", "losses_of"):
        monkeypatch.setattr(steps, name, watched(name, getattr(steps, name)))
    narrow(**given(work, out=tmp_path / "out", sparsity=0.5, seed=3))
    assert held == {"refit": {2}, "mean_loss": {1, 2}, "recover": {1}, "export_vanilla": {1}, "losses_of": {1}}


def test_weight_on_what_is_lost_counts_against_a_unit(monkeypatch):
    model, drawn = tiny_llama(), iter([[1.0, 2.0, 3.0, 2.0], [0.0, 0.0, 4.0, 0.0]])  # means 2 and 1
    scores = [dict.fromkeys((f"layers.{i}.neurons" for i in range(3)), torch.tensor(next(drawn) * 6)) for i in range(2)]
    scores = iter(scores)
    monkeypatch.setattr(cut, "score_units", lambda *_, **__: {"signed": next(scores)})
    config = RecipeConfig(keep="a", lose="b", sparsity=(0.25,), method="signed", lose_weight=0.5)
    blocks = Dataset.from_dict({"input_ids": [[3, 4]]})
    masks = cut.masks_for(model, {"neurons": 18}, blocks, blocks, config)
    assert masks["layers.0.neurons"].tolist() == [True, True, False, True] * 6  # 1.5 - 2, though the highest alone


def test_scores_and_losses_from_the_command(work, done, tmp_path, capsys):
    table = tmp_path / "scores.parquet"
    arguments = ["--model", str(work / "model"), "--keep", str(work / "keep.jsonl"), "--units", "neurons,heads"]
    sizes = ["--score-tokens", "64", "--block-length", "16", "--device", "cpu", "--quiet"]
    assert main(["scores", *arguments, *sizes, "--out", str(table)]) == 0
    scores = pd.read_parquet(table)
    assert scores.groupby("kind").size().to_dict() == {"heads": 3 * 2, "neurons": 3 * 24}
    assert scores["score"].ge(0).all()
    capsys.readouterr()
    assert main(["evaluate", str(done.folder), "--quiet"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[0] == "keep")
    assert float(line.split()[1]) == pytest.approx(done.losses.loc["keep", "after"], abs=1e-5)
    (done.folder / "report.html").unlink()
    assert main(["report", str(done.folder)]) == 0 and (done.folder / "report.html").is_file()


def test_dry_run_tells_the_size_that_comes_out_and_writes_nothing(work, done, capsys):
    before = sorted(work.iterdir())
    sparsity = ["--units", "neurons,residual", "--sparsity", "0.5,0.25"]
    assert main(flags(work, "--dry-run", *sparsity, "--lose", str(work / "lose"))) == 0
    said = {line.rsplit(None, 1)[0]: line.rsplit(None, 1)[1] for line in capsys.readouterr().out.splitlines()}
    assert int(said["parameters after"]) == done.numbers["shape"]["after"]["parameters"]
    assert int(said["training tokens"]) == 128 and {"memory, GB", "seconds, total"} <= set(said)
    assert sorted(work.iterdir()) == before


@pytest.mark.parametrize(
    ("shares", "multiple_of", "neurons", "residual"),
    [
        (
            {"neurons": 0.3, "residual": 0.2},
            None,
            704,
            432,
        ),  # 576 = 9 heads of 64: 144 is the largest step of a quarter
        ({"neurons": 0.3, "residual": 0.2}, 1, 717, 459),
        ({"neurons": 0.3, "residual": 0.45}, 32, 704, 288),
        ({"heads": 1 / 3}, None, 1024, 576),
    ],
)
def test_widths_are_multiples(shares, multiple_of, neurons, residual):
    sizes = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1024}
    found = cut.counts_at(tiny_llama(**sizes), shares, multiple_of)
    assert (found["neurons"], found["residual"]) == (neurons, residual)
    if multiple_of is None and "residual" in shares:  # Llama alone must have a multiple of its heads
        assert cut.counts_at(tiny_llama("mistral", **sizes), shares)["residual"] == 448


def test_dimensions_that_heads_take_in_one_round_are_not_asked_for_in_the_next():
    model = tiny_llama(hidden_size=64, num_attention_heads=4, num_key_value_heads=4)
    first, second = cut.counts_by_round(model, {"heads": 0.5}, 2)
    assert (first["heads"], first["residual"], second["heads"], second["residual"]) == (3, 63, 2, 62)
    sizes = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}
    many = cut.counts_by_round(tiny_llama(**sizes), {"residual": 0.8}, 4)
    assert many[-1] == cut.counts_at(tiny_llama(**sizes), {"residual": 0.8})  # nothing but heads makes a difference


ODD = (
    {"num_beams": 3},
    {"repetition_penalty": 1.5},
    {"num_return_sequences": 2, "do_sample": True},
    {"penalty_alpha": 0.6},
)


@pytest.mark.parametrize("odd", [*ODD, {"return_dict_in_generate": True}, {"stop_strings": ["x"]}, {"max_length": 4}])
def test_samples_are_the_likeliest_whatever_the_generation_config_says(odd):
    model, blocks = tiny_llama(), {"keep": Dataset.from_dict({"input_ids": [[*range(3, 40)]]})}
    plain = model.generation_config
    changed = GenerationConfig(eos_token_id=plain.eos_token_id, **odd)
    written = []
    for model.generation_config in (plain, changed):
        models = {"after": LanguageModel(model, tiny_tokenizer(), "tiny")}
        written.append(samples_of(models, blocks, 1)[0]["after"])
    assert written[0] == written[1] and written[0].split() and model.generation_config is changed


def test_out_may_be_a_link_but_no_mounted_file_system(work, tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    report = narrow(**given(work, out=tmp_path / "out", sparsity=0.5, recovery_tokens=0))
    assert report.folder == tmp_path / "disk" and weights(tmp_path / "out")
    assert main(flags(work, "--sparsity", "0.5", "--out", "/dev/shm")) == 2
    assert "/dev/shm', a mount point; it must be a folder below one" in capsys.readouterr().err


def test_a_folder_that_holds_another_model_now_is_not_the_same_call(work, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(work / "model", folder)
    call = partial(narrow, **given(work, model=str(folder), out=tmp_path / "out", sparsity=0.5, recovery_tokens=0))
    assert call().numbers == call().numbers
    (folder / "README.md").write_text("a card")
    call()
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ValueError, match="the result of a call with other model"):
        call()


def test_documents_may_lie_around_the_result(work, tmp_path):
    for number, text in enumerate(texts(3, 30)):
        (tmp_path / f"{number}.txt").write_text(text)
    settings = {**given(work, keep=str(tmp_path)), "recovery_tokens": 0}
    configs = configs_of({name: value for name, value in settings.items() if name != "progress"}, "25%,50%")
    first = sweep(configs, tmp_path / "sweep", progress=False)
    assert sweep(configs, tmp_path / "sweep", progress=False).equals(first)  # nothing was made again


def test_a_terminal_may_lack_characters(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", shown)
    _print("2.24 \u2192 2.61")
    assert shown.buffer.getvalue() == b"2.24 ? 2.61\n"


def test_a_changed_learning_rate_repeats_only_recovery(work, tmp_path, monkeypatch, capsys):
    for number, (rate, reused) in enumerate([("0.01", ""), ("0.02", "before, cut-1"), ("0.02", "before, cut-1")]):
        if number == 1:
            monkeypatch.setattr(cut, "masks_for", None)
        more = ["--sparsity", "0.4", "--dtype", "bfloat16"] if number == 2 else ["--sparsity", "0.4"]
        assert main(flags(work, *more, "--learning-rate", rate, "--out", str(tmp_path / str(number)))) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("reused from")]
        assert number == 0 or lines == [f"reused from an earlier run: {reused}"]
    assert weights(tmp_path / "0") != weights(tmp_path / "1")


def test_no_more_is_tokenised_than_is_needed(tmp_path, monkeypatch):
    counted, ids = [], tokens._ids
    monkeypatch.setattr(tokens, "_ids", lambda tokenizer, *rest: ids(Counting(tokenizer, counted), *rest))
    (tmp_path / "in").mkdir()
    for number, text in enumerate(texts(3, 30, 12, 20_000)):
        (tmp_path / "in" / f"{number}.txt").write_text(text)
    options = {**SMALL, "model": "tiny", "keep": str(tmp_path / "in"), "recovery_tokens": 8_192, "sparsity": 0.5}
    narrow(**options, out=tmp_path / "out", progress=False)
    needed = sum(RecipeConfig(**options).needs("keep").values())
    assert needed <= sum(counted) <= 1.2 * needed


def test_of_chats_answers_alone_count(work, tmp_path, capsys):
    """Through all kinds of training; the report and the dry run say how many tokens that is."""
    asked, said = texts(3, 30, 20, 30), texts(31, 60, 20, 6)
    rows = [{"instruction": one, "output": other} for one, other in zip(asked, said, strict=True)]
    rows.append({"messages": [{"role": "user", "content": "w3"}]})
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["run", "--quiet", "--model", str(work / "model"), "--keep", str(tmp_path / "chats.jsonl"), *FLAGS]
    arguments += ["--sparsity", "0.5", "--distillation", "0.5"]
    arguments += ["--finetune-tokens", "64", "--lasso-tokens", "64", "--lasso-strength", "0.01"]
    assert main([*arguments, "--dry-run"]) == 0
    told = dict(re.findall(r"tokens that count, keep, (\S+) +(\d+ of \d+); in chats", capsys.readouterr().out))
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    report = Report.read(tmp_path / "out")
    counted = report.numbers["inputs"]["keep"]["tokens that count"]
    assert told == {split: f"{n} of {n_all}" for split, (n, n_all) in counted.items()} and len(told) == 3
    assert all(0 < n < n_all / 2 for n, n_all in counted.values())
    assert report.numbers["inputs"]["keep"]["left out"] == {"chats without an answer": ["chats.jsonl:20"]}
    page = BeautifulSoup((tmp_path / "out" / "report.html").read_text(), "html.parser").get_text()
    assert "held-out {} of {}; in chats, only the answers".format(*counted["held-out"]) in page
    for row in report.numbers["losses"]:
        assert row["n_tokens"] == counted["held-out"][0] and isfinite(row["loss"])
    assert report.curves["loss"].map(isfinite).all()


def test_a_template_in_which_answers_cannot_be_told_apart_is_refused_before_any_work(work, tmp_path, capsys):
    tiny_llama(max_position_embeddings=128).save_pretrained(tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %} {{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"instruction": one, "output": "w60"} for one in texts(3, 30, 20)]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--model", str(tmp_path / "model"), "--keep", str(tmp_path / "chats.jsonl"), "--sparsity", "0.5"]
    capsys.readouterr()
    assert main(["run", "--quiet", *FLAGS, *options, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("answers cannot be told apart in the chat chats.jsonl:") and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chats.jsonl", "model"]


def changed(folder, change, family="granite, untied"):
    """A model folder in which weights were changed, as the flag that names it."""
    model = tiny_llama(family, max_position_embeddings=128)
    with torch.no_grad():
        change(model.model)
    model.save_pretrained(folder)
    word_pieces(60).save_pretrained(folder) if "llama" in family else tiny_tokenizer().save_pretrained(folder)
    return ["--model", str(folder)]


def of_no_number(model):
    model.layers[1].mlp.up_proj.weight[2, 3] = torch.nan


def beyond_numbers(model):
    model.norm.weight.fill_(3e38)


def beyond_numbers_on_others(model):
    model.embed_tokens.weight[31:] = 2e38  # Granite multiplies it by 3; words of what may be lost


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (of_no_number, r"'.*' has weights that are NaN or infinite in float32, such as model\.layers\.1"),
        (beyond_numbers, "the loss on held-out documents of keep, before, is nan; it must be finite"),
        (beyond_numbers_on_others, "the loss on held-out documents of lose, before, is nan; it must be finite"),
    ],
)
def test_a_model_whose_losses_are_no_numbers_is_refused_before_a_cut(
    work, tmp_path, monkeypatch, capsys, more, change, says
):
    monkeypatch.setattr(cut, "masks_for", None)
    asked = [*changed(tmp_path / "model", change), "--lose", str(work / "lose"), "--out", str(tmp_path / "out"), *more]
    capsys.readouterr()
    assert main(flags(work, *asked, "--sparsity", "0.5")) == 2
    said = capsys.readouterr()
    assert re.match(says, said.err) and said.err.count("\n") == 1 and not said.out
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("change", [of_no_number, beyond_numbers])
def test_no_table_of_scores_that_are_no_numbers_is_written(work, tmp_path, capsys, change):
    asked = [*changed(tmp_path / "model", change), "--keep", str(work / "keep.jsonl"), "--score-tokens", "64"]
    asked += ["--block-length", "16", "--device", "cpu", "--quiet", "--out", str(tmp_path / "scores.csv")]
    assert main(["scores", *asked]) == 2
    assert re.search("weights that are NaN|scores are NaN or infinite for groups", capsys.readouterr().err)
    assert not (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize("stage", ["recovery-1", "group-lasso", "fine-tuning"])
def test_a_training_that_diverges_is_told_by_its_stage_and_leaves_no_report(work, tmp_path, capsys, stage):
    more = {
        "group-lasso": ["--lasso-tokens", "64", "--lasso-strength", "0.01"],
        "fine-tuning": ["--finetune-tokens", "64"],
    }
    arguments = flags(work, "--sparsity", "0.5", "--out", str(tmp_path / "out"), *more.get(stage, []))
    assert main([*arguments, "--learning-rate", "1e30"]) == 2
    said = capsys.readouterr().err
    assert re.match(rf"{stage}: the loss is not a finite number after \d steps; .* learning_rate 1e\+30", said)
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("losses", "refit", "says"),
    [
        ([1.0, torch.nan], "off", "after the cut, is nan"),
        ([1.0, torch.nan], "auto", "after the cut, is nan"),
        ([1.0, 1.0, torch.inf], "auto", "after the refit, is inf"),
    ],
)
def test_no_choice_is_made_by_losses_that_are_no_numbers(work, tmp_path, monkeypatch, losses, refit, says):
    monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path / "cache"))  # a loss before that is made up
    read = iter(losses)
    monkeypatch.setattr(steps, "mean_loss", lambda *_, **__: next(read))
    options = {"sparsity": 0.5, "recovery_tokens": 0, "refit": refit}
    with pytest.raises(ValueError, match=f"the loss on selection documents, {says}; it must be finite"):
        narrow(**given(work, out=tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["dtype", "gguf"])
def test_weights_that_the_dtype_of_the_result_does_not_hold_are_refused(tmp_path, flag):
    def large(model):
        model.norm.weight[3] = 1e5

    changed(tmp_path / "model", large, "llama, tied")
    options = {"keep": "python", "model": str(tmp_path / "model"), "sparsity": 0.5, "device": "cpu"}
    options |= {"block_length": 16, "multiple_of": 1}
    for legal in ({"dtype": "bfloat16"}, {"gguf": "bf16"}):
        cut.load_model(RecipeConfig(**options, **legal))
    half = {"dtype": "float16", "gguf": "f16"}[flag]
    with pytest.raises(ValueError, match=rf"{flag} is '{half}', in which .* infinite, such as model\.norm"):
        cut.load_model(RecipeConfig(**options, **{flag: half}))


def test_scores_that_are_no_numbers_are_refused(monkeypatch):
    model, blocks = tiny_llama(), Dataset.from_dict({"input_ids": [[3, 4]]})
    scores = {f"layers.{i}.neurons": torch.full((24,), [1.0, torch.nan, torch.inf][i]) for i in range(3)}
    monkeypatch.setattr(cut, "score_units", lambda *_, **__: {"wanda": scores})
    config = RecipeConfig(keep="a", sparsity=0.5, method="wanda")
    with pytest.raises(ValueError, match=r"method is 'wanda', whose .* for groups .* layers\.1\.neurons \(2 in"):
        cut.masks_for(model, {"neurons": 12}, blocks, None, config)


def test_gguf_is_written_beside_the_checkpoint_or_refused_before_any_work(work, tmp_path, capsys):
    folder = tmp_path / "model"
    tiny_llama(vocab_size=80, max_position_embeddings=128).save_pretrained(folder)
    word_pieces(80).save_pretrained(folder)
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number}.txt").write_text(f"def f(x):\n    return x + {number}\n" * 20)
    options = ["--model", str(folder), "--keep", str(tmp_path / "in"), *FLAGS, "--sparsity", "0.5", "--gguf", "q8_0"]
    assert main(["run", *options, "--dry-run"]) == 0
    assert "q8_0, padded with zeros: 12 neurons to 32" in capsys.readouterr().out
    assert main(["run", "--quiet", *options, "--out", str(tmp_path / "out")]) == 0
    about, file = Report.read(tmp_path / "out").numbers["gguf"], tmp_path / "out" / "model-q8_0.gguf"
    assert about["bytes"] == file.stat().st_size and about["filled"] == {"neurons": [12, 32]}
    assert "instead of 12 neurons" in (tmp_path / "out" / "report.html").read_text()
    capsys.readouterr()
    assert main(flags(work, "--sparsity", "0.5", "--gguf", "f16", "--out", str(tmp_path / "no"))) == 2
    assert "gguf does not support the tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


BAD = {
    "multiple": (None, None, ["--multiple-of", "50"], "multiple_of is 50; with widths divisible by 1"),
    "cuts nothing": (None, None, ["--multiple-of", "24", "--sparsity", ".3"], "sparsity is 0.3; with rounded widths"),
    "empty": ("empty.jsonl", b"", [], "the file is empty"),
    "binary": ("binary.txt", b"\x00\x01\xff", [], "the file is binary; it must be text"),
    "wrong column": ("rows.jsonl", b'{"text": "w3"}\n', ["--column", "body"], "has text, not 'body'"),
    "no json": ("rows.jsonl", b'{"text": "w3"}\n{"te', [], "line 2 of rows.jsonl is not JSON"),
    "no parquet": ("rows.parquet", b"no", [], "rows.parquet is not a readable parquet file"),
    "one document": ("rows.jsonl", b'{"text": "w3"}\n', [], "holds 1 distinct document; it must hold at least 3"),
    "too short": ("rows.jsonl", b'"w3"\n"w4"\n"w5"\n', [], "they must hold at least block_length, 16"),
    "sparsity": (None, None, ["--sparsity", "1.5"], "sparsity holds 1.5; it must hold numbers above 0 and below 1"),
    "no number": (None, None, ["--sparsity", "half"], "sparsity holds 'half'; it must hold numbers"),
    "two targets": (None, None, ["--target-parameters", "9"], "sparsity and target_parameters are both given"),
    "method": (None, None, ["--method", "magic"], "method is 'magic'; it must be one of signed"),
    "unknown model": (None, None, ["--model", "./nowhere"], "'./nowhere' is neither a folder nor a name on the"),
    "flag of another command": (
        None,
        None,
        ["--sparsities", "0.5"],
        "--sparsities is not an option here; did you mean",
    ),
    "unknown flag": (None, None, ["--sparsty", "0.5"], "--sparsty is not an option here; did you mean --sparsity?"),
    "unwritable": (None, None, ["--out", "/proc/narrow"], "out is '/proc/narrow', which cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(work, tmp_path, capsys, case):
    name, content, more, says = BAD[case]
    where = tmp_path / "in"
    where.mkdir()
    if name is not None:
        (where / name).write_bytes(content)
        more = ["--keep", str(where / name), *more]
    sparsity = [] if "--sparsity" in more else ["--sparsity", "0.5"]
    out = [] if "--out" in more else ["--out", str(tmp_path / "out")]
    assert main(flags(work, *sparsity, *out, *more)) == 2
    printed = capsys.readouterr()
    assert says in printed.err and len(printed.err.splitlines()) == 1 and printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_full_disk_is_one_sentence_and_the_same_command_goes_on(work, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = flags(work, "--out", str(out), "--sparsity", "0.5")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))  # as if the disk ended there
    try:
        assert main(arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "cannot be written" in said and "the same command continues" in said
    assert not out.exists()
    assert main(arguments) == 0 and [path.name for path in tmp_path.iterdir()] == ["out"]
    capsys.readouterr()
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(narrowing.shutil, "disk_usage", lambda _: free)
    assert main(flags(work, "--out", str(tmp_path / "new"), "--sparsity", "0.5")) == 2
    assert "0.0 GB are free" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_two_processes_do_not_work_on_one_folder(work, tmp_path, capsys):
    from filelock import FileLock

    with FileLock(tmp_path / ".out.unfinished.lock"):
        assert main(flags(work, "--out", str(tmp_path / "out"), "--sparsity", "0.5")) == 2
    assert "another process is writing" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "run --dry-run", "scores"])
def test_names_of_nothing_are_refused_before_a_model_is_made_or_fetched(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    for module in (narrowing, estimate, cut):
        monkeypatch.setattr(module, "check_model", None)
    Path("taken").mkdir()
    Path("taken", "a.txt").write_text("a")
    sparsity = [] if command == "scores" else ["--sparsity", "0.5"]
    cases = {"keep is 'nothing', which does not exist": ["--keep", "nothing", "--out", "x.csv"]}
    if command == "run":
        cases["taken', which already exists; it must be a new or empty"] = ["--keep", "python", "--out", "taken"]
    for says, given in cases.items():
        assert main([*command.split(), *sparsity, *given]) == 2
        assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"keep": ""}, "keep is missing; it must name a file"),
        ({"sparsty": 0.5}, "sparsty is not a parameter; did you mean sparsity"),
        ({"sparsity": (0.1, 0.2)}, "sparsity holds 2 numbers for 1 kinds"),
        ({}, "sparsity, target_parameters and target_loss are all missing"),
        ({"target_loss": 2.0}, "rounds is 1; with a target_loss it must be at least 2"),
        ({"sparsity": 0.5, "lasso_tokens": 8}, "set both or neither"),
        ({"sparsity": 0.5, "lose_weight": 1}, "lose_weight is 1.0; it needs lose"),
    ],
)
def test_settings_that_do_not_go_together(settings, says):
    with pytest.raises(SettingsError, match=says):
        RecipeConfig(**{"keep": "python", **settings})


def test_shares_are_by_kind():
    config = RecipeConfig(keep="python", units="neurons,heads", sparsity="0.5,.25", recovery_tokens="1e6")
    assert config.shares == {"neurons": 0.5, "heads": 0.25} and config.recovery_tokens == 1_000_000
    assert RecipeConfig(keep="a", units="neurons heads", sparsity=0.5).shares == {"neurons": 0.5, "heads": 0.5}
