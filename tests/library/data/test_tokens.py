"""Blocks of tokens: the documents and nothing else, in the same order everywhere, whole or not at all."""

import hashlib
import json
import random
import re
import zipfile
from functools import partial

import pytest
from tiny_llamas import Counting, letter_tokens

from narrowlib.data import documents, tokens
from narrowlib.data.documents import SKILLS, SPLITS, Document, package_documents, pinned_sources, sources
from narrowlib.data.tokens import end_of_text, skill_blocks, token_blocks
from narrowlib.store import downloads
from narrowlib.store.downloads import UnavailableError

code_blocks = partial(skill_blocks, skill="python")
LENGTH = 16
END = 256
ENGLISH = {
    "en/one.txt": "A paragraph on one line. " * 60,
    "en/two.json": json.dumps({"a": ["no", "Long prose. " * 30]}),
}


def code(name, n_lines=20):
    return "".join(f"{name}_{i} = {i}\n" for i in range(n_lines))


PACKAGES = {
    "one": {f"one/m{i}.py": code(f"one{i}") for i in range(4)},
    "two": {f"two/m{i}.py": code(f"two{i}") for i in range(4)},
    "three": {**{f"three/m{i}.py": code(f"three{i}") for i in range(4)}, "three/copy.py": code("one0")},
    "apart": {f"apart/m{i}.py": code(f"apart{i}") for i in range(3)},
    "words": ENGLISH,
}
TABLE = {"python": {"train": ["one", "two", "three"], "held-out": ["apart"]}, "english": {"train": ["words"]}}


