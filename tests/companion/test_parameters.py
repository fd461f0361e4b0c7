"""Parameters of chapters: what is declared, what is refused, and how fast."""

import subprocess
import sys

import pytest
from companion import chapters
from companion.chapters import ParameterError, parse_parameters
from companion.execute import chosen_parameters
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import ROOT

CELL = """
count: int = 4         # how many [1, 10]
share: float = 0.5     # how much of it (0, 1]
where: str = "auto"    # on what {auto, cpu}
loud: bool = False     # say so
"""


@pytest.fixture
def declared():
    return parse_parameters(CELL)


def test_declarations_are_read(declared):
    assert list(declared) == ["count", "share", "where", "loud"]
    count = declared["count"]
    assert (count.type, count.default, count.meaning, count.legal) == ("int", 4, "how many", "[1, 10]")
    assert declared["where"].describe() == "one of auto, cpu"
    assert declared["loud"].legal == ""


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("count", "10", 10),
        ("count", 1, 1),
        ("share", "1e-3", 1e-3),  # yaml reads 1e-3 as a text too
        ("share", 1, 1.0),
        ("where", "cpu", "cpu"),
        ("loud", "false", False),  # papermill would pass on the text 'false', which is true
        ("loud", True, True),
    ],
)
def test_legal_values(declared, name, value, parsed):
    result = declared[name].parse(value)
    assert result == parsed and type(result) is type(parsed)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("count", "0", "count is 0; it must be a whole number in [1, 10]"),
        ("count", 11, "count is 11; it must be a whole number in [1, 10]"),
        ("count", "abc", "count is 'abc'; it must be a whole number in [1, 10]"),
        ("count", "4.0", "count is '4.0'; it must be a whole number in [1, 10]"),
        ("count", 4.0, "count is 4.0; it must be a whole number in [1, 10]"),
        ("count", True, "count is True; it must be a whole number in [1, 10]"),
        ("count", None, "count is None; it must be a whole number in [1, 10]"),
        ("share", "0", "share is 0.0; it must be a number in (0, 1]"),
        ("share", "nan", "share is nan; it must be a number in (0, 1]"),
        ("share", "inf", "share is inf; it must be a number in (0, 1]"),
        ("where", "tpu", "where is 'tpu'; it must be one of auto, cpu"),
        ("loud", "0", "loud is '0'; it must be true or false"),
    ],
)
def test_illegal_values(declared, name, value, says):
    with pytest.raises(ParameterError) as error:
        declared[name].parse(value)
    assert str(error.value) == says


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.integers()))
@settings(max_examples=300, deadline=None)
def test_any_value_is_taken_or_refused_in_one_line(value):
    for parameter in parse_parameters(CELL).values():
        try:
            assert type(parameter.parse(value)).__name__ == parameter.type
        except ParameterError as error:
            assert "\n" not in str(error) and "it must be" in str(error)


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_in_P_is_taken_or_refused(text):
    try:
        chosen_parameters("hierarchy", "quick", text)
    except ParameterError as error:
        assert "\n" not in str(error)


def test_comment_in_brackets_is_not_a_range():
    declared = parse_parameters("count: int = 4  # how many (bits, labels)\n")
    assert (declared["count"].legal, declared["count"].meaning) == ("", "how many (bits, labels)")


def test_bound_may_name_other_parameters():
    declared = parse_parameters("a: int = 2  # one [1, 9]\nb: int = 8  # other [3 * a, 20]\n")
    assert declared["b"].parse(6, {"a": 2}) == 6
    with pytest.raises(ParameterError, match=r"b is 6; it must be a whole number in \[3 \* a, 20\]"):
        declared["b"].parse(6, {"a": 3})


def test_default_that_another_value_makes_illegal_is_refused():
    with pytest.raises(ParameterError, match="n_task_bits is 32; it must be a whole number in"):
        chosen_parameters("hierarchy", "quick", "n_subtasks=12")


def test_unknown_type_is_refused():
    with pytest.raises(SyntaxError, match="a parameter's type is one of int, float, str, bool, not 'list'"):
        parse_parameters("seeds: list = [0]")


@pytest.mark.parametrize("cell", ["count = 4", "print(4)", "count: int"])
def test_undeclared_lines_are_refused(cell):
    with pytest.raises(SyntaxError, match="name: type = value"):
        parse_parameters(cell)


@pytest.mark.parametrize("chapter", chapters.names())
def test_defaults_obey_their_own_ranges(chapter):
    declared = chapters.parameters(chapter)
    defaults = {name: parameter.default for name, parameter in declared.items()}
    for parameter in declared.values():
        assert parameter.parse(parameter.default, defaults) == parameter.default
        assert parameter.meaning, f"{chapter}: {parameter.name} has no comment"


@pytest.mark.parametrize("profile", chapters.profile_names())
@pytest.mark.parametrize("chapter", chapters.names())
def test_profiles_are_legal(chapter, profile):
    chapters.profile_parameters(chapter, profile)


def test_profiles_name_only_chapters():
    import yaml

    for path in chapters.PROFILES.glob("*.yaml"):
        assert set(yaml.safe_load(path.read_text())) <= set(chapters.names()), path.name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hierarchy", "--set", "n_seedz=3"], "hierarchy has no parameter 'n_seedz'; did you mean 'n_seeds'? it has "),
        (["hierarchy", "--set", "n_seeds=-1"], "n_seeds is -1; it must be a whole number in [1, 1000]"),
        (["hierarchy", "--set", "n_steps=abc"], "n_steps is 'abc'; it must be a whole number in "),
        (["hierarchy", "--set", "n_seeds"], "P holds 'n_seeds'; it must hold name=value"),
        (["hierarchy", "--set", "n_seeds='3"], 'P is "n_seeds=\'3"; '),
        (["hierarchy", "--profile", "huge"], "PROFILE is 'huge'; it must be one of quick, "),
        (["../hierarchy"], "CHAPTER is '../hierarchy'; it must be one of "),
    ],
)
def test_command_refuses_in_one_sentence(arguments, says):
    command = [sys.executable, "-m", "companion", "run", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith(says)


def test_refusing_loads_nothing_heavy():
    """Why a refusal takes well under a second: neither papermill nor torch is imported for it."""
    code = (
        "import sys\n"
        "from companion import chapters, execute\n"
        "try: execute.chosen_parameters('hierarchy', 'quick', 'n_seeds=0')\n"
        "except chapters.ParameterError: print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert "jupytext" in loaded and not {"papermill", "torch", "pandas", "grimp"} & set(loaded)
