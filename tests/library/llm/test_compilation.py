"""Compiled training: the same as without, gone afterwards, and refused in a sentence where it cannot be."""

import sysconfig
import time

import pandas as pd
import pytest
import torch
from tiny_llamas import tiny_llama, token_ids
from train_tiny_llm import CONFIG, blocks_of, labelled

from narrowlib.llm.compilation import check_compiler, compiled_layers, is_removed, written_attention
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
def own_cache(tmp_path_factory, monkeypatch):
    """Compiled code in a folder of these tests: the usual one is shared with every process of the machine."""
    folder = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))


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
def test_code_serves_again_after_a_model_of_other_shapes():
    counts, seen = torch._dynamo.utils.counters["stats"], []
    for intermediate_size in (24, 16, 24):
        model = tiny_llama(intermediate_size=intermediate_size)
        with torch.no_grad(), compiled_layers(model):
            model(token_ids())
        seen.append(counts["unique_graphs"])
    assert seen[0] < seen[1] == seen[2]


class LowRank(torch.nn.Module):
    """A frozen linear layer and a low-rank change of it, as adapters are trained."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down, self.up = torch.nn.Linear(base.in_features, 2), torch.nn.Linear(2, base.out_features)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def adapted(is_low_rank):
    model = tiny_llama("llama, tied").requires_grad_(not is_low_rank)
    torch.manual_seed(0)
    for layer in model.model.layers if is_low_rank else ():
        layer.self_attn.q_proj = LowRank(layer.self_attn.q_proj)
    return model


@pytest.mark.parametrize(
    ("changes", "is_low_rank"),
    [
        ({"micro_batch_size": 1}, False),
        ({"micro_batch_size": 1}, True),
        pytest.param({"compiled": True}, False, marks=needs_compiler),
    ],
)
def test_tokens_that_count_weigh_the_same_however_a_step_is_computed(changes, is_low_rank):
    """Accumulated from single blocks, some without a token that counts, or compiled: as in one plain pass."""
    blocks, held_out = labelled(blocks_of(), [3, 0, 9, 1] * 5), labelled(blocks_of(5, seed=1), [4, 0, 0, 11, 2])
    targets = soft_targets(blocks, tiny_llama("llama, untied", seed=1), n_kept=5, progress=False)
    config, ends = CONFIG.replace(micro_batch_size=8), []
    for each in (config, config.replace(**{"micro_batch_size": 2, **changes})):
        model = adapted(is_low_rank)
        ends.append((recover(model, targets, each, held_out=held_out, progress=False), dict(model.named_parameters())))
    pd.testing.assert_frame_equal(ends[0][0], ends[1][0], rtol=1e-4)
    before = dict(adapted(is_low_rank).named_parameters())
    for (name, plain), other in zip(ends[0][1].items(), ends[1][1].values(), strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-3, atol=1e-4)
        assert torch.equal(plain, before[name]) != plain.requires_grad


ATTENTION = [(8, "bfloat16", "eager"), (8, "float32", "sdpa"), (1024, "bfloat16", "sdpa")]


@pytest.mark.parametrize(("length", "precision", "how"), ATTENTION)
def test_attention_is_written_out_where_that_is_faster(length, precision, how):
    model = tiny_llama("llama, tied")
    with pytest.raises(KeyError), written_attention(model, length, precision):
        assert model.config._attn_implementation == how
        raise KeyError
    assert model.config._attn_implementation == "sdpa"


def test_what_a_killed_compilation_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    left, other = tmp_path / "cache" / "ab" / "c.so", tmp_path / "c.so"
    for path in (left, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert not is_removed(ValueError(f"{left} is what went wrong")) and left.exists()
    assert not is_removed(ImportError(f"{other}: file too short")) and other.exists()
    assert is_removed(ImportError(f"{left}: file too short")) and not left.exists()


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
    with pytest.raises(ValueError, match=r"needs a compiler \(g\+\+, clang\+\+ or what CXX names\), but none was"):
        recover(model, blocks_of(), CONFIG.replace(compiled=True), progress=False)
    assert all(map(torch.equal, model.parameters(), before.parameters()))
    monkeypatch.setenv("CXX", "nowhere -O2")
    with pytest.raises(ValueError, match="CXX is 'nowhere -O2', which does not exist"):
        check_compiler(torch.device("cpu"))


def test_a_gpu_takes_triton_and_headers(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(ValueError, match=r"headers of Python \(Python\.h, .*, but none were found"):
        check_compiler(torch.device("cuda"))
    (tmp_path / "Python.h").touch()
    with pytest.raises(ValueError, match="package triton"):
        check_compiler(torch.device("cuda"))
