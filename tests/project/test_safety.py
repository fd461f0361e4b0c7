"""No pickle, no foreign code, no unpacking, no unpinned download: read off the source, and tried with bad archives."""

import ast
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
from trees import ROOT

from narrowlib.data import digits, documents
from narrowlib.data.documents import SKILLS, SPLITS, pinned_sources
from narrowlib.llm import models as llm
from narrowlib.store import downloads

SOURCES = [
    path
    for folder in ("narrowlib", "workflow/companion", "benchmarks", "reliability", "book/_ext")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "imp"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    "torch.load": "it unpickles; safetensors holds tensors",
    "torch.save": "it pickles",
    "torch.hub.load": "it runs code of others",
    "np.load": "it may unpickle",
    "numpy.load": "it may unpickle",
    "pd.read_pickle": "it unpickles",
    "pandas.read_pickle": "it unpickles",
    "yaml.load": "it may make any object; safe_load does not",
    "yaml.full_load": "the same",
    "yaml.unsafe_load": "the same",
    "os.system": "a shell",
    "os.popen": "a shell",
    "tempfile.mktemp": "others may take the name first",
    "shutil.unpack_archive": "names in an archive would reach the file system",
}
FORBIDDEN_METHODS = {"extractall", "extract", "to_pickle"}
FORBIDDEN_OPTIONS = {
    "trust_remote_code": True,
    "allow_pickle": True,
    "shell": True,
    "weights_only": False,
    "verify": False,
}
NETWORK_MODULES = {
    "urllib",
    "http",
    "requests",
    "httpx",
    "aiohttp",
    "socket",
    "huggingface_hub",
    "ftplib",
    "subprocess",
}
# Who may start processes or ask the network, and for what.
TALKERS = {
    "narrowlib/data/digits.py": "MNIST from torchvision's mirrors, compared with its sums",
    "narrowlib/store/downloads.py": "pip and npm, for pinned packages",
    "narrowlib/llm/models.py": "silences the log of the hub's client",
    "narrowlib/store/provenance.py": "git, for the commit",
}


def faults(source):
    """What a module must not do, with its line."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] in FORBIDDEN_MODULES or name in FORBIDDEN_CALLS:
                yield f"{node.lineno}: imports {name}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            is_bad = called in FORBIDDEN_CALLS or called in FORBIDDEN_NAMES
            if is_bad or (isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN_METHODS):
                yield f"{node.lineno}: calls {called}"
            for option in node.keywords:
                if option.arg in FORBIDDEN_OPTIONS and not is_constant(option.value, not FORBIDDEN_OPTIONS[option.arg]):
                    yield f"{node.lineno}: {option.arg}={ast.unparse(option.value)}"
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                name = key.value if isinstance(key, ast.Constant) else None
                if name in FORBIDDEN_OPTIONS and not is_constant(value, not FORBIDDEN_OPTIONS[name]):
                    yield f"{node.lineno}: {name}: {ast.unparse(value)}"


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_unpickled_unpacked_or_run_that_comes_from_outside(path):
    assert list(faults(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load('x')",
        "from torch import load",
        "np.load('x')",
        "yaml.load(text)",
        "eval('1')",
        "archive.extractall('.')",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=asked)",
        "options = {'trust_remote_code': True}",
        "subprocess.run(x, shell=True)",
    ],
)
def test_the_scan_sees_what_it_is_for(line):
    assert len(list(faults(line))) == 1


def test_the_scan_lets_pass_what_is_safe():
    safe = "model.eval(); yaml.safe_load(x); load(x); f(trust_remote_code=False); {'trust_remote_code': False}"
    assert list(faults(safe)) == []


def test_who_may_reach_outside():
    found = set()
    for path in (ROOT / "narrowlib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in NETWORK_MODULES | {"subprocess"} for name in names):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == set(TALKERS)


def test_every_download_is_pinned_by_a_sha256_sum():
    archives = [source.archive for skill in SKILLS for split in SPLITS for source in pinned_sources(skill, split)]
    for archive in [*archives, digits.ARCHIVE, llm.DEFAULT_ARCHIVE]:
        assert re.fullmatch(r"[0-9a-f]{64}", archive.sha256), archive.name  # and by a version, which the file names
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
