"""The small base model: text that is read, a training that goes on, a record that holds its weights."""

import json
import shutil
import types

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from narrowlib.chapters.small_base import Config, against_trigram, files, shares_said, skills_said, tables
from narrowlib.data.documents import Document
from narrowlib.llm import small_base
from narrowlib.llm.models import load_causal_lm, version_of
from narrowlib.llm.small_base import MOST_PASSES, SmallBaseConfig, text_for, train_small_base
from narrowlib.store import records, unfinished
from narrowlib.store.downloads import UnavailableError
from narrowlib.store.files import sha256_of

CONFIG = Config(
    vocab_size=260, tokenizer_bytes=500, n_heads=2, head_dim=8, n_layers=1, intermediate_size=16, block_length=16,
    n_tokens=512, batch_size=4, n_warmup=1, precision="float32", compiled=False, n_held_out_blocks=2, device="cpu",
)  # fmt: skip
LENGTHS = {"python": 4_000, "english": 34, "c": 4_000, "javascript": 4_000}  # of all text of a skill


@pytest.fixture(autouse=True)
def little_text(monkeypatch, tmp_path):
    """Documents of random letters in place of those out of packages, and a cache of its own."""
    monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path / "cache"))

    def documents(skill, split, *, seed=0):
        length = LENGTHS[skill] if split == "train" else 4_000
        letters = np.random.default_rng([*skill.encode(), *split.encode()]).integers(97, 101, length)
        yield Document(skill, "one", bytes(letters.tolist()).decode())

    monkeypatch.setattr(small_base, "MOST_BYTES", 10**9)  # all are counted
    for module in ("narrowlib.llm.small_base", "narrowlib.data.tokens"):
        monkeypatch.setattr(f"{module}.package_documents", documents)


def test_a_gpu_does_not_take_what_a_cpu_has_trained(tmp_path, monkeypatch):
    cpu = CONFIG.replace(checkpoints=str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cpu.folder != cpu.replace(device="cuda").folder == cpu.replace(device="auto").folder


def test_no_text_is_read_more_than_four_times_and_the_largest_skill_makes_up_for_it():
    tokenizer = small_base.learned_tokenizer(CONFIG)
    found = text_for(CONFIG, tokenizer)
    assert sum(seen for _, seen in found.values()) == CONFIG.n_steps * CONFIG.batch_size == 32
    different, seen = found["english"]
    assert seen == MOST_PASSES * different < 32 // 4 and found["c"] == found["javascript"] == (8, 8)
    assert found["python"][1] == 16 - seen
    blocks = small_base.mixed_blocks(tokenizer, CONFIG, found, progress=False)
    times = pd.Series([tuple(row) for row in blocks["input_ids"]]).value_counts()
    assert len(blocks) == 32 and times.max() == MOST_PASSES and (times == MOST_PASSES).sum() == different
    with pytest.raises(
        ValueError, match=r"n_tokens is 1000000; the packages hold .* fewer, even if each is read 4 times"
    ):
        text_for(CONFIG.replace(n_tokens=1_000_000), tokenizer)


def test_a_training_that_was_killed_goes_on_in_a_folder_that_was_copied(tmp_path, monkeypatch):
    recipe = CONFIG.recipe
    whole, curve = train_small_base(recipe, tmp_path / "whole", device="cpu", progress=False)
    monkeypatch.setattr(SmallBaseConfig, "training", property(lambda self: _training(self).replace(checkpoint_every=1)))
    saves = []

    def killed(self, *args):
        saves.append(args)
        real(self, *args)
        if len(saves) == 3:
            raise KeyboardInterrupt

    real = unfinished.Checkpoint.save
    monkeypatch.setattr(unfinished.Checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_small_base(recipe, tmp_path / "killed", device="cpu", progress=False)
    shutil.move(tmp_path / "killed", tmp_path / "moved")
    again, resumed = train_small_base(recipe, tmp_path / "moved", device="cpu", progress=False)
    assert len(saves) == 3 + (recipe.n_steps - 1 - 3)  # none of the first three steps is made again
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, again))
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == torch.bfloat16 for name in one)
    assert resumed["loss"].tolist() == curve["loss"].tolist()


_training = SmallBaseConfig.training.fget


