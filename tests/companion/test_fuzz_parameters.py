"""Any value for any parameter of any chapter: taken with its type and in its range, or refused in a sentence."""

import importlib
import pkgutil
import re

import pytest
import yaml
from companion import chapters, record
from companion.chapters import ParameterError
from fuzzing import CASES, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from narrowlib import chapters as rooms

KIND = "parameters of every chapter, one by one and together"
TYPES = {"int": int, "float": float, "bool": bool, "str": str}
WITH_PARAMETERS = [name for name in chapters.names() if chapters.parameters(name)]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def values_for(parameter):
    """Values in and around the range of a parameter, as numbers and as the text that a command line gives."""
    bounds = [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", parameter.legal)] or [0.0, 10.0]
    low, high = min(bounds), max(bounds)
    near = st.sampled_from([low, high, low - 1, high + 1, parameter.default])
    if parameter.type == "int":
        near |= st.integers(int(low) - 2, int(high) + 2)
    if parameter.type == "float":
        near |= st.floats(low - 1, high + 1)
    return near | near.map(str) | st.just(parameter.default) | ANYTHING


def settings_of(chapter):
    """Some parameters of a chapter with values, now and then one that it does not have."""
    each = {name: values_for(parameter) for name, parameter in chapters.parameters(chapter).items()}
    known = st.lists(st.sampled_from(list(each)), unique=True, max_size=4).flatmap(
        lambda names: st.fixed_dictionaries({name: each[name] for name in names})
    )
    return st.tuples(known, st.dictionaries(st.text(max_size=9), SCALARS, max_size=1), st.integers(0, 9)).map(
        lambda drawn: drawn[0] | drawn[1] if drawn[2] == 0 else drawn[0]
    )


def assert_one_line(error):
    assert str(error) and "\n" not in str(error)


@pytest.fixture(scope="module")
def without_training():
    """Experiments that take their configuration and compute nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for module in pkgutil.walk_packages(rooms.__path__, "narrowlib.chapters."):
            loaded = importlib.import_module(module.name)
            for name in list(vars(loaded)):
                if name.endswith("_tables"):
                    patch.setattr(loaded, name, lambda *_, **__: {})
        yield


@pytest.mark.parametrize("chapter", WITH_PARAMETERS)
def test_any_settings_are_taken_whole_or_refused_in_a_sentence(chapter, without_training):
    declared = chapters.parameters(chapter)
    defaults = {name: parameter.default for name, parameter in declared.items()}
    more = record.all_parameters(chapter, chapters.DEFAULT_PROFILE, "")

    @fuzzed(KIND, parts=len(WITH_PARAMETERS))
    @given(settings_of(chapter))
    def check(values):
        try:
            taken = chapters.check_parameters(chapter, values)
        except ParameterError as error:
            assert_one_line(error)
            return
        assert set(taken) == set(values)
        everything = defaults | taken
        for name, value in everything.items():
            assert type(value) is TYPES[declared[name].type]
            assert declared[name].parse(value, everything) == value
        if chapter in record.RECORDED:
            try:
                record.RECORDED[chapter](more | everything)
            except ValueError as error:  # what the ranges cannot tell, such as what fits together
                assert_one_line(error)

    check()


@fuzzed("files of profiles")
@given((ANYTHING | ANYTHING.map(lambda value: {"mine": value})).map(yaml.safe_dump) | st.text(max_size=40))
def test_any_file_of_a_profile_is_taken_or_refused_in_a_sentence(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "profiles"
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(text.replace("mine:", "hierarchy:"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chapters, "PROFILES", folder)
        try:
            taken = chapters.profile_parameters("hierarchy", "mine")
        except ParameterError as error:
            assert_one_line(error)
        else:
            assert set(taken) <= set(chapters.parameters("hierarchy"))


def test_there_are_two_thousand_cases():
    assert sum(CASES.values()) >= 2_000
