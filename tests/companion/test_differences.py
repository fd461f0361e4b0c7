"""Where the book departs from the paper: what the file may hold, and what is made of it."""

import pytest
import yaml
from companion import differences, parameters

ONE = {"chapters": ["hierarchy"], "what": "seeds", "paper": "a | b", "here": "fewer", "why": "time"}


@pytest.fixture
def write(tmp_path, monkeypatch):
    def write(*entries):
        path = tmp_path / "differences.yaml"
        path.write_text(yaml.safe_dump(list(entries)))
        monkeypatch.setattr(differences, "FILE", path)
        differences.differences.cache_clear()

    yield write
    differences.differences.cache_clear()


def test_the_books_own():
    found = differences.differences()
    assert found and {name for each in found for name in each} <= {"chapters", "parameter", *differences.TEXTS}
    assert differences.listing().count("- **") == len(found)
    assert set(differences.of_parameters("llm-pruning")) <= set(parameters.quick("llm-pruning"))


def test_lists_and_departures(write):
    write(ONE, {**ONE, "chapters": ["hierarchy", "mnist"], "parameter": "n_seeds"} | {"chapters": ["hierarchy"]})
    assert differences.of_parameters("hierarchy") == {"n_seeds": "a | b"} and differences.of_parameters("mnist") == {}
    told = "- **Seeds.** *The paper:* a | b. *Here:* fewer. *Why:* time."
    assert differences.listing() == f"In {{doc}}`hierarchy </book/hierarchy>`:\n\n{told}\n{told}"


def test_a_parameters_value_is_read_from_the_profile(write):
    write({name: text for name, text in {**ONE, "parameter": "n_seeds"}.items() if name != "here"})
    expected = parameters.of_profile("hierarchy", "paper")["n_seeds"]
    assert f"*Here:* {expected}. *Why:*" in differences.listing()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"why": None}, "difference 1 in differences.yaml has no why; it must be a text"),
        ({"chapters": ["no-such"]}, "names the chapter 'no-such'; it must be one of"),
        ({"chapters": []}, "names the chapter None"),
        ({"parameter": "n_seedz"}, "names the parameter 'n_seedz', which hierarchy does not have"),
    ],
)
def test_what_is_not_legal_is_said(write, change, says):
    write(ONE | change)
    with pytest.raises(ValueError, match=says):
        differences.differences()


def test_a_book_without_the_file_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(differences, "FILE", tmp_path / "none.yaml")
    differences.differences.cache_clear()
    assert differences.differences() == ()
    differences.differences.cache_clear()
