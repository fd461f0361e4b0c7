"""Documents that a user brings: what counts as one, and on which side of the split it lies."""

import bz2
import errno
import gzip
import io
import json
import os
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_llamas import tiny_tokenizer

from narrowlib.data import documents
from narrowlib.recipe import reading
from narrowlib.recipe.intake import SPLITS, open_texts, texts_of, weighted
from narrowlib.recipe.reading import TXT_CHARACTERS
from narrowlib.recipe.settings import RecipeConfig

DOCUMENTS = [f"document w{number} " * 3 for number in range(20)]


def split(source, **options):
    texts = open_texts("keep", str(source), **options)
    return {name: {document.text for document in texts.documents(name)} for name in SPLITS}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"content": text, "n": 1}) for text in DOCUMENTS))
    return path


def test_every_document_is_on_one_side_whatever_the_order_and_the_form(rows, tmp_path):
    found = split(rows)
    assert set.union(*found.values()) == set(DOCUMENTS)
    assert {name: len(each) for name, each in found.items()} == {"train": 16, "select": 2, "held-out": 2}
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
    assert sorted(text for each in found.values() for text in each) == sorted(DOCUMENTS[:3])


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
    assert not seen["train"] & seen["held-out"] and len(blocks["train"]) == 16 * 31 // 16
    assert len(texts.blocks(tokenizer, "train", at_most=40, **options)) == 2


def test_data_set_of_the_hub_is_split_by_repository(monkeypatch):
    rows = [{"code": f"x = {n}", "path": f"{n}.py", "repo_name": f"owner/{n // 4}"} for n in range(800)]
    asked = []
    monkeypatch.setattr(documents, "_hub_rows", lambda name: asked.append(name) or iter(rows))
    found = split("owner/name")
    assert asked == ["owner/name"] * 3 and sum(map(len, found.values())) == 800
    assert 0 < len(found["held-out"]) < 80 and len(found["held-out"]) % 4 == 0


def test_a_built_in_skill_has_splits_of_its_own(monkeypatch):
    from narrowlib.recipe import intake as inputs

    def documents_of(skill, split, seed):
        return [documents.Document(skill, "", f"{split} {number}") for number in range(200)]

    monkeypatch.setattr(inputs, "package_documents", documents_of)
    found = split("english")
    assert found["held-out"] == {f"held-out {number}" for number in range(200)}
    assert 10 < len(found["select"]) < 30 and not found["select"] & found["train"]
    assert found["select"] | found["train"] == {f"train {number}" for number in range(200)}


BEYOND = pa.table({"text": DOCUMENTS[:3], "when": pa.array([10**7] * 3, pa.date32()), "picture": [b"\xff"] * 3})


@pytest.mark.parametrize(
    ("name", "content", "holds"),
    [
        ("lines.csv", "text\none; one; 1\ntwo; two\nthree; 3\n", ["one; one; 1", "two; two", "three; 3"]),
        ("late.csv", 'id,text\n1,"o, n"\n' * 3_000 + '2,"a ""b"", c"\n3,"it, \'s\', x"\n', ['a "b", c', "it, 's', x"]),
        ("spaced.csv", 'id, text\n1, "a, b"\n2, "c, d"\n3, e\n', ["a, b", "c, d", "e"]),
        ("semi.csv", "\ufefftext;n\r\na, b, c;1\r\nd, e;2\r\nf;3\r\n", ["a, b, c", "d, e", "f"]),
        ("semi.csv", '"a,b,c,";text\n1;"d; ""e"""\n2;f\n3;g', ['d; "e"', "f", "g"]),
        ("tabs.csv", "text\tn\na, b\t1\nc; d\t2\ne\t\t\n", ["a, b", "c; d", "e"]),
        ("long.csv", f"text\n{'a b ' * 50_000}\nb\nc\n", ["a b " * 50_000, "b", "c"]),  # beyond the limit of csv
        ("lines.json", '{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n', ["a", "b", "c"]),
        ("named.json", '{"ids": ["x"], "data": [{"text": "a"}, {"text": "b"}, {"text": "c"}]}', ["a", "b", "c"]),
        ("lines.txt", "one\ntwo\nthree\n\n", ["one", "two", "three"]),
        ("sparse.jsonl", '{"text": "a"}\n{"id": 1}\n{"text": "b"}\n{}\n"c"\n', ["a", "b", "c"]),
        ("beyond.parquet", BEYOND, DOCUMENTS[:3]),
    ],
)
def test_files_as_tools_write_them(tmp_path, name, content, holds):
    path = tmp_path / name
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content.encode())
    found = set().union(*split(path).values())
    assert found >= set(holds) and (len(found) == len(holds) or name == "late.csv")