@pytest.fixture(scope="module")
def tokenizer():
    return letter_tokens()


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Packages of our own in place of the pinned ones; the names of those that were fetched, in order."""
    monkeypatch.setenv(downloads.CACHE_VARIABLE, str(tmp_path / "cache"))
    index = tmp_path / "index"
    index.mkdir()
    rows = {}
    for name, files in PACKAGES.items():
        path = index / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as packed:
            for file, content in files.items():
                packed.writestr(file, content)
        rows[name] = {
            "package": name,
            "version": "1.0",
            "licence": "MIT",
            "bytes": sum(map(len, files.values())),
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    filled = {
        skill: {split: [rows[name] for name in TABLE.get(skill, {}).get(split, [])] for split in SPLITS}
        for skill in SKILLS
    }
    monkeypatch.setattr(documents, "_table", lambda: filled)
    monkeypatch.setattr(tokens, "_DOCUMENTS_AT_ONCE", 2)
    monkeypatch.setattr(documents, "POOL_BYTES", (500, 2_000))  # the first package alone, then the others
    calls = []

    def command(archive, folder):
        calls.append(archive.name)
        return ["cp", str(index / archive.filename), str(folder)]

    monkeypatch.setitem(downloads._COMMANDS, "pypi", command)
    return calls


def ids_of(dataset):
    return [token for row in dataset["input_ids"] for token in row]


def test_blocks_are_the_documents_one_after_the_other(tokenizer, fetched):
    read = list(package_documents("python", "train"))
    expected = [token for document in read for token in [*tokenizer(document.text)["input_ids"], END]]
    blocks = code_blocks(tokenizer, n_tokens=len(expected), block_length=LENGTH, progress=False)
    assert len(blocks) == len(expected) // LENGTH and {len(row) for row in blocks["input_ids"]} == {LENGTH}
    assert ids_of(blocks) == expected[: len(blocks) * LENGTH]
    texts = tokenizer.decode(ids_of(blocks)).split("<|endoftext|>")
    assert texts[:-1] == [document.text for document in read][: len(texts) - 1]


def test_a_small_number_fetches_only_the_first_packages_and_is_the_first_of_more(tokenizer, fetched):
    few = ids_of(code_blocks(tokenizer, n_tokens=208, block_length=LENGTH, progress=False))
    assert fetched == ["one"]
    many = ids_of(code_blocks(tokenizer, n_tokens=2_000, block_length=LENGTH, progress=False))
    assert fetched == ["one", "two", "three"] and few == many[: len(few)]


def test_the_order_is_fixed_and_follows_the_seed(fetched):
    names = [document.name for document in package_documents("python", "train")]
    first = [f"one/m{i}.py" for i in range(4)]
    assert names[:4] == sorted(first, key=lambda name: hashlib.sha256(f"0/one/{name}".encode()).hexdigest())
    other = [document.name for document in package_documents("python", "train", seed=1)]
    assert other != names and sorted(other) == sorted(names)
    assert {name[:3] for name in other[4:8]} == {"two", "thr"}  # mixed inside a pool


def test_of_equal_files_one_is_taken(fetched):
    texts = [document.text for document in package_documents("python", "train")]
    assert len(texts) == len(set(texts)) == 12


def test_english_reads_paragraphs_and_the_prose_in_json(fetched):
    texts = {document.name: document.text for document in package_documents("english", "train")}
    assert texts == {"en/one.txt": ENGLISH["en/one.txt"], "en/two.json": "Long prose. " * 30}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p/__init__.py", ""),
        ("p/table.py", "X = [" + "1, " * 400 + "]\n" + code("x")),
        ("p/minified.py", (("x = 1; " * 20) + "\n") * 10),
        ("p/made.py", "# This file was automatically generated by a tool.\n" + code("x")),
        ("p/tests/helper.py", code("x")),
        ("p/sub/test_it.py", code("x")),
        ("p/_vendor/other.py", code("x")),
        ("p/big.py", code("x", 20_000)),
        ("p/latin.py", b"# \xe9\n" + code("x").encode()),
        ("p/data.csv", code("x")),
    ],
)
def test_what_nobody_wrote_by_hand_is_no_document(name, text, fetched, tmp_path):
    path = tmp_path / "p-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(name, text)
        packed.writestr("p/kept.py", code("kept"))
    archive = downloads.Archive("pypi", "p", "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    folder = downloads.cache_folder() / "archives"
    folder.mkdir(parents=True)
    path.rename(folder / path.name)
    assert [d.name for d in documents.source_documents(documents.Source(archive, "MIT", 1), "python")] == ["p/kept.py"]


@pytest.mark.parametrize("keeps", [0.0, 0.5, 0.99])
def test_a_damaged_file_in_the_cache_is_made_again(tokenizer, fetched, tmp_path, keeps):
    def ids():
        return ids_of(code_blocks(tokenizer, n_tokens=500, block_length=LENGTH, progress=False))

    before = ids()
    (path,) = (tmp_path / "cache" / "tokens").glob("*.arrow")
    path.write_bytes(path.read_bytes()[: int(keeps * path.stat().st_size)])
    assert ids() == before


def test_a_second_call_reads_the_cache(tokenizer, fetched, monkeypatch):
    first = code_blocks(tokenizer, n_tokens=500, block_length=LENGTH, progress=False)
    monkeypatch.setattr(tokens, "package_documents", lambda *_, **__: pytest.fail("made twice"))
    again = code_blocks(tokenizer, n_tokens=500, block_length=LENGTH, progress=False)
    assert ids_of(again) == ids_of(first)


def test_every_setting_has_its_own_file(tokenizer, fetched, tmp_path):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    other = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    other.add_tokens(["one1_1"])
    other = PreTrainedTokenizerFast(tokenizer_object=other, eos_token="<|im_end|>")
    usual = {"n_tokens": 500, "block_length": LENGTH, "progress": False}
    changes = [{}, {"n_tokens": 510}, {"block_length": 8}, {"seed": 1}, {"split": "held-out"}]
    for change in changes:
        code_blocks(tokenizer, **{**usual, **change})
    code_blocks(other, **usual)
    assert len(list((tmp_path / "cache" / "tokens").glob("*.arrow"))) == len(changes) + 1


def test_truncation_and_padding_do_not_change_the_key(tokenizer):
    before = tokens.fingerprint(tokenizer)
    tokenizer(
        ["a", "bcd"], padding=True, truncation=True, max_length=2, pad_to_multiple_of=2
    ) if tokenizer.pad_token else None
    tokenizer.backend_tokenizer.enable_truncation(2)
    assert tokens.fingerprint(tokenizer) == before
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def test_tokens_added_to_a_known_tokenizer_are_noticed(tokenizer):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    own = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    before = tokens._remembered_fingerprint(own)
    assert tokens._remembered_fingerprint(own) == before == tokens.fingerprint(tokenizer)
    own.add_tokens(["one1_1"])
    assert tokens._remembered_fingerprint(own) != before


def test_what_is_stopped_half_way_leaves_nothing(tokenizer, fetched, tmp_path, monkeypatch):
    def stopped():
        yield Document("p", "a.py", code("a"))
        raise KeyboardInterrupt

    options = {"name": "x", "key": "x", "n_tokens": 1_000, "block_length": LENGTH, "progress": False}
    monkeypatch.setattr(tokens, "_DOCUMENTS_AT_ONCE", 1)  # blocks of the first document are written
    with pytest.raises(KeyboardInterrupt):
        token_blocks(tokenizer, stopped, **options)
    assert [path.name for path in (tmp_path / "cache" / "tokens").iterdir() if not path.name.endswith(".lock")] == []
    whole = token_blocks(tokenizer, lambda: [Document("p", "a.py", code("a", 200))], **options)
    assert len(whole) == 1_000 // LENGTH


def test_special_tokens_in_a_text_are_text(tokenizer, fetched):
    text = "before <|endoftext|> after, " * 20
    blocks = token_blocks(
        tokenizer,
        lambda: [Document("p", "", text)],
        name="x",
        key="y",
        n_tokens=len(text),
        block_length=2,
        progress=False,
    )
    assert END not in ids_of(blocks) and tokenizer.decode(ids_of(blocks)) == text


def test_the_token_between_documents(tokenizer):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    assert end_of_text(tokenizer) == END != tokenizer.eos_token_id
    plain = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    assert end_of_text(PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>")) == 1
    with pytest.raises(ValueError, match="tokenizer has no end-of-text token"):
        end_of_text(PreTrainedTokenizerFast(tokenizer_object=plain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"skill": "latin"}, "skill is 'latin'; it must be one of python, english, c, javascript"),
        ({"split": "test"}, "split is 'test'; it must be one of train, held-out"),
        ({"source": "pile"}, "source is 'pile'; it must be 'packages' or a data set on the hub"),
        ({"n_tokens": 8}, "n_tokens is 8; it must be at least block_length, 16"),
        ({"n_tokens": float("nan")}, "n_tokens is nan; it must be a whole number"),
        ({"block_length": "16"}, "block_length is '16'; it must be a whole number"),
        ({"block_length": 1}, "block_length is 1; it must be at least 2"),
        ({"n_tokens": 10**9}, r"n_tokens is 1000000000; the train packages of python hold \d+ bytes"),
    ],
)
def test_bad_arguments_are_named_before_any_work(change, message, tokenizer, fetched):
    with pytest.raises(ValueError, match=message):
        skill_blocks(tokenizer, **{"skill": "python", "n_tokens": 500, "block_length": LENGTH, **change})
    assert fetched == []


def test_more_tokens_than_there_are(tokenizer, fetched):
    text = code("a")
    n = len(text) + 1
    with pytest.raises(ValueError, match=f"n_tokens is 800, in whole blocks; few holds {n} tokens in all"):
        token_blocks(
            tokenizer,
            lambda: [Document("p", "", text)],
            name="few",
            key=0,
            n_tokens=800,
            block_length=LENGTH,
            progress=False,
        )


def hub_that_serves(rows, monkeypatch):
    import datasets

    calls = []

    def load_dataset(*args, **options):
        calls.append((args, options))
        return iter(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_the_papers_data_set_is_streamed_and_split_by_repository(tokenizer, fetched, monkeypatch):
    rows = [
        {"content": code(f"r{i}"), "repo_name": f"owner/r{i % 400}", "path": path}
        for i in range(800)
        for path in ("a.py", "b.js")
    ]
    calls = hub_that_serves(rows, monkeypatch)
    parts = {split: list(documents.hub_documents(documents.GITHUB_CODE, "python", split)) for split in SPLITS}
    train, held_out = ({document.package for document in part} for part in parts.values())
    assert train and held_out and not train & held_out and len(train | held_out) == 400
    assert len(parts["train"]) + len(parts["held-out"]) == 800 and 1 <= len(held_out) <= 12
    assert (
        calls[0][0] == ("parquet",)
        and calls[0][1]["streaming"]
        and "codeparrot/github-code" in calls[0][1]["data_files"]
    )
    blocks = code_blocks(tokenizer, n_tokens=400, block_length=LENGTH, source=documents.GITHUB_CODE, progress=False)
    assert tokenizer.decode(ids_of(blocks)).startswith(parts["train"][0].text)
    assert fetched == []


def test_a_hub_out_of_reach_is_one_sentence(tokenizer, fetched, monkeypatch):
    import datasets

    def load_dataset(*_, **__):
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UnavailableError, match=re.escape("(no route to host); source='packages' needs no network")):
        code_blocks(tokenizer, n_tokens=400, block_length=LENGTH, source="codeparrot/github-code", progress=False)


def test_the_pinned_table():
    """What is written down: every skill in both splits, no package twice, wheels for any platform."""
    table = sources()
    assert set(zip(table["skill"], table["split"])) == {(skill, split) for skill in SKILLS for split in SPLITS}
    assert not table["package"].duplicated().any() and (table["bytes"] > 100_000).all()
    python = table[(table["skill"] == "python") & (table["split"] == "train")]
    assert python["bytes"].sum() > 200e6  # above 50 million tokens of about 3.7 bytes
    for skill in SKILLS:
        for split in SPLITS:
            for source in pinned_sources(skill, split):
                assert source.licence and source.archive.filename.endswith(("-none-any.whl", ".tgz"))


def test_named_folders_decide_alone_what_is_vendored():
    folders = ["package/vendor/re2/*"]
    assert documents._is_wanted("package/vendor/re2/re2.cc", "c", folders)
    assert not documents._is_wanted("package/src/addon.cc", "c", folders)
    assert not documents._is_wanted("package/vendor/re2/tests/re2.cc", "c", folders)
    assert not documents._is_wanted("package/vendor/re2/re2.cc", "c", ())


@pytest.mark.parametrize("splits", ["bytes", "words"])
def test_little_more_is_tokenised_than_is_needed_and_cuts_change_nothing(tokenizer, fetched, splits):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    draw = random.Random(0)
    pieces = ["def", " ", "  ", "\n", "\n    ", ";", "= ", "12", "é", "e\u0301", "\t", " x", "'s", "word", "(", ")\n\n"]
    texts = ["".join(draw.choices(pieces, k=draw.randint(1, 9_000))) for _ in range(12)]
    if splits == "words":
        of_words = Tokenizer(models.BPE())
        of_words.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
        of_words.train_from_iterator(texts, trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_words, eos_token="<|endoftext|>")
    end = end_of_text(tokenizer)
    expected = [token for text in texts for token in [*tokenizer(text)["input_ids"], end]]
    read = [Document("p", f"{n}.py", text) for n, text in enumerate(texts)]
    for n_tokens in (3_000, 20_000):
        counting = Counting(tokenizer, counted := [])
        options = {"name": splits, "key": splits, "n_tokens": n_tokens, "block_length": 100, "progress": False}
        assert ids_of(token_blocks(counting, lambda: read, **options)) == expected[:n_tokens]
        assert n_tokens <= sum(counted) <= 1.2 * n_tokens


def test_as_many_blocks_as_there_are(tokenizer, fetched, tmp_path):
    options = {"name": "few", "key": "few", "n_tokens": 500, "block_length": 100, "or_fewer": True, "progress": False}
    blocks = token_blocks(tokenizer, lambda: [Document("p", "a.py", "x" * 250)], **options)
    assert len(blocks) == 2
    (file,) = tmp_path.rglob("few*.arrow")
    file.write_bytes(file.read_bytes()[:-200])  # the disk lost a part
    assert len(token_blocks(tokenizer, lambda: [Document("p", "a.py", "x" * 250)], **options)) == 2
    with pytest.raises(tokens.TooFewTokensError, match="holds 51 tokens"):
        token_blocks(tokenizer, lambda: [Document("p", "a.py", "x" * 50)], **{**options, "key": "none"})
