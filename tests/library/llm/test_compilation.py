"""Compiled training: the same as without, gone afterwards, and refused in a sentence where it cannot be."""

import sysconfig
import time

import pandas as pd
import pytest
import torch
from tiny_llamas import tiny_llama
from train_tiny_llm import CONFIG, blocks_of

from narrowlib.llm.compilation import check_compiler, compiled_layers
from narrowlib.llm.distillation import soft_targets
from narrowlib.llm.training import recover
from narrowlib.llm.units import llama_units


def lacking() -> str | None:
    """What compiled code takes and this machine does not have."""
    try:
        check_compiler(torch.device("cpu"))
    except ValueError as error:
        return str(error)
    return None


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Compiled code in a folder of its own: the usual one is shared with every process of the machine."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


needs_compiler = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))


@needs_compiler
@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_compiled_training_is_training(precision, near):
    """With masks, a teacher and held-out blocks; all layers share one compilation each for training and evaluation."""
    torch.compiler.reset()
    taught = soft_targets(blocks_of(), tiny_llama("llama, untied", seed=1), n_kept=5, progress=False)
    counts, seen, frames, models, elapsed = torch._dynamo.utils.counters["stats"], [], [], [], []
    for compiled in (False, True, True):
        model = tiny_llama("llama, tied")
        groups = llama_units(model, "neurons")
        masks = {group.name: torch.arange(group.n_units) % 3 > 0 for group in groups}
        options = {"groups": groups, "masks": masks, "held_out": blocks_of(4, seed=1), "progress": False}
        config = CONFIG.replace(compiled=compiled, precision=precision)
        started = time.perf_counter()
        frames.append(recover(model, taught, config, tells_costs=True, **options))
        elapsed.append(time.perf_counter() - started)
        models.append(model)
        seen.append(counts["unique_graphs"])
    assert frames[1]["seconds"].max() < elapsed[1] / 2  # compilation is not counted
    plain, first, second = (frame.drop(columns=["seconds", "joules"]) for frame in frames)
    pd.testing.assert_frame_equal(plain, first, rtol=near)
    pd.testing.assert_frame_equal(first, second)
    for plain, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-3, atol=5 * near)
    before, after, again = seen
    assert after - before == 5  # layer and loss, for training and evaluation, and the loss of the teacher
    assert again == after  # another model of these shapes
    assert all(layer._compiled_call_impl is None for layer in models[1].model.layers)


@needs_compiler
def test_layers_are_as_they_were_after_an_error():
    model = tiny_llama("llama, tied")
    with pytest.raises(KeyError), compiled_layers(model):
        assert all(layer._compiled_call_impl is not None for layer in model.model.layers)
        raise KeyError
    assert all(layer._compiled_call_impl is None for layer in model.model.layers)


def test_without_a_compiler_nothing_begins(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    model, before = tiny_llama("llama, tied"), tiny_llama("llama, tied")
    with pytest.raises(ValueError, match=r"takes a compiler \(g\+\+, clang\+\+ or what CXX names\), and there is none"):
        recover(model, blocks_of(), CONFIG.replace(compiled=True), progress=False)
    assert all(map(torch.equal, model.parameters(), before.parameters()))
    monkeypatch.setenv("CXX", "nowhere -O2")
    with pytest.raises(ValueError, match="CXX is 'nowhere -O2', which is not there"):
        check_compiler(torch.device("cpu"))


def test_a_gpu_takes_triton_and_headers(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(ValueError, match=r"headers of Python \(Python\.h; .*, and they are not there"):
        check_compiler(torch.device("cuda"))
    (tmp_path / "Python.h").touch()
    with pytest.raises(ValueError, match="package triton"):
        check_compiler(torch.device("cuda"))
