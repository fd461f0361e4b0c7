"""Documents that a user brings: what counts as one, and on which side of the split it lies."""

import json
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_llamas import tiny_tokenizer

from narrowlib.data import documents
from narrowlib.recipe.intake import TXT_CHARACTERS, open_texts

DOCUMENTS = [f"document w{number} " * 3 for number in range(20)]


def split(source, **options):
    texts = open_texts("keep", str(source), **options)
    return {name: {document.text for document in texts.documents(name)} for name in ("train", "held-out")}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"content": text, "n": 1}) for text in DOCUMENTS))
    return path


def test_every_document_is_on_one_side_whatever_the_order_and_the_form(rows, tmp_path):
    found = split(rows)
    assert found["train"] | found["held-out"] == set(DOCUMENTS) and not found["train"] & found["held-out"]
    assert len(found["held-out"]) == 2
    pd.DataFrame({"content": DOCUMENTS[::-1]}).to_parquet(tmp_path / "rows.parquet")
    folder = tmp_path / "sources"
    (folder / "below" / ".hidden").mkdir(parents=True)
    for number, text in enumerate(DOCUMENTS):
        (folder / "below" / f"{number}.py").write_text(text)
    (folder / "image.png").write_bytes(b"\x89PNG\x00")
    (folder / "below" / ".hidden" / "no.py").write_text("hidden")
    assert split(tmp_path / "rows.parquet") == split(folder) == found
    assert split(rows, seed=1) != found
    assert len(split(rows, held_out_share=0.5)["held-out"]) == 10


def test_equal_documents_count_once_and_cannot_be_on_both_sides(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(text) for text in [*DOCUMENTS[:3], *DOCUMENTS[:3]]))
    found = split(path, held_out_share=0.5)
    assert len(found["train"]) + len(found["held-out"]) == 3 and not found["train"] & found["held-out"]


def test_a_text_is_cut_at_blank_lines(tmp_path):
    path = tmp_path / "notes.txt"
    paragraphs = [f"{number} " + "word " * 100 for number in range(30)]
    path.write_text("\n\n".join(paragraphs))
    documents = set().union(*split(path).values())
    assert all(len(text) >= TXT_CHARACTERS for text in list(documents)) or len(documents) > 5
    assert sum(text.count("word") for text in documents) == 30 * 100
    assert all(any(text.strip().startswith(p[:6]) for p in paragraphs) for text in documents)


def test_column_that_is_named_is_taken(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"a {n}", "body": f"b {n}"}) for n in range(4)))
    assert all(text.startswith("a") for text in split(path)["train"])
    assert all(text.startswith("b") for text in split(path, column="body")["train"])


def test_blocks_are_of_the_split_and_no_more_than_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(" ".join([f"w{n}"] * 30)) for n in range(3, 23)))
    texts = open_texts("keep", str(path))
    tokenizer, options = tiny_tokenizer(), {"block_length": 16, "progress": False}
    blocks = {name: texts.blocks(tokenizer, name, at_most=10_000, **options) for name in ("train", "held-out")}
    seen = {name: {token for block in each["input_ids"] for token in block} - {1} for name, each in blocks.items()}
    assert not seen["train"] & seen["held-out"] and len(blocks["train"]) == 18 * 31 // 16
    assert len(texts.blocks(tokenizer, "train", at_most=40, **options)) == 2


def test_data_set_of_the_hub_is_split_by_repository(monkeypatch):
    rows = [{"code": f"x = {n}", "path": f"{n}.py", "repo_name": f"owner/{n // 4}"} for n in range(800)]
    asked = []
    monkeypatch.setattr(documents, "_hub_rows", lambda name: asked.append(name) or iter(rows))
    found = split("owner/name")
    assert asked == ["owner/name"] * 2 and len(found["train"]) + len(found["held-out"]) == 800
    assert 0 < len(found["held-out"]) < 80 and len(found["held-out"]) % 4 == 0


def test_a_built_in_skill_has_splits_of_its_own(monkeypatch):
    from narrowlib.recipe import intake as inputs

    monkeypatch.setattr(inputs, "package_documents", lambda skill, split, seed: [documents.Document(skill, "", split)])
    assert split("english") == {"train": {"train"}, "held-out": {"held-out"}}


PARQUET = pa.table({"text": ["a", None, "b"]})
CELLS = pa.StringArray.from_buffers(2, pa.array([0, 1, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff\xfe"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("latin.txt", "a\nb\ncafé".encode("latin-1"), "line 3 of latin.txt holds the byte 0xe9"),
        ("notes.md", "wide".encode("utf-16"), "notes.md is text in UTF-16"),
        ("rows.jsonl", b'"a"\n"\xe9"\n', "line 2 of rows.jsonl holds the byte 0xe9"),
        ("rows.jsonl", b'"a"\n\n{"text": "\\ud800"}\n', r"line 3 of rows.jsonl holds the code point '\ud800'"),
        ("rows.jsonl", b'"\\udc00 alone"\n', r"line 1 of rows.jsonl holds the code point '\udc00'"),
        ("rows.jsonl", b'"a"\n' + b"[" * 100_000, "line 2 of rows.jsonl is no JSON"),
        ("rows.jsonl", b'"a"\n' + b"1" * 5_000, "line 2 of rows.jsonl is no JSON"),
        ("rows.parquet", PARQUET, "row 2 of rows.parquet holds None"),
        ("rows.parquet", pa.table({"text": CELLS}), "row 2 of rows.parquet cannot be read"),
    ],
)
@pytest.mark.parametrize("is_folder", [False, True])
def test_text_that_cannot_be_read_is_named_by_file_and_line(tmp_path, name, content, says, is_folder):
    path = tmp_path / name
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"keep is .*: {re.escape(says)}"):
        open_texts("keep", str(tmp_path if is_folder else path))