BINARY = "the file is binary; it must be text, or parquet with the suffix .parquet"
CELLS = pa.StringArray.from_buffers(2, pa.array([0, 1, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff\xfe"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.jsonl", b'"a"\n\n{"text": "\\ud800"}\n', r"line 3 of rows.jsonl holds the code point '\ud800'"),
        ("rows.jsonl", b'"\\udc00 alone"\n', r"line 1 of rows.jsonl holds the code point '\udc00'"),
        ("rows.jsonl", b'"a"\n' + b"[" * 100_000, "line 2 of rows.jsonl is not JSON"),
        ("rows.jsonl", b'"a"\n' + b"1" * 5_000, "line 2 of rows.jsonl is not JSON"),
        ("rows.json", b"[" * 100_000, "rows.json is not JSON"),
        ("rows.parquet", pa.table({"text": CELLS}), "rows.parquet is not a readable parquet file"),
        (
            "rows.jsonl",
            '"Gr\u00fc\u00dfe"\n'.encode() + b'"one \xff byte"\n',
            "line 2 is not UTF-8, unlike the other lines",
        ),
        ("page.txt", "Gr\u00fc\u00dfe\n\n".encode() * 9 + b"half of \xc3", "line 19 is not UTF-8"),
        ("page.txt", "wide\ntext".encode("utf-16") + b"x", "line 2 is not UTF-16"),
        ("page.txt", "wide".encode("utf-16-le"), "the file is binary; it must be text"),
        ("rows.csv", "text\none, two\n", "line 2 of rows.csv has more cells than columns"),
        ("rows.csv", 'id;text\n\n1;"two\nlines"\n2;a;b\n', "line 5 of rows.csv has more cells than columns"),
        ("rows.csv", 'text,id\na,1\n\n"b,2\nc,3\n', "the row at line 4 of rows.csv is not CSV, its quotes"),
        (
            "rows.tsv",
            'text\tid\na\t1\n"b\t2\nc\t"3"\n',
            "the row at line 3 of rows.tsv is not CSV, its quotes",
        ),
        (
            "rows.csv",
            "text,id\na,1\nb\0,2\n",
            f"{BINARY}; line 3 holds a NUL",
        ),
        ("rows.csv", "text,id\n", "rows.csv holds no rows"),
        ("rows.jsonl", "\n \n", "rows.jsonl holds no rows"),
        ("rows.parquet", pa.table({"text": pa.array([], pa.string())}), "rows.parquet holds no rows"),
        ("page.ipynb", json.dumps({"cells": [{"cell_type": "code", "source": "\ud800"}]}), "page.ipynb holds the code"),
        ("page.ipynb", json.dumps({"cells": [{"cell_type": "code", "source": [5]}]}), "page.ipynb is not a notebook"),
        ("page.ipynb", b"[" * 100_000, "page.ipynb is not a notebook"),
        ("rows.jsonl", '"a"\n{"instruction": 5, "output": "x"}', "line 2 of rows.jsonl: messages must each hold role"),
        (
            "rows.jsonl",
            '{"messages": [{"role": ["user"], "content": "x"}]}',
            "line 1 of rows.jsonl: messages must each",
        ),
    ],
)
def test_text_that_cannot_be_read_is_named_by_file_and_line(tmp_path, name, content, says):
    path = tmp_path / name
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=f"keep is .*: {re.escape(says)}"):
        open_texts("keep", str(path))
    for word in ("one", "two", "three"):
        (tmp_path / f"{word}.txt").write_text(word)
    (left,) = open_texts("keep", str(tmp_path)).left_out
    assert left.startswith(("cannot be read", "not text"))


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("latin-1", "d\u00e9j\u00e0 vu "),
        ("cp1251", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043a\u0430\u043a "),
        ("shift_jis", "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0 "),
        ("gb18030", "\u8fd9\u662f\u4e2d\u6587 "),
        ("utf-16", "d\u00e9j\u00e0 "),
    ],
)
def test_text_of_another_encoding_is_not_taken_for_broken_utf8(encoding, words):
    assert reading.decoded(words.encode(encoding) * 40)
    for n_before in range(2):  # whatever is looked at first may end in the middle of a character
        assert encoding == "latin-1" or words in reading.decoded(
            ("a" * n_before + f"{words}\n" * 8_000).encode(encoding)
        )