def test_tables_compare_with_a_trigram_model_on_the_same_blocks(tmp_path):
    config = CONFIG.replace(checkpoints=str(tmp_path))
    found = tables(config, progress=False)
    losses = found["losses"]
    assert len(losses) == 8 and losses["block_losses"].map(len).eq(2).all()
    assert losses["tokens"].eq(512).all() and losses["bytes_per_token"].between(0.9, 20).all()
    assert [np.mean(each) for each in losses["block_losses"]] == pytest.approx(losses["loss"].tolist())
    table = against_trigram(losses)
    assert (table["trigram"] - table["small base"]).tolist() == pytest.approx(table["ahead"].tolist())
    assert set(found["curve"]["split"]) == {"train", "held out"}
    assert shares_said(found["text"]).startswith("Million tokens read")
    assert sorted(files(config))[:2] == ["model/config.json", "model/generation_config.json"]


def test_what_is_said_is_what_the_intervals_allow():
    ours, trigram = {"model": "small base", "bytes_per_token": 2.0}, {"model": "trigram", "bytes_per_token": 2.0}
    rows = []
    for skill, losses in {"python": [1.0, 1.1, 0.9], "c": [2.0, 3.0, 1.0]}.items():
        for about, values in ((ours, losses), (trigram, [2.0, 2.1, 2.2])):
            found = {"block_losses": values, "loss": np.mean(values), "n_parameters": 3.4e6, "tokens": 6e7}
            rows.append({"skill": skill, **about, **found})
    said = skills_said(pd.DataFrame(rows))
    assert said == (
        "With 3.4 million parameters and 60.0 million tokens, the model is ahead of the trigram model on 1 of 2 "
        "skills, by 1.10 nats per token."
    )


def test_the_name_small_loads_the_record_and_refuses_another_file(tmp_path, monkeypatch):
    config = CONFIG.replace(checkpoints=str(tmp_path / "kept"))
    frame = tables(config, progress=False)["losses"]
    folder = tmp_path / "paper" / small_base.CHAPTER
    (folder / "model").mkdir(parents=True)
    for name, path in files(config).items():
        shutil.copyfile(path, folder / name)
    about = {"files": {name: sha256_of(folder / name) for name in files(config)}}
    records.save(records.Record("losses", frame, {}, about), folder)
    monkeypatch.setattr(records, "PAPER_RESULTS", tmp_path / "none")
    stand_in = version_of("small")
    monkeypatch.setattr(small_base, "PAPER_RESULTS", tmp_path / "paper")
    monkeypatch.setattr(records, "PAPER_RESULTS", tmp_path / "paper")
    monkeypatch.setattr(small_base, "train_small_base", None)
    loaded = load_causal_lm("small", device="cpu")
    weights = load_file(folder / "model" / "model.safetensors")
    assert torch.equal(loaded.model.model.embed_tokens.weight, weights["model.embed_tokens.weight"].float())
    assert loaded.name == "small" and loaded.stored == torch.bfloat16
    assert version_of("small") != stand_in and version_of("default") == "default"
    for name in ("model/tokenizer.json", "model/model.safetensors"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(UnavailableError, match=f"'small' cannot be loaded: .*{name} is not the recorded file"):
            load_causal_lm("small", device="cpu")
        (folder / name).write_bytes(whole)
    described = json.loads((folder / "losses.json").read_text())
    (folder / "losses.json").write_text(json.dumps(described | {"sha256": "0" * 64}))
    with pytest.raises(UnavailableError, match="'small' cannot be loaded: the record 'losses' is damaged"):
        load_causal_lm("small", device="cpu")


def test_while_nothing_is_recorded_the_stand_in_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PAPER_RESULTS", tmp_path / "none")
    monkeypatch.setattr(small_base, "STAND_IN", CONFIG.recipe)
    first = load_causal_lm("small", device="cpu")
    monkeypatch.setattr(small_base, "recover", None)
    again = load_causal_lm("small", device="cpu")
    one, other = (each.model.state_dict() for each in (first, again))
    assert all(torch.equal(one[name], other[name]) for name in one) and first.model.config.hidden_size == 16


def test_the_recipe_fits_its_record():
    """At most eight megabytes, in bfloat16, and about twenty tokens for each parameter."""
    recipe = SmallBaseConfig()
    model = small_base.new_model(recipe, types.SimpleNamespace(eos_token_id=0))
    assert 2 * model.num_parameters() < 7_800_000 and 15 < recipe.n_tokens / model.num_parameters() < 25
    trained = small_base.recorded()
    assert trained is None or (trained / "model.safetensors").stat().st_size < 8_000_000
