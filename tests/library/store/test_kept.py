"""Run once and keep: whole results, keys by settings and code, time that a kill does not lose."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FunctionType

import pandas as pd
import pytest
import torch

from narrowlib.settings import Settings
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import make_generators
from narrowlib.store import kept, unfinished
from narrowlib.store.digests import closure_of, described, digest_of, module_of, sources
from narrowlib.store.kept import Kept
from narrowlib.store.unfinished import Checkpoint

ROOT = Path(kept.__file__).parents[2]
RESULTS = {
    "table": pd.DataFrame({"value": [1.5, float("nan")], "text": ["a", "b"]}),
    "tensors": {"weights.0": torch.arange(6.0).view(2, 3), "mask": torch.tensor([True, False])},
    "numbers": {"loss": 0.25, "steps": [1, 2], "name": None},
    "mixed": {
        "runs": pd.DataFrame({"n": [3]}),
        "networks": {4: {"w": torch.ones(2)}, 8: {"w": torch.zeros(1)}},
        "n": 7,
    },
    "nothing": {},
    "networks": dict(MLPStack((3, 2, 2), make_generators((0, 1), "cpu")).state_dict()),
    "tied": dict.fromkeys("ab", torch.ones(3)),
}


def assert_same(first, second):
    assert type(first) is type(second)
    if isinstance(first, pd.DataFrame):
        pd.testing.assert_frame_equal(first, second)
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for name in first:
            assert_same(first[name], second[name])
    else:
        assert first == second


class KilledError(BaseException):
    pass


class Computed:
    """A function that returns a value and counts its calls."""

    def __init__(self, value):
        self.value, self.n_calls = value, 0

    def __call__(self):
        self.n_calls += 1
        return self.value


def results_in(folder):
    return sorted(path.parent for path in folder.rglob("kept.json"))


@pytest.mark.parametrize("kind", RESULTS)
def test_a_result_is_computed_once_and_comes_back_as_it_was(tmp_path, kind):
    compute = Computed(RESULTS[kind])
    for _ in range(2):
        assert_same(Kept(tmp_path, {"seed": 1}).keep("result", compute), RESULTS[kind])
    assert compute.n_calls == 1
    (path,) = results_in(tmp_path)
    about = json.loads((path / "kept.json").read_text())
    assert about["settings"] == {"seed": 1} and about["name"] == "result" and about["seconds"] >= 0
    assert not list(tmp_path.rglob("*.unfinished")) and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("folder", [None, ""])
def test_without_a_folder_nothing_is_kept(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store, compute = Kept(folder, {}), Computed(1)
    assert [store.keep("result", compute) for _ in range(2)] == [1, 1] and compute.n_calls == 2
    path, numbers = store.folder_of("cut", leave_files)
    assert (path / "deep" / "file").read_text() == "content" and numbers["n"] == 2
    checkpoint = store.checkpoint("training")
    assert checkpoint.resume() is None and not checkpoint.is_due()
    checkpoint.save({})
    assert not list(tmp_path.iterdir())


def leave_files(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text("content")
    return {"n": 2}


@pytest.mark.parametrize("change", [{"settings": {"seed": 2}}, {"device": "meta"}, {"name": "other"}, {"inputs": 1}])
def test_other_settings_devices_names_and_inputs_are_other_results(tmp_path, change):
    asked = {"settings": {"seed": 1}, "device": "cpu", "name": "result", "inputs": torch.zeros(2)}
    compute = Computed(1)
    for each in (asked, asked | change, asked):
        each = dict(each)
        name, inputs = each.pop("name"), each.pop("inputs")
        Kept(tmp_path, **each).keep(name, compute, inputs=inputs)
    # results of other inputs, as of other code, take each other's place; all others lie side by side
    assert compute.n_calls == (3 if "inputs" in change else 2)
    assert len(results_in(tmp_path)) == (1 if "inputs" in change else 2)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "empty", "missing", "no description", "other description"])
def test_a_damaged_result_is_made_again(tmp_path, harm):
    for name in ("table", "tensors", "mixed"):
        compute = Computed(value := RESULTS[name])
        Kept(tmp_path / name, {}).keep("result", compute)
        (path,) = results_in(tmp_path / name)
        file = path / "kept.json" if "description" in harm else next(path.glob("result*"))
        content = file.read_bytes()
        flipped = content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
        harmed = {"truncated": content[:-3], "flipped": flipped, "other description": b'["files"]'}.get(harm, b"")
        file.unlink() if harm == "missing" else file.write_bytes(harmed)
        for _ in range(2):
            assert_same(Kept(tmp_path / name, {}).keep("result", compute), value)
        assert compute.n_calls == 2


def test_stray_files_are_ignored(tmp_path):
    compute = Computed(RESULTS["table"])
    Kept(tmp_path, {}).keep("result", compute)
    for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        (folder / ".ipynb_checkpoints").mkdir()
        (folder / ".ipynb_checkpoints" / "a-checkpoint.json").write_text("{}")
        (folder / ".DS_Store").write_bytes(b"\0")
        (folder / "notes-of-mine.txt").write_text("")

    def work(folder):
        (folder / ".hidden").write_text("")
        return {"n": 1}

    assert Kept(tmp_path, {}).folder_of("cut", work)[1]["n"] == 1
    assert_same(Kept(tmp_path, {}).keep("result", compute), RESULTS["table"])
    assert compute.n_calls == 1
    (path,) = (path for path in results_in(tmp_path) if "cut" in path.parts)
    assert json.loads((path / "kept.json").read_text())["files"] == {}


def test_what_cannot_be_kept_is_an_error_that_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        Kept(tmp_path, {}).keep("result", lambda: object())
    with pytest.raises(TypeError, match="a setting is <object object at"):
        Kept(tmp_path, {"what": object()}).keep("result", lambda: 1)
    with pytest.raises(TypeError, match="compute is <built-in function len>; it must be a function"):
        Kept(tmp_path, {}).keep("result", len)
    with pytest.raises(RuntimeError, match="the checkpoint 'training' is asked for while no result is being computed"):
        Kept(tmp_path, {}).checkpoint("training")
    assert not results_in(tmp_path)


TREE = {
    "__init__.py": "from PACKAGE import figures, experiment",
    "experiment.py": "from PACKAGE import units\nfrom PACKAGE.stacks import engine\ndef compute():\n    return 1",
    "figures.py": "from PACKAGE import experiment, style",
    "style.py": "",
    "units.py": "import json",
    "words.yaml": "a: 1",
    "others.yaml": "a: 1",
    "stacks/__init__.py": "from PACKAGE.stacks import unused",
    "stacks/engine.py": "def run():\n    from . import steps",
    "stacks/steps.py": 'WORDS = "words.txt"',
    "stacks/words.txt": "hello",
    "stacks/other.txt": "hello",
    "stacks/unused.py": "",
    "stacks/typing.py": "",
}
INSIDE = ["experiment.py", "units.py", "stacks/engine.py", "stacks/steps.py", "stacks/words.txt"]


@pytest.fixture
def tree(tmp_path):
    """A package of its own for every test: its name and the folder it lies in."""
    name = f"tree{abs(hash(str(tmp_path))) % 10**12}"
    for file, source in TREE.items():
        path = tmp_path / "src" / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.replace("PACKAGE", name))
    return name, tmp_path / "src"


def imported(tree, monkeypatch):
    name, folder = tree
    monkeypatch.syspath_prepend(str(folder))
    __import__(f"{name}.experiment")
    return sys.modules[f"{name}.experiment"]


def run(compute, folder, *, dies=False):
    """What the training of a new process that runs `compute` went on from; empty when the result was there."""
    sources.cache_clear()
    store, found = Kept(folder, {"seed": 1}), []

    def work(_):
        checkpoint = store.checkpoint("training")
        found.append(checkpoint.resume("run"))
        checkpoint.save({}, compute())
        if dies:
            raise KilledError
        return {}

    work.__module__ = compute.__module__
    with suppress(KilledError):
        store.folder_of("result", work)
    return [each and each[1] for each in found]


def edit(tree, file):
    path = tree[1] / tree[0] / file
    path.write_text(path.read_text() + "\n# edited")


@pytest.mark.parametrize("file", TREE)
def test_an_edit_in_the_closure_is_another_digest_and_one_outside_is_not(tree, monkeypatch, file):
    compute = imported(tree, monkeypatch).compute
    before = digest_of(closure_of(compute))
    edit(tree, file)
    for same in (compute, partial(compute, 1), partial(partial(compute))):
        assert digest_of(closure_of(same)) == before  # this process runs the code as it was
    sources.cache_clear()
    assert (digest_of(closure_of(compute)) != before) == (file in INSIDE)


def test_a_killed_run_goes_on_across_an_edit_outside_its_code_only(tree, tmp_path, monkeypatch):
    compute, folder = imported(tree, monkeypatch).compute, tmp_path / "kept"
    assert run(compute, folder, dies=True) == [None]
    edit(tree, "figures.py")
    assert run(compute, folder) == [1]  # from its checkpoint
    edit(tree, "stacks/unused.py")
    assert run(compute, folder) == []  # finished
    for file in INSIDE:
        edit(tree, file)
        assert run(compute, folder, dies=True) == [None]  # anew
        assert run(compute, folder) == [1]
        (path,) = results_in(folder)  # and what other code left is gone
        assert [other for other in path.parent.iterdir() if other.is_dir()] == [path]


def test_old_results_of_other_code_are_removed_with_any_settings(tmp_path):
    """The same settings at once, others after a week; results of the same code stay."""
    for seed in (1, 2, 3):
        Kept(tmp_path, seed).keep("result", Computed(seed), inputs="old")
    long_ago = time.time() - kept.SECONDS_STALE - 1
    first, second, third = (next(path for path in results_in(tmp_path) if about(path) == seed) for seed in (1, 2, 3))
    os.utime(second, (long_ago, long_ago))
    Kept(tmp_path, 4).keep("result", Computed(4), inputs="new")
    Kept(tmp_path, 1).keep("result", Computed(1), inputs="new")
    assert not first.exists() and not second.exists() and third.exists() and len(results_in(tmp_path)) == 3


def about(path):
    return json.loads((path / "kept.json").read_text())["settings"]


def test_code_outside_packages_is_its_module_and_what_it_names_of_the_library():
    (mine,) = closure_of(lambda: 1)
    assert mine == __name__
    assert {mine, "narrowlib.stacks.networks", "narrowlib.units"} <= set(closure_of(lambda: MLPStack))
    one = FunctionType((lambda: 1).__code__, {"__name__": "no_file"})
    two = FunctionType((lambda: 2).__code__, {"__name__": "no_file"})
    assert closure_of(one) != closure_of(two) and list(closure_of(one)) == ["no_file"]  # as in a notebook
    assert module_of(Computed(1)) == module_of(Computed(1).__call__) == __name__


@dataclass(frozen=True)
class Config:
    seed: int = 0
    rate: float = 0.1


class Page(Settings):
    seed: int = 0
    rate: float = 0.1


def test_values_are_told_apart_by_content():
    weights = torch.arange(6.0)
    mask = torch.zeros(5000, dtype=torch.bool)
    other = mask.clone()
    other[4321] = True
    generator = torch.Generator()
    generator.manual_seed(3)
    values = [
        {"a": weights}, {"a": weights + 1}, {"b": weights}, {"a": weights.view(3, 2)}, {"a": weights.double()},
        mask, other, Config(), Config(1), Config(rate=0.2), 1, 1.0, True, "1", None, [1, [2]], [1, 2],
        pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]}), pd.DataFrame({"b": [1]}), torch.float32, Config,
        torch.Generator(), generator, MLPStack((2, 2), make_generators([0], "cpu")), Path("a"),
        MLPStack((2, 2), make_generators([1], "cpu")), partial(edit, 1), partial(edit, 2), edit, about,
    ]  # fmt: skip
    assert len({digest_of(value) for value in values}) == len(values)
    assert digest_of({"a": weights.clone(), "b": 1}) == digest_of({"b": 1, "a": weights})
    assert digest_of(Config()) == digest_of(Page()) == digest_of({"rate": 0.1, "seed": 0}) and digest_of(
        (1, 2)
    ) == digest_of([1, 2])
    json.dumps([described(value) for value in values])


def training(store, n_steps=3):
    """Steps whose sum depends on where they went on from, and how many were done in this call."""
    checkpoint = store.checkpoint("training")
    total, step, n_done = torch.zeros(1), 0, 0
    if (found := checkpoint.resume("training", n_steps)) is not None:
        total, step = found[0]["total"], found[1]["step"]
    while step < n_steps:
        total, step, n_done = total * 1.1 + 1, step + 1, n_done + 1
        if checkpoint.is_due():
            checkpoint.save({"total": total}, {"step": step})
    checkpoint.remove()
    return total, n_done


def whole_run(folder):
    """Two results, one of them with a training and a result inside; what came out."""
    store = Kept(folder, {"seed": 1})

    def work(path):
        total, _ = training(store)
        (path / "total").write_text(str(total.item()))
        return {"total": total.item(), "inner": store.keep("inner", lambda: {"mean": 2.5})}

    path, numbers = store.folder_of("outer", work)
    table = store.keep("table", lambda: pd.DataFrame({"total": [numbers["total"]]}))
    return numbers["total"], numbers["inner"], (path / "total").read_text(), table["total"].tolist()


FAULTS = [(os, "fsync"), (Path, "replace"), (Path, "mkdir"), (Path, "write_text"), (Path, "read_text")]
FAULTS += [(Path, "unlink"), (shutil, "rmtree"), (unfinished, "save_file"), (pd.DataFrame, "to_parquet")]


@pytest.mark.parametrize(("owner", "operation"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize(("when", "error"), [("before", OSError), ("after", KilledError)])
def test_a_fault_at_any_file_operation_loses_nothing_and_leaves_no_half(
    tmp_path, monkeypatch, owner, operation, error, when
):
    monkeypatch.setattr(unfinished, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a disk that is slow
    whole = whole_run(tmp_path / "whole")
    do, calls = getattr(owner, operation), []

    def faulty(*arguments, **named):
        calls.append(1)
        if len(calls) == n and when == "before":
            raise error("fault")
        done = do(*arguments, **named)
        if len(calls) == n:
            raise error("fault")
        return done

    for n in range(1, 100):
        folder = tmp_path / f"{n}"
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(owner, operation, faulty)
            with suppress(error):
                assert whole_run(folder) == whole
            n_calls = len(calls)
        for path in results_in(folder):
            assert kept._about(path) is not None, "half a result has its name"
        assert whole_run(folder) == whole
        assert whole_run(folder) == whole
        assert len(results_in(folder)) == 3 and not list(folder.rglob("*.unfinished"))
        if n_calls < n:
            break
    assert 1 < n < 99


@pytest.mark.parametrize("harm", ["truncated", "empty", "text", "another run", "another shape", "another device"])
def test_a_useless_checkpoint_is_ignored(tmp_path, harm):
    path, run = tmp_path / "training.safetensors", ({"rate": 0.1}, torch.zeros(2, 3), "cpu")
    checkpoint = Checkpoint(path)
    assert checkpoint.resume(*run) is None
    checkpoint.save({"w": torch.ones(2)}, [1])
    assert_same(Checkpoint(path).resume(*run)[0], {"w": torch.ones(2)})
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-1], "empty": b"", "text": b"hello" * 99}.get(harm, content))
    others = {"another run": ({"rate": 0.2}, *run[1:]), "another shape": (run[0], torch.zeros(3, 2), "cpu")}
    others["another device"] = (*run[:2], "cuda")
    assert Checkpoint(path).resume(*others.get(harm, run)) is None
    checkpoint.remove()
    assert not list(tmp_path.iterdir()) and checkpoint.resume(*run) is None


def test_what_takes_long_to_save_is_saved_less_often(tmp_path, monkeypatch):
    checkpoint, now = Checkpoint(tmp_path / "run"), [1000.0]
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: now[0])
    for took, due in ((0.0, 60.0), (3.0, 60.0), (30.0, 600.0)):
        checkpoint._saved_at, checkpoint._took = now[0], took
        now[0] += due - 1
        assert not checkpoint.is_due()
        now[0] += 1
        assert checkpoint.is_due()


def test_time_counts_all_calls(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: now[0])

    def run(seconds, error=None, name="outer"):
        def compute():
            now[0] += seconds
            inner = Kept(tmp_path, {}).keep("inner", partial(spend, 2, error is KilledError))
            if error:
                raise error
            return inner

        def spend(seconds, is_killed):
            now[0] += seconds
            if is_killed:
                raise KilledError
            return {}

        store = Kept(tmp_path, {})
        store.keep(name, compute)
        return store.seconds

    for error in (KilledError, ValueError):
        with pytest.raises(error):
            run(5, error)
    assert run(7) == 5 + 2 + 5 + 2 + 7  # the inner result was killed once, and made once
    assert run(100) == 21  # and what was kept tells the time that it took
    assert run(3, name="another") == 3 + 4  # of a result that another call had made as well


SLOW = """
import sys, time
import torch
from narrowlib.store.kept import Kept
def compute():
    print("computed", flush=True)
    time.sleep(1)
    return {"values": torch.rand(9)}