def test_a_file_whose_name_is_no_utf8_is_named_so_that_a_report_can_be_written(tmp_path):
    for name in (b"a.txt", b"b.txt", b"c\xff.txt"):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    texts = open_texts("keep", str(tmp_path))
    assert {document.name for split in SPLITS for document in texts.documents(split)} == {
        "a.txt",
        "b.txt",
        r"c\xff.txt",
    }


SECRET = "AWS = 'AKIA" + "ABCDEFGHIJKLMNOP'"
CODE = "def add(a, b):\n    return a + b  # {}\n"
NASTY = {  # what a folder may hold: content, and why it is left out, "" where it is taken
    "a.py": (CODE.format("a"), ""),
    "src/latin.txt": ("Gr\u00fc\u00dfe aus M\u00fcnchen, sch\u00f6ne Stra\u00dfe\n".encode("latin-1") * 9, ""),
    "src/wide.txt": ("wide text".encode("utf-16"), ""),
    "packed.py.gz": (gzip.compress(CODE.format("gz").encode()), ""),
    "packed.txt.bz2": (bz2.compress(b"packed text"), ""),
    "rows.csv": ("text,n\nfirst row,1\n,2\n", ""),
    "list.jsonl": (json.dumps([{"text": "one list in spite of the suffix"}], indent=1), ""),
    "list.json": (json.dumps([{"content": "in a list"}, {"content": None}]), ""),
    "settings.json": ('{"indent": 4}', ""),
    "notes.ipynb": (json.dumps({"cells": [{"cell_type": "code", "source": ["x = 1"], "outputs": ["iVBORw0K"]}]}), ""),
    ".env": ("A=1", "hidden"),
    ".git/config": ("x", "hidden"),
    "a.py~": (CODE.format("a before"), "hidden or a backup"),
    "src/Thumbs.db": ("x", "hidden or a backup"),
    "src/#draft.txt#": ("x", "hidden or a backup"),
    "secret.py": (SECRET, "may hold a secret"),
    "server.pem": ("x", "may hold a secret"),
    "package-lock.json": ("{}", "written by tools"),
    "poetry.lock": ("x", "written by tools"),
    "app.min.js": ("x", "written by tools"),
    "app.js": ("x" * 6_000, "minified"),
    "made.py": ("# Code generated by protoc. DO NOT EDIT.\n", "generated"),
    "image.png": (b"\x89PNG\x00", "not text"),
    "image.svg": ("<svg/>", "written by tools"),
    "paper.pdf": ("%PDF-1.4\n1 0 obj", "not text"),
    "env/pyvenv.cfg": ("x", "built or installed"),
    "node_modules/b.js": ("x", "built or installed"),
    "ignored/c.py": ("x", "named in .gitignore"),
    "src/ignored_below.py": ("x", "named in .gitignore"),
    "src/kept.log": ("a log that is wanted", ""),
    "other.log": ("x", "named in .gitignore"),
    "nothing.py": ("", "empty"),
    "copy.py": (CODE.format("a"), "duplicate"),
    "copy_formatted.py": (CODE.format("a").replace("    ", "\t") + "\n", "duplicate"),
    "bad.parquet": ("no", "cannot be read: it is not a readable parquet file"),
    "bad.jsonl": ('{"text": "w"}\n{"te', "cannot be read: line 2 of it is not JSON"),
    "bad.gz": ("no", "cannot be read: it is not a gzip file"),
    "tests/t.py": ("x", "by include and exclude"),
    "tests/keep.py": ("kept though in tests", ""),
}


