"""Any claim, record, pin, group of units or mask: taken and right, or refused in a sentence."""

import hashlib
import json
import math

import pandas as pd
import torch
import yaml
from fuzzing import fuzzed, paths, replaced
from hypothesis import given
from hypothesis import strategies as st

from narrowlib import claims
from narrowlib.pruning import keep_masks
from narrowlib.store import downloads, records
from narrowlib.store.downloads import INDEXES, Archive
from narrowlib.units import Slice, UnitGroup, check, unit_sums

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=8) | st.dates()
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3), max_leaves=6
)
JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=8), st.lists, max_leaves=6)
BOOK = claims.load_claims()


def assert_one_line(error):
    assert str(error) and "\n" not in str(error)


ONE_CLAIM = {"H1": BOOK["H1"]}
BROKEN_CLAIMS = st.builds(replaced, st.just(ONE_CLAIM), st.sampled_from(list(paths(ONE_CLAIM))), ANYTHING)


@fuzzed("files of claims")
@given((BROKEN_CLAIMS | ANYTHING).map(lambda value: yaml.dump(value, Dumper=yaml.SafeDumper)) | st.text(max_size=60))
def test_any_file_of_claims_is_taken_or_refused_in_a_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "claims.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        taken = claims.load_claims(path)
    except ValueError as error:
        assert_one_line(error)
        return
    for claim, about in taken.items():
        table = claims.assess(claim, dict.fromkeys(about["quantities"], 0.5), claims=taken)
        assert claims.verdict(table) in (claims.SEEN, claims.NOT_SEEN)


COMPARISONS = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])


@fuzzed("rules of claims")
@given(st.text(max_size=8) | st.builds("{} {}".format, COMPARISONS, ANYTHING), st.floats())
def test_any_rule_is_obeyed_or_refused_in_a_sentence(rule, value):
    try:
        holds = claims.satisfies(value, rule)
    except ValueError as error:
        assert_one_line(error)
        assert "a space, and a number" in str(error)
        return
    comparison, bound = rule.split(" ", 1)
    assert holds == eval(f"value {comparison} bound", {"value": value, "bound": float(bound)})


TABLE = pd.DataFrame({"value": [1.0, 2.0]}).to_parquet()
SUM = hashlib.sha256(TABLE).hexdigest()
ABOUT = {"name": "table", "config": {"n": 1}, "provenance": {"device": "x"}, "sha256": SUM}
WRONG = st.none() | st.text() | st.just({"a": 1})


def described(about):
    return json.dumps(about).encode()


@fuzzed("records")
@given(
    st.just(TABLE) | st.binary(max_size=40) | st.integers(0, len(TABLE)).map(lambda end: TABLE[:end]),
    st.binary(max_size=40)
    | JSON.map(described)
    | st.builds(replaced, st.just(ABOUT), st.sampled_from(list(paths(ABOUT))), WRONG).map(described),
    st.booleans(),
)
def test_any_record_is_what_was_saved_or_refused_in_a_sentence(tmp_path_factory, table, about, has_sum):
    folder = tmp_path_factory.getbasetemp()
    if has_sum:  # a table that nobody could have saved, with the right sum
        about = described({**ABOUT, "sha256": hashlib.sha256(table).hexdigest()})
    (folder / "table.parquet").write_bytes(table)
    (folder / "table.json").write_bytes(about)
    try:
        record = records.load("table", folder)
    except records.BadRecordError as error:
        assert_one_line(error)
        return
    assert record.frame["value"].tolist() == [1.0, 2.0]
    assert isinstance(record.config, dict) and isinstance(record.provenance, dict)


WORDS = st.text("ab.-_/\\@ =;~", max_size=8) | st.sampled_from(["", ".", "..", "-r", "--index-url=x", "a/../b", "é"])


@fuzzed("pins of packages")
@given(st.sampled_from(INDEXES) | WORDS, WORDS, WORDS, WORDS, st.text("0123456789abcdefgG", min_size=63, max_size=65))
def test_no_pin_leaves_its_folder_or_becomes_an_option(tmp_path_factory, index, name, version, filename, total):
    try:
        archive = Archive(index, name, version, filename, total)
    except ValueError as error:
        assert_one_line(error)
        return
    folder = tmp_path_factory.getbasetemp()
    assert (folder / archive.filename).resolve().parent == folder.resolve()
    command = downloads._COMMANDS[index](archive, folder)
    (wanted,) = (word for word in command if word in (f"{name}=={version}", f"{name}@{version}"))
    assert not wanted.startswith("-")
    assert len(archive.sha256) == 64 and set(archive.sha256) <= set("0123456789abcdef")


def slices():
    numbers = st.integers(-1, 3) | st.none() | st.booleans() | st.floats(0, 2)
    names = st.sampled_from(["w", "v", "", None])
    made = st.builds(maybe_slice, names, st.integers(0, 2) | numbers, st.integers(1, 2) | numbers)
    return st.lists(made | st.sampled_from(["w", None]), max_size=3)


def maybe_slice(*given):
    try:
        return Slice(*given)
    except ValueError as error:
        assert_one_line(error)
        return Slice("w", 0)


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@fuzzed("slices and groups of units")
@given(
    st.sampled_from(["g", "", None]) | st.just("g"),
    st.integers(0, 4) | st.sampled_from([None, True, 2.0, "2"]),
    slices() | st.sampled_from([None, 3]),
    st.integers(-1, 2) | st.booleans(),
    SHAPES,
    SHAPES,
)
def test_any_group_is_refused_or_sums_what_belongs_to_its_units(group_name, n_units, parts, n_run_axes, shape, other):
    shapes = (("w", shape), ("v", other))
    tensors = {name: torch.arange(1.0, 1 + math.prod(each)).view(each) for name, each in shapes}
    try:
        group = UnitGroup(group_name, n_units, parts, n_run_axes)
        check(group, tensors)
    except ValueError as error:
        assert_one_line(error)
        return
    sums = unit_sums(group, tensors)
    for unit in range(n_units):
        expected = 0
        for parameter, axes in group.axes.items():
            belongs = torch.zeros_like(tensors[parameter], dtype=torch.bool)
            block = next(part.block for part in group.slices if part.parameter == parameter)
            for axis in axes:
                belongs.narrow(axis, unit * block, block).fill_(True)
            kept = torch.where(belongs, tensors[parameter], 0)
            expected = expected + (kept.flatten(1).sum(1) if n_run_axes else kept.sum())
        torch.testing.assert_close(sums[..., unit], expected)


@fuzzed("masks")
@given(
    st.dictionaries(st.sampled_from("ab"), st.lists(st.floats(width=32), min_size=1, max_size=5), max_size=2),
    st.floats() | st.integers(-1, 2) | st.none() | st.text(max_size=3),
    st.sampled_from(["all", "per_layer", "", None]),
)
def test_any_scores_are_refused_or_ranked(values, sparsity, scope):
    scores = {name: torch.tensor(each) for name, each in values.items()}
    try:
        masks = keep_masks(scores, sparsity, scope=scope)
    except ValueError as error:
        assert_one_line(error)
        return
    for name, mask in masks.items():
        assert mask.shape == scores[name].shape and mask.dtype == torch.bool
        if mask.any() and not mask.all():
            assert scores[name][mask].min() >= scores[name][~mask].max()
    n_units = sum(len(mask) for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) <= n_units
