"""Anything that is typed after `narrow`, stands in its configuration, or lies in the files it is given: a sentence."""

import io
import json

import pandas as pd
import pytest
import yaml
from fuzzing import ODD_NUMBERS, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from narrowlib.recipe import cli
from narrowlib.recipe.intake import SPLITS, open_texts
from narrowlib.recipe.settings import RecipeConfig
from narrowlib.settings import SettingsError

NAMES_LEGAL = list(RecipeConfig.model_fields)
SCALARS = st.none() | st.booleans() | st.integers(-2, 10**7) | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner), max_leaves=5
)
WORDS = (
    st.sampled_from(["neurons", "neurons,heads", "0.5", "0.5,0.2", "1e6", "random", "cpu", "1", "-1", "nan", ""])
    | ODD_NUMBERS
)
FLAGS = st.sampled_from([f"--{name.replace('_', '-')}" for name in NAMES_LEGAL])
NAMES = st.sampled_from([*NAMES_LEGAL, "no_such_name", "out"])
SETTINGS = st.dictionaries(NAMES, ANYTHING | WORDS, max_size=5)
LIKELY = st.builds(lambda given: {"keep": "python", "sparsity": 0.5} | given, SETTINGS)


def assert_one_line(error):
    assert str(error) and "\n" not in str(error)


def assert_whole(config):
    """What was accepted is the same again when it is read from what it says."""
    assert RecipeConfig(**config.lasting, device=config.device) == config
    assert set(config.shares) == set(config.units) and all(0 < share < 1 for share in config.shares.values())


@fuzzed("settings of narrow, typed and in a file", parts=2)
@given(SETTINGS | LIKELY)
def test_any_settings_are_accepted_or_refused_by_name(settings):
    try:
        config = RecipeConfig(**settings)
    except SettingsError as error:
        lines = str(error).splitlines()
        assert lines and all(line.split()[0].strip(",") in {*NAMES_LEGAL, *settings} for line in lines)
    else:
        assert_whole(config)


@fuzzed("settings of narrow, typed and in a file", parts=2)
@given(
    (ANYTHING | LIKELY).map(yaml.safe_dump) | st.text(max_size=40),
    st.lists(FLAGS | WORDS | SCALARS.map(str), max_size=4),
)
def test_any_command_is_run_or_refused_in_sentences(tmp_path_factory, text, words):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(text, encoding="utf-8")
    run = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "narrowlib.recipe.estimate.estimate", lambda config: run.append(config) or pd.DataFrame({"a": [1]})
        )
        patch.setattr("sys.stdout", io.StringIO())
        patch.setattr("sys.stderr", said := io.StringIO())
        code = cli.main(["run", "--dry-run", "--config", str(path), *words])
    if code == 2:
        lines = said.getvalue().splitlines()
        assert lines and all(line.strip() for line in lines) and "Traceback" not in lines[0]
    elif run:
        assert_whole(run[0])
    else:
        assert "--help" in words or "-h" in words


def jsonl(rows):
    return "\n".join(map(json.dumps, rows)).encode()


def parquet(texts):
    return pd.DataFrame({"text": texts}).to_parquet()


TEXTS = st.lists(st.text(max_size=9), min_size=1, max_size=4)
BROKEN = st.lists(
    st.text(st.characters(exclude_categories=()), max_size=9), min_size=1, max_size=4
)  # JSON can write it
PARTS = st.sampled_from(["role", "content", "from", "value", "instruction", "input", "output", "text"])
MESSAGES = st.dictionaries(PARTS, st.sampled_from(["user", "gpt"]) | BROKEN.map(" ".join) | ANYTHING, max_size=3)
CHATS = st.fixed_dictionaries({"messages": st.lists(MESSAGES | SCALARS, max_size=2) | ANYTHING}) | MESSAGES
CELLS = st.fixed_dictionaries({"cell_type": st.just("code"), "source": BROKEN | ANYTHING})
ROWS = st.lists(ANYTHING | CHATS, max_size=4) | (TEXTS | BROKEN).map(lambda texts: [{"text": text} for text in texts])
ENCODED = st.builds(
    str.encode, st.text(max_size=60), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-7"])
)
ALMOST = st.builds(bytes.__add__, ENCODED, st.binary(max_size=3))
TABLES = st.text('ab,;"\t\n\r', max_size=30).map("text,n\n{}".format).map(str.encode)
NOTEBOOKS = st.lists(CELLS | ANYTHING, max_size=4).map(lambda cells: json.dumps({"cells": cells}).encode())
CONTENT = st.binary(max_size=60) | ENCODED | ALMOST | TABLES | NOTEBOOKS | ROWS.map(jsonl) | TEXTS.map(parquet)
ENDINGS = st.sampled_from([".txt", ".jsonl", ".json", ".parquet", ".py", ".csv", ".tsv", ".ipynb", ".gz", ""])


@fuzzed("documents for narrow")
@given(CONTENT, ENDINGS, st.sampled_from(["", "text", "n"]), st.booleans())
def test_any_file_is_read_or_refused_in_a_sentence(tmp_path_factory, content, ending, column, is_folder):
    folder = tmp_path_factory.getbasetemp() / "documents"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    path = folder / f"file{ending}"
    path.write_bytes(content)
    try:
        texts = open_texts("keep", str(folder if is_folder else path), column=column)
    except ValueError as error:
        assert_one_line(error)
        return
    found = [{document.text for document in texts.documents(split)} for split in SPLITS]
    assert all(found) and len(set.union(*found)) == sum(map(len, found))
    assert all(text.strip() for text in set.union(*found))