@pytest.fixture
def nasty(tmp_path):
    for name, (content, _) in NASTY.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / ".gitignore").write_text("ignored/\n*.log\n")
    (tmp_path / "src" / ".gitignore").write_text("ignored_below.py\n!kept.log\n")
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    os.mkfifo(tmp_path / "pipe.py")
    return tmp_path


def test_a_nasty_folder_is_taken_apart(nasty):
    texts = open_texts("keep", str(nasty), exclude=["tests/*", "!tests/keep.py"])
    taken = {document.name.split(":")[0] for split in SPLITS for document in texts.documents(split)}
    assert taken == {name for name, (_, reason) in NASTY.items() if not reason}
    words = {document.name: document.text for split in SPLITS for document in texts.documents(split)}
    assert words["src/latin.txt"].startswith("Gr\u00fc\u00dfe") and words["src/wide.txt"] == "wide text"
    assert words["packed.py.gz"] == CODE.format("gz") and words["notes.ipynb"] == "x = 1"
    reasons = {name: reason for reason, names in texts.left_out.items() for name in names}
    assert reasons.pop("rows.csv:1") == reasons.pop("list.json:1") == "rows without text"
    assert reasons.pop(".gitignore") == reasons.pop("src/.gitignore") == "hidden or a backup"
    assert reasons.pop("linked/") == "link to a folder"
    assert reasons.pop("gone.py") == reasons.pop("pipe.py") == "broken link, or no file"
    whole = (".git/", "env/", "ignored/", "node_modules/")  # folders of which nothing is taken are told as one
    left = {next(filter(name.startswith, whole), name): reason for name, (_, reason) in NASTY.items() if reason}
    assert set(reasons) == set(left)
    assert {name: reasons[name] for name in reasons if not reasons[name].startswith(left[name])} == {}
    only = open_texts("keep", str(nasty), include=["*.py"])
    assert all(document.name.endswith(".py") for document in only.documents("train"))


@pytest.mark.parametrize(
    ("text", "is_secret"),
    [
        ("AWS_SECRET_ACCESS_KEY = 'abcdefgh1234567890xyz'", True),
        ("clientSecret: 'abcdefgh1234567890xyz'", True),
        ('github_token = "abcdefgh1234567890xyz"', True),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----", True),
        ("mine:\nAKIAABCDEFGHIJKLMNOP", True),
        ("asiapacificcountriesx", False),
        ("url = 'postgres://user:s3cretword@host/data'", True),
        ("//registry.npmjs.org/:_authToken=npm_" + "aB3" * 12, True),
        ("API_KEY=abcdefgh1234567890xyz", True),
        ("  db_password: abcdefgh1234567890xyz  \nnext: 1", True),
        ("token = previous_tokens_of_the_batch_2", False),
        ("password = read_password(128, retries=3)", False),
        ("see https://host:8080/a@b or http://user:password@host", False),
        (".sk-toggleable__content-and-a-long-name-of-css", False),
        ("token = 'a plain text of 20 letters 1'", False),
    ],
)
def test_secrets_are_seen_in_texts_and_in_chats(tmp_path, text, is_secret):
    (tmp_path / "one.txt").write_text(text)
    chat = [{"role": "user", "content": text}, {"role": "assistant", "content": "an answer"}]
    (tmp_path / "two.jsonl").write_text(json.dumps({"messages": chat}))
    for n in range(3):
        (tmp_path / f"{n}.txt").write_text(f"plain {n}")
    left_out = open_texts("keep", str(tmp_path)).left_out.get("may hold a secret", [])
    assert left_out == (["one.txt", "two.jsonl:0"] if is_secret else [])


