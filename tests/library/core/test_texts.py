"""Text files that people write: every encoding is read or refused by its line, and so is every fault of YAML."""

import pytest
import yaml

from narrowlib.texts import load_yaml, read_text

TEXT = "eins\nzwei für\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.replace("\n", "\r\n").encode(),
    ],
)
def test_a_text_is_read_as_it_was_saved(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    assert read_text(tmp_path / "a.txt") == TEXT
    assert read_text(tmp_path / "a.txt", newline="").count("\r") == data.count(b"\r")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (TEXT.encode("cp1252"), 2),
        (TEXT.encode("utf-16-le"), 2),
        ("eins".encode("utf-16-be"), 1),
        (TEXT.encode("utf-16")[:-1], 2),
    ],
)
def test_another_encoding_is_refused_by_its_line(tmp_path, data, line):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.txt' cannot be read: it is not in UTF-8 \(line {line}\)"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", r"it holds 'a' more than once \(line 3\)"),
        ("a:\n  b: {c: 1, c: 2}\n", r"it holds 'c' more than once \(line 2\)"),
        ("a: 1\nb:\n\tc: 2\n", r"cannot start any token \(line 3\)"),
        ("a: 1\nb: [\n", r"\(line 3\)"),
        ("a: !!int 010\n", r"it holds the tag !!int; tags are not allowed \(line 1\)"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", r"it merges by <<.*\(line 3\)"),
        ("a: 1\nb: \x07\n", r"it holds the character '\\x07' \(line 2\)"),
        ("a: 1\n---\nb: 2\n", r"expected a single document.*\(line 2\)"),
        ("? [1]\n: 2\n", r"unhashable key \(line 1\)"),
        ("", "holds nothing; it must hold lines of the form name: value"),
        ("# a: 1\n", "holds nothing"),
        ("- a: 1\n", "holds a list; it must hold lines"),
        ("so\n", "holds 'so'; it must hold lines"),
    ],
)
def test_a_fault_of_yaml_is_one_sentence_with_file_and_line(tmp_path, content, says):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ValueError, match=rf"a\.yaml' .*{says}") as error:
        load_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def test_a_list_is_had_where_one_is_meant(tmp_path):
    (tmp_path / "a.yaml").write_text("- 010\n- 12:30\n- yes\n")
    assert load_yaml(tmp_path / "a.yaml", list) == ["010", "12:30", "yes"]
    assert load_yaml(tmp_path / "a.yaml", list, truths=True) == ["010", "12:30", True]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"a": 1}))
    with pytest.raises(ValueError, match="holds a mapping; it must hold a list"):
        load_yaml(tmp_path / "a.yaml", list)
