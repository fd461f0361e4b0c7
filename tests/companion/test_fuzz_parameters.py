"""Any value for any parameter of any chapter: taken, or refused in a sentence."""

from decimal import Decimal

import pytest
import yaml
from companion import chapters, parameters
from companion.parameters import ParameterError
from fuzzing import CASES, ODD_NUMBERS, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from narrowlib.settings import SettingsError

KIND = "parameters of every chapter, one by one and together"
WITH_PARAMETERS = [name for name in chapters.names() if parameters.quick(name)]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def values_for(default):
    """Values near a default, as numbers and as the text that a command line gives."""
    near = st.just(default) | st.sampled_from([0, 1, -1, 0.5, 1.0])
    if isinstance(default, (int, float)):
        near |= st.integers(-2, 40) | st.floats(-1, 2)
    near |= ODD_NUMBERS
    return near | near.map(str) | ANYTHING


def settings_of(chapter):
    """Some parameters of a chapter with values, now and then one that it does not have."""
    each = {name: values_for(default) for name, default in parameters.quick(chapter).items()}
    known = st.lists(st.sampled_from(list(each)), unique=True, max_size=4).flatmap(
        lambda names: st.fixed_dictionaries({name: each[name] for name in names})
    )
    return st.tuples(known, st.dictionaries(st.text(max_size=9), SCALARS, max_size=1), st.integers(0, 9)).map(
        lambda drawn: drawn[0] | drawn[1] if drawn[2] == 0 else drawn[0]
    )


@pytest.mark.parametrize("chapter", WITH_PARAMETERS)
def test_any_settings_are_taken_or_refused_in_a_sentence(chapter):
    quick, model = parameters.quick(chapter), parameters.model(chapter)

    @fuzzed(KIND, parts=len(WITH_PARAMETERS))
    @given(settings_of(chapter))
    def check(values):
        try:
            taken = parameters.checked(chapter, values)
            assert set(taken) == set(values)
            config = model.from_parameters(quick | taken)
        except (ParameterError, SettingsError) as error:
            assert str(error) and all(map(str.strip, str(error).splitlines()))
        else:
            assert model(**config.to_parameters()) == config

    check()


NAMES = st.sampled_from(["n_seeds", "n_steps", "leave_below", "precision", "no_such"])


def number_in(line):
    """What stands for a number in a line, as a reader sees it."""
    return line.partition(": ")[2].partition("#")[0].removeprefix("&a").strip(" '\"")


@fuzzed("files of profiles")
@given(ANYTHING.map(yaml.safe_dump) | st.text(max_size=40) | st.builds("{}: {}".format, NAMES, ODD_NUMBERS | st.text()))
def test_any_file_of_a_profile_is_taken_as_meant_or_refused_in_a_sentence(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "profiles"
    (folder / "mine").mkdir(parents=True, exist_ok=True)
    (folder / "mine" / "hierarchy.yaml").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters, "PROFILES", folder)
        try:
            taken = parameters.of_profile("hierarchy", "mine")
        except ParameterError as error:
            assert str(error) and "\n" not in str(error)
        else:
            assert set(taken) <= set(parameters.quick("hierarchy"))
            value = next(iter(taken.values()), "")
            if isinstance(value, int | float):
                assert value == (Decimal if isinstance(value, int) else float)(number_in(text))


def test_there_are_five_thousand_cases():
    assert sum(CASES.values()) >= 5_000