def test_ignored_files_are_those_of_git(tmp_path):
    for name in (
        "a.log",
        "b/kept.txt",
        "b/c/gone.txt",
        "d/gone.txt",
        "d/e/f.txt",
        "g h/gone.txt",
        "i/gone.txt",
        "j.txt",
        "k.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".gitignore").write_text("\ufeff*.log\n!\n[z-a]\n\\\nd/\ni/*\n")
    (tmp_path / "b" / "c" / ".gitignore").write_text("*")
    (tmp_path / "d" / "e" / ".gitignore").write_text("!f.txt")  # git does not look into what is ignored
    config = RecipeConfig(keep=str(tmp_path), exclude="g\\ h/ nothing", sparsity=0.5)
    assert set().union(*({d.text for d in texts_of(config)["keep"].documents(s)} for s in SPLITS)) == {
        "b/kept.txt",
        "j.txt",
        "k.txt",
    }
    with pytest.raises(ValueError, match=r"keep is .*: a pattern has a bad character range z-a"):
        open_texts("keep", str(tmp_path), exclude=["[z-a]"])


def test_what_may_not_be_looked_into_is_told(tmp_path, monkeypatch):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"plain {number}")
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def scandir(path):
        if Path(path).name == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    closed = "closed"
    assert open_texts("keep", str(tmp_path)).left_out == {"cannot be read: Permission denied": ["closed/"]}
    closed = tmp_path.name
    with pytest.raises(ValueError, match=r"keep is .*, which cannot be read: Permission denied"):
        open_texts("keep", str(tmp_path))


def test_models_and_large_binary_files_in_a_folder_are_no_documents(tmp_path):
    of_models = [f"out/{name}" for name in ("config.json", "tokenizer.json", "README.md", "report.html")]
    of_models += ["lora/adapter_config.json"]
    for name in (*of_models, "sweep.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name} of a model")
    for name in ("README.md", "config.json", "a.txt"):
        (tmp_path / name).write_text(json.dumps({"name": name}))
    for name in ("out/model.safetensors", "film.mp4"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 36)  # more than is in memory; its beginning says enough
    texts = open_texts("keep", str(tmp_path))
    assert {d.name for s in SPLITS for d in texts.documents(s)} == {"README.md", "config.json", "a.txt"}
    assert {len(names) for names in texts.left_out.values()} == {1, 2, len(of_models)}


def test_what_one_source_holds_back_no_other_is_trained_on(tmp_path):
    for n in range(40):
        (tmp_path / "part").mkdir(exist_ok=True)
        (tmp_path / ("part" if n % 2 else "") / f"{n}.txt").write_text(f"document {n}")
    alone = texts_of(RecipeConfig(keep=str(tmp_path), sparsity=0.5))["keep"]
    texts = texts_of(
        RecipeConfig(keep=[str(tmp_path), f"{tmp_path / 'part'}=2"], lose=str(tmp_path / "part"), sparsity=0.5)
    )
    parts = [*(text for text, _ in texts["keep"].parts), texts["lose"]]
    found = {s: {d.text for text in parts for d in text.documents(s)} for s in SPLITS}
    assert not found["train"] & (found["select"] | found["held-out"]) and not found["select"] & found["held-out"]
    assert set().union(*found.values()) == {f"document {n}" for n in range(40)}
    assert parts[0].key != alone.key and sum(parts[0].n_documents.values()) < 40


@pytest.mark.parametrize(
    "name", ["~notes.txt", "~nobody-of-this-name/notes", "a long text and no name " * 200, "x=" + "9" * 400]
)
def test_what_is_no_name_is_refused_in_a_sentence(name):
    assert weighted(name) == (name.strip(), 1)
    with pytest.raises(ValueError, match=r"keep is '.*which does not exist"):
        open_texts("keep", name)


def test_a_name_with_a_tilde_is_a_file_where_it_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~notes.txt").write_text("\n".join(DOCUMENTS))
    assert sum(map(len, split("~notes.txt").values())) == 20


CHATS = [
    {"messages": [{"role": "user", "content": "w3"}, {"role": "assistant", "content": "w4"}]},
    {"conversations": [{"from": "human", "value": "w5"}, {"from": "gpt", "value": "w6"}]},
    {"instruction": "w7", "input": "w8", "output": "w9"},
]


TEMPLATE = "{% for m in messages %}</s> {{ m.role }} {{ m.content }} {% endfor %}"
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}


def text(words):
    return {"type": "text", "text": words}


def turns(*contents, role="user"):
    return [{"role": role, "content": content} for content in contents]


ASKED = [*turns("q"), *turns("a", role="assistant")]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (
            {"messages": [*turns([text("a"), text("b")]), *turns([text("c")], role="assistant")]},
            [("user", "ab"), ("assistant", "c")],
        ),
        ({"messages": [*turns(["a"]), *turns(["b"], role="assistant")]}, [("user", "a"), ("assistant", "b")]),
        (
            {"messages": [{"from": "Human", "value": "a"}, {"from": "chatgpt", "value": "b"}]},
            [("user", "a"), ("assistant", "b")],
        ),
        (
            {"conversations": [{"from": "prompter", "value": "a"}, *turns("b", role="model")]},
            [("user", "a"), ("assistant", "b")],
        ),
        *(
            (row, [("system", "s"), ("user", "q"), ("assistant", "a")])
            for row in (
                {"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
                {"system_prompt": "s", "tools": "[]", "messages": ASKED},
                {"system": "other", "messages": [*turns("s", role="system"), *ASKED]},  # LLaMA-Factory reads it so
                {"system": "s", "instruction": "q", "input": "", "output": "a"},
                {"system": "s", "prompt": "q", "completion": "a", "text": "q a"},
                {"system": "s", "prompt": ASKED[:1], "completion": ASKED[1:]},
                {"system": "s", "prompt": "q", "chosen": "a", "rejected": "b"},
                {"system": "s", "prompt": "q", "chosen": ASKED, "rejected": ASKED[:1]},
                {"system": "s", "chosen": ASKED},
            )
        ),
        (
            {"instruction": "c", "input": "d", "output": "e", "history": [["a", "b"]]},
            [("user", "a"), ("assistant", "b"), ("user", "c\n\nd"), ("assistant", "e")],
        ),
        ({"messages": ASKED, "tools": [{"name": "f"}]}, "chats with more than text"),
        ({"conversations": [*ASKED, {"from": "function_call", "value": "{}"}]}, "chats with more than text"),
        ({"messages": turns("a", role="system")}, "chats without an answer"),
        ({"messages": turns("a", "")}, "chats without an answer"),
        ({"messages": [], "text": "plain"}, "plain"),
        ({"messages": turns([text("a"), IMAGE])}, "chats with more than text"),
        ({"messages": [*turns("a"), CALL, *turns("3", role="tool")]}, "chats with more than text"),
        ({"messages": turns("a", None)}, "chats with more than text"),
        ({"messages": turns("", " ")}, "rows without text"),
        ({"messages": []}, "rows without text"),
        ({"conversations": None}, "rows without text"),
        ({"instruction": "a", "input": "", "output": ""}, "rows without text"),
    ],
)
def test_chats_of_other_forms(tmp_path, row, found):
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, [row, *CHATS])))
    if isinstance(found, list) or found == "chats with more than text":
        (tmp_path / "chats.json").write_text(json.dumps(row))  # one chat alone
    if row.get("messages") or row.get("conversations"):  # a table of nothing has no types
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "chats.parquet")
    for path in tmp_path.iterdir():
        taken = reading.read(path)
        if isinstance(found, list):
            assert [tuple(each.values()) for each in json.loads(taken.documents[0].text)] == found
        else:
            assert taken.left_out == ({} if found == "plain" else {found: [f"{path.name}:0"]})
            assert found != "plain" or taken.documents[0].text == found


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_chats_go_through_the_template(tmp_path, monkeypatch, template):
    monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, CHATS)))
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    texts = open_texts("keep", str(path))
    found = [
        token
        for split in SPLITS
        for block in texts.blocks(tokenizer, split, at_most=100, block_length=2, progress=False)["labels"]
        for token in block
    ]
    assert set(found) & {*range(3, 10)} in ({4, 6, 9}, {4, 6}, {4, 9}, {6, 9}) and -100 in found


def test_chats_without_an_answer_are_left_out_and_blocks_without_one_too(tmp_path, monkeypatch):
    monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path / "cache"))
    silent = [{"role": "user", "content": "w3"}], [*CHATS[0]["messages"][:1], {"role": "assistant", "content": " "}]
    path, notes = tmp_path / "chats.jsonl", tmp_path / "notes.txt"
    asked = [{"instruction": f"w{n} " * 40, "output": "w60"} for n in range(3, 23)]
    path.write_text("\n".join(map(json.dumps, [*({"messages": each} for each in silent), *asked])))
    notes.write_text("\n".join(f"w{n} " * 40 for n in range(30, 50)))
    texts = open_texts("keep", str(path))
    assert texts.left_out == {"chats without an answer": ["chats.jsonl:0", "chats.jsonl:1"]}
    blocks = texts.blocks(tiny_tokenizer(), "train", at_most=10_000, block_length=8, progress=False)
    assert len(blocks) >= 14 and all(60 in row for row in blocks["labels"])  # of more than 80
    config = RecipeConfig(keep=[str(path), str(notes)], sparsity=0.5)
    for row in texts_of(config)["keep"].blocks(tiny_tokenizer(), "train", at_most=800, block_length=8, progress=False):
        assert all(label in (token, -100) for token, label in zip(row["input_ids"], row["labels"], strict=True))
        assert max(row["input_ids"]) == 60 or row["labels"] == row["input_ids"]  # notes count whole
    with pytest.raises(
        ValueError, match=r"chats\.jsonl', whose select chats have no answer in the 2 blocks of 8 tokens"
    ):
        texts.blocks(tiny_tokenizer(), "select", at_most=16, block_length=8, progress=False)


def test_chats_are_read_again_when_the_template_is_another(tmp_path, monkeypatch):
    monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, CHATS)))
    tokenizer, texts, found = tiny_tokenizer(), open_texts("keep", str(tmp_path / "chats.jsonl")), []
    for word in ("w3", "w6", "w3"):
        tokenizer.chat_template = TEMPLATE.replace("</s>", f"</s> {word}")
        blocks = texts.blocks(tokenizer, "train", at_most=1_000, block_length=4, progress=False)
        found.append([token for block in blocks["input_ids"] for token in block])
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("template", ["{{ raise_exception('no system here') }}", "{{ messages[9].content.upper() }}"])
def test_a_chat_that_the_template_refuses_is_named(tmp_path, monkeypatch, template):
    monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, CHATS)))
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    texts = open_texts("keep", str(tmp_path / "chats.jsonl"))
    with pytest.raises(ValueError, match=r"the chat chats\.jsonl:\d does not fit the chat template of the model: "):
        texts.blocks(tokenizer, "train", at_most=100, block_length=2, progress=False)


def test_several_sources_are_mixed_by_weight(tmp_path, monkeypatch):
    monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path / "cache"))
    for name, word in (("one", 3), ("two", 30)):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"w{word + n} " * 40 for n in range(20)))
    config = RecipeConfig(keep=[str(tmp_path / "one.txt"), f"{tmp_path / 'two.txt'}=3"], sparsity=0.5)
    texts = texts_of(config)["keep"]
    blocks = texts.blocks(tiny_tokenizer(), "train", at_most=320, block_length=8, progress=False)["input_ids"]
    from_two = [max(block) >= 30 for block in blocks]
    assert sum(from_two) == 30 and len(blocks) == 40 and sum(from_two[:8]) == 6
    assert texts.n_documents == {"train": 32, "select": 4, "held-out": 4}
    (tmp_path / "two.txt=3").write_text("w5 w6\nw7 w8\n")  # a file of that name is itself
    assert weighted(f"{tmp_path / 'two.txt'}=3")[1] == 1


AS_ROWS = [json.dumps({"text": text}) for text in DOCUMENTS]


@pytest.mark.parametrize("content", ["\n".join(AS_ROWS), json.dumps(DOCUMENTS), "[\n" + ",\n".join(AS_ROWS) + "\n]"])
def test_the_standard_input_is_read_once(monkeypatch, content):
    reading._standard_input.cache_clear()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert set().union(*split("-").values()) == set(DOCUMENTS) == set().union(*split("-").values())


def test_a_text_on_the_standard_input_may_begin_with_a_bracket(monkeypatch):
    reading._standard_input.cache_clear()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"[a link](of a page)\n{ a block }\nthe end\n")))
    assert set().union(*split("-").values()) == {"[a link](of a page)", "{ a block }", "the end"}
    reading._standard_input.cache_clear()