print(Kept(sys.argv[1], {}).keep("result", compute)["values"].sum().item())
"""


def test_two_processes_that_want_the_same_result_make_it_once(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    command, environment = [sys.executable, tmp_path / "slow.py", tmp_path / "kept"], {"PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert sorted(text.count("computed") for text in said) == [0, 1]
    assert len({text.split()[-1] for text in said}) == 1


SEVERAL = """
import sys
import pandas as pd
import torch
from narrowlib.store.kept import Kept
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
def work(folder):
    (folder / "rank").write_text(str(rank))
    return {"rank": rank}
for _ in range(2):
    store = Kept(sys.argv[1], {})
    table = store.keep("table", lambda: pd.DataFrame({"rank": [rank + 5]}))
    path, numbers = store.folder_of("cut", work)
    print(f"got {table['rank'].item()} {numbers['rank']} {(path / 'rank').read_text()}\\n", end="", flush=True)
torch.distributed.destroy_process_group()
"""


def test_of_several_processes_the_first_writes_and_all_get_the_same(tmp_path):
    (tmp_path / "several.py").write_text(SEVERAL)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += [str(tmp_path / "several.py"), str(tmp_path / "kept")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("got 5 0 0") == 4


def test_results_of_other_code_are_told_from_those_of_this(tmp_path, monkeypatch):
    def keep(name):
        return Kept(tmp_path, {}).keep(name, lambda: {"loss": 1.0})

    keep("kept")
    assert kept.outdated_results(tmp_path) == []
    monkeypatch.setattr(torch, "__version__", "0.1")
    keep("another torch")
    monkeypatch.undo()
    outdated = kept.outdated_results(tmp_path)
    assert [path.parent.name for path in outdated] == ["another-torch"]
    about = next(tmp_path.glob("*/kept/*/kept.json"))
    described, name = json.loads(about.read_text()), "narrowlib.cmsp"
    about.write_text(json.dumps({**described, "modules": {name: sources("narrowlib")[1][name]}}))
    assert len(kept.outdated_results(tmp_path)) == 1
    about.write_text(json.dumps({**described, "modules": {name: "0" * 64}}))
    assert len(kept.outdated_results(tmp_path)) == 2
