"""Nothing from outside is run, unpickled or unpacked; what code itself must not call is checked by ruff (rules S)."""

import hashlib
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_llamas import tiny_llama

from narrowlib.data import digits, documents
from narrowlib.data.documents import SKILLS, SPLITS, pinned_sources
from narrowlib.llm import models as llm
from narrowlib.store import downloads


def test_every_download_is_pinned_by_a_sha256_sum():
    archives = [source.archive for skill in SKILLS for split in SPLITS for source in pinned_sources(skill, split)]
    for archive in [*archives, digits.ARCHIVE, llm.DEFAULT_ARCHIVE]:  # an archive without a sum cannot be made
        assert archive.version in archive.filename, archive.name
    assert all(re.fullmatch(r"[0-9a-f]{64}", total) for total in digits.FILES.values())


def malicious(kind, path):
    """An archive whose members would leave the folder they are unpacked into, or are no files."""
    names = ["../up.py", "/tmp/absolute.py", "a/../../up.py", "C:\\windows.py", "good.py"]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name in names:
                packed.writestr(name, "harmless")
            link = zipfile.ZipInfo("link.py")
            link.external_attr = 0o120777 << 16
            packed.writestr(link, "/etc/passwd")
        return
    with tarfile.open(path, "w:gz") as packed:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 8
            packed.addfile(member, io.BytesIO(b"harmless"))
        for type_, name in ((tarfile.SYMTYPE, "link.py"), (tarfile.LNKTYPE, "hard.py"), (tarfile.FIFOTYPE, "pipe.py")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = type_, "/etc/passwd"
            packed.addfile(member)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_malicious_archive_reaches_no_file(tmp_path, kind):
    path = tmp_path / "inner" / "archive"
    path.parent.mkdir()
    malicious(kind, path)
    found = dict(downloads.members(path, lambda name: name.endswith(".py")))
    assert list(found) == sorted(found)
    assert found["good.py"] == b"harmless"
    assert all(content in (b"harmless", b"/etc/passwd") for content in found.values())  # a link's text, not its target
    assert "hard.py" not in found and "pipe.py" not in found
    assert {each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*")} == {"inner", "inner/archive"}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_malicious_package_is_refused_by_its_sum(tmp_path, monkeypatch, kind):
    monkeypatch.setenv(downloads.CACHE_VARIABLE, str(tmp_path / "cache"))
    malicious(kind, tmp_path / "served")
    pin = hashlib.sha256(b"what was pinned").hexdigest()
    archive = downloads.Archive("pypi", "p", "1", "p-1-py3-none-any.whl", pin)
    copy = ["cp", str(tmp_path / "served"), archive.filename]
    monkeypatch.setitem(downloads._COMMANDS, "pypi", lambda archive, folder: copy)
    source = documents.Source(archive, "MIT", 1)
    with pytest.raises(downloads.UnavailableError, match="sha256"):
        list(documents.source_documents(source, "python"))


def test_code_beside_a_model_is_not_run(tmp_path):
    """A checkpoint that names classes of its own, as those do that ask for ``trust_remote_code``."""
    tiny_llama("llama, tied").save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    classes = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", None]}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": classes}))
    harm = f"import pathlib\npathlib.Path({str(tmp_path / 'harmed')!r}).touch()\n"
    (tmp_path / "model" / "evil.py").write_text(harm + "class Config: pass\nclass Model: pass\nclass T: pass\n")
    with pytest.raises(downloads.UnavailableError, match="cannot be loaded from the folder"):  # has no tokenizer
        llm.load_causal_lm(tmp_path / "model", device="cpu")
    assert not (tmp_path / "harmed").exists()


def test_a_pickled_model_is_refused(tmp_path):
    """A folder with weights in a pickle and none in safetensors."""

    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    tiny_llama("llama, tied").config.save_pretrained(tmp_path / "model")
    torch.save({"model.embed_tokens.weight": Harm()}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(downloads.UnavailableError, match="cannot be loaded from the folder"):
        llm.load_causal_lm(tmp_path / "model", device="cpu")
    assert not (tmp_path / "harmed").exists()
