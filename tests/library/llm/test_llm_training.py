"""Training of language models: what is held, what is added, what is recorded, and going on after a kill."""

import copy
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny_llamas import tiny_llama, token_ids
from train_tiny_llm import CONFIG, blocks_of, train
from trees import ROOT

from narrowlib.llm import trainer as llm_trainer
from narrowlib.llm.callbacks import TrainerCallback
from narrowlib.llm.distillation import Distillation
from narrowlib.llm.settings import PAPER_GROUP_LASSO, PAPER_RECOVERY
from narrowlib.llm.trainer import NarrowTrainer, checkpoints_in
from narrowlib.llm.training import recover, train_group_lasso
from narrowlib.llm.units import llama_units
from narrowlib.penalties import group_lasso
from narrowlib.pruning import ablated


def masks_of(groups):
    return {group.name: torch.arange(group.n_units) % 3 > 0 for group in groups}


def parameters_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def mean_loss(model, ids):
    logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def removed_weights(model, groups, masks):
    parameters = dict(model.named_parameters())
    return torch.cat(
        [parameters[s.parameter].movedim(s.axis, 0)[~masks[g.name]].flatten() for g in groups for s in g.slices]
    )


@pytest.mark.parametrize("kind", ["neurons", "residual"])
def test_pruned_stays_pruned_under_adam_and_weight_decay(kind):
    model = tiny_llama("llama, tied")
    groups = llama_units(model, kind)
    masks, before = masks_of(groups), parameters_of(model)
    frame = recover(model, blocks_of(), CONFIG, groups=groups, masks=masks, progress=False)
    assert not removed_weights(model, groups, masks).any()
    moved = [(p - before[name]).abs().max() for name, p in model.named_parameters()]
    assert min(moved) > 0 and not model.training and model.config.use_cache
    with ablated(tiny_llama("llama, tied"), groups, masks) as masked, torch.no_grad():  # kept weights start unchanged
        assert float(frame.loss[0]) < 1.5 * float(mean_loss(masked, token_ids(20, 12)))


def test_pruned_stays_pruned_under_momentum_from_before(tmp_path):
    """An optimiser that still remembers the removed weights moves them no further."""
    model = tiny_llama("llama, tied")
    groups = llama_units(model, "neurons")
    masks = masks_of(groups)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    mean_loss(model, token_ids()).backward()
    optimiser.step()
    arguments = llm_trainer.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True
    )
    NarrowTrainer(
        model, arguments, blocks_of(), groups=groups, masks=masks, optimizers=(optimiser, None), progress=False
    ).train()
    assert optimiser.state[model.model.layers[0].mlp.up_proj.weight]["momentum_buffer"][0].any()
    assert not removed_weights(model, groups, masks).any()


@pytest.mark.parametrize("kind", ["neurons", "residual"])
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_group_lasso_is_that_of_autograd(kind, clip):
    """One step of plain gradient descent, over accumulated and clipped gradients, against the explicit sum."""
    strength, rate = 0.03, 0.5
    config = CONFIG.replace(n_steps=1, max_grad_norm=clip, learning_rate=rate, n_warmup=0, weight_decay=0.0)
    ours, by_hand = tiny_llama("llama, tied"), tiny_llama("llama, tied")
    groups = llama_units(ours, kind)
    seen = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, *_, **__):
            seen.update({name: p.grad.clone() for name, p in ours.named_parameters()})

    with pytest.MonkeyPatch.context() as patch:
        start = NarrowTrainer.__init__
        patch.setattr(
            NarrowTrainer, "__init__", lambda self, *a, **k: (start(self, *a, **k), self.add_callback(Keep()))[0]
        )
        train_group_lasso(ours, blocks_of(8), config, groups=groups, strength=strength, progress=False)
    loss = mean_loss(by_hand, token_ids(8, 12)) + strength * group_lasso(groups, dict(by_hand.named_parameters()))
    loss.backward()
    if clip:
        assert torch.nn.utils.clip_grad_norm_(by_hand.parameters(), clip) > clip
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_strength_shrinks_norms():
    norms = []
    for strength in (0.0, 0.3):
        model = tiny_llama("llama, tied")
        groups = llama_units(model, "neurons")
        train_group_lasso(model, blocks_of(), CONFIG, groups=groups, strength=strength, progress=False)
        norms.append(float(group_lasso(groups, dict(model.named_parameters())).detach()))
    assert norms[1] < 0.98 * norms[0]


def test_records_are_true():
    """Held-out loss before the first step is the model's own; the training loss is that of the blocks."""
    model = tiny_llama("llama, tied")
    held_out = blocks_of(5, seed=1)
    config = CONFIG.replace(n_steps=3, batch_size=20, micro_batch_size=5, learning_rate=0.0)
    with torch.no_grad():
        at_first = float(mean_loss(model, token_ids(5, 12, seed=1)))
        on_all = float(mean_loss(model, token_ids(20, 12)))
    frame = recover(model, blocks_of(), config, held_out=held_out, progress=False)
    assert frame.step.tolist() == [0, 2, 2, 3, 3] and frame.tokens.tolist() == [240 * step for step in frame.step]
    assert frame.split.tolist() == ["held out", "train", "held out", "train", "held out"]
    expected = {"held out": at_first, "train": on_all}
    assert frame.loss.tolist() == pytest.approx([expected[split] for split in frame.split], rel=1e-5)


def test_order_of_blocks_is_the_seeds():
    order = list(llm_trainer._Order(7, 17, seed=3))
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7)) and order[:7] != order[7:14]
    assert order == list(llm_trainer._Order(7, 17, seed=3)) != list(llm_trainer._Order(7, 17, seed=4))


def test_bfloat16_trains_and_leaves_no_wrapper():
    model = tiny_llama("llama, tied")
    frame = recover(model, blocks_of(), CONFIG.replace(precision="bfloat16"), progress=False)
    assert frame.loss.iloc[-1] < frame.loss.iloc[0]
    assert model.model.embed_tokens.weight.dtype == torch.float32
    assert "forward" not in vars(model) and model(input_ids=token_ids()).logits.dtype == torch.float32
    full = tiny_llama("llama, tied")
    recover(full, blocks_of(), CONFIG, progress=False)
    differences = [(p - q).abs().max() for p, q in zip(model.parameters(), full.parameters())]
    assert 0 < max(differences) < 0.1


def test_every_training_of_one_model_is_in_bfloat16():
    """Nothing that the first leaves on the model makes the second, or that of a copy, one in float32."""
    model = tiny_llama("llama, tied")
    config, seen = CONFIG.replace(n_steps=1, precision="bfloat16"), []
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    for each in (model, model, copy.deepcopy(model)):
        recover(each, blocks_of(), config, progress=False)
    assert len(seen) >= 3 and set(seen) == {torch.bfloat16}


def test_distillation():
    """Its gradient is that of the formula; a teacher that is the student itself adds nothing."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 4, 7, generator=generator) for _ in range(2))
    soft = Distillation(temperature=3.0).soft_loss(student, teacher)
    p, q = ((each[:, :-1] / 3).softmax(-1) for each in (student, teacher))
    assert float(soft) == pytest.approx(float(9 * (q * (q / p).log()).sum(-1).mean()), rel=1e-5)
    model, teacher = tiny_llama("llama, tied"), tiny_llama("llama, untied", seed=1)
    config = CONFIG.replace(n_steps=12, learning_rate=1e-2, record_every=3)
    frame = recover(
        model, blocks_of(), config, teacher=teacher, distillation=Distillation(hard_weight=0.0),
        held_out=blocks_of(5, seed=1), progress=False,
    )  # fmt: skip
    train_losses = frame[frame.split == "train"].loss
    assert train_losses.iloc[-1] < 0.9 * train_losses.iloc[0]
    with torch.no_grad():  # on held-out blocks the loss is that of the model alone
        assert frame.loss.iloc[-1] == pytest.approx(float(mean_loss(model, token_ids(5, 12, seed=1))), rel=1e-5)


class Killed(RuntimeError):
    pass


class Kill(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Killed


def test_a_killed_run_goes_on_to_the_same_end(tmp_path, monkeypatch):
    config = CONFIG.replace(n_steps=7, checkpoint_every=2, batch_size=6, micro_batch_size=3)

    def run(model, seen=None, **changes):
        groups = llama_units(model, "neurons")
        return recover(
            model, blocks_of(), config.replace(**changes), groups=groups, masks=masks_of(groups),
            held_out=blocks_of(4, seed=1), checkpoint=seen, progress=False,
        )  # fmt: skip

    whole = tiny_llama("llama, tied")
    expected = run(whole)
    with monkeypatch.context() as patch:
        start = NarrowTrainer.__init__
        patch.setattr(
            NarrowTrainer, "__init__", lambda self, *a, **k: (start(self, *a, **k), self.add_callback(Kill(5)))[0]
        )
        with pytest.raises(Killed):
            run(tiny_llama("llama, tied"), tmp_path)
    (folder,) = tmp_path.iterdir()
    (checkpoint,) = checkpoints_in(folder)
    assert checkpoint.name == "checkpoint-4"
    assert {path.suffix for path in tmp_path.rglob("*.*") if path.is_file()} == {".safetensors", ".json"}  # no pickle
    (folder / "checkpoint-6").mkdir()  # half a checkpoint is none
    other = tiny_llama("llama, tied")
    assert run(other, tmp_path, seed=1).loss.iloc[-1] != expected.loss.iloc[-1]  # another run starts anew
    steps = []
    with monkeypatch.context() as patch:
        step = NarrowTrainer.training_step
        patch.setattr(NarrowTrainer, "training_step", lambda *a, **k: (steps.append(1), step(*a, **k))[1])
        resumed = tiny_llama("llama, tied")
        frame = run(resumed, tmp_path)
    assert len(steps) == 2 * 3  # of seven steps the last three, in two parts each
    pd.testing.assert_frame_equal(frame, expected, check_exact=False, rtol=1e-6)
    for name, parameter in resumed.named_parameters():
        torch.testing.assert_close(parameter, dict(whole.named_parameters())[name])
    assert not list(tmp_path.iterdir())  # done, and cleared away


@pytest.mark.parametrize("step", range(1, 7))
def test_a_run_may_be_killed_at_any_step(step, tmp_path, monkeypatch):
    config = CONFIG.replace(n_steps=7, checkpoint_every=3, precision="bfloat16")
    common = {"held_out": blocks_of(4, seed=1), "progress": False}
    expected = recover(tiny_llama("llama, tied"), blocks_of(), config, **common)
    start = NarrowTrainer.__init__
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed = Kill(step)
        patch.setattr(
            NarrowTrainer, "__init__", lambda self, *a, **k: (start(self, *a, **k), self.add_callback(killed))[0]
        )
        recover(tiny_llama("llama, tied"), blocks_of(), config, checkpoint=tmp_path, **common)
    resumed = recover(tiny_llama("llama, tied"), blocks_of(), config, checkpoint=tmp_path, **common)
    pd.testing.assert_frame_equal(resumed, expected, check_exact=False, rtol=1e-6)


def test_only_float32_is_trained():
    """Steps of the paper's size would be lost in the rounding of bfloat16 parameters."""
    model = tiny_llama("llama, tied", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"embed_tokens.weight of the model is torch.bfloat16; it must be float32"):
        recover(model, blocks_of(), CONFIG, progress=False)


def test_runs_that_differ_in_their_texts_keep_apart(tmp_path, monkeypatch):
    """A checkpoint is of its blocks, also in the middle, and of its held-out blocks."""
    other = blocks_of().to_dict()["input_ids"]
    other[10] = other[3]
    texts = [(blocks_of(), blocks_of(4, seed=1)), (blocks_of(), blocks_of(4, seed=2))]
    texts.append((Dataset.from_dict({"input_ids": other}), blocks_of(4, seed=1)))
    config, start = CONFIG.replace(checkpoint_every=1), NarrowTrainer.__init__
    for blocks, held_out in texts:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(
                NarrowTrainer, "__init__", lambda self, *a, **k: (start(self, *a, **k), self.add_callback(Kill(3)))[0]
            )
            options = {"held_out": held_out, "checkpoint": tmp_path, "progress": False}
            recover(tiny_llama("llama, tied"), blocks, config, **options)
    assert len(list(tmp_path.iterdir())) == len(texts)


@pytest.mark.parametrize(
    ("blocks", "held_out", "says"),
    [
        ([[1, 2]] * 8, [], "held_out is empty or has no column input_ids"),
        ([[1], [2]], None, "blocks holds blocks of 1 token"),
    ],
)
def test_texts_that_nothing_can_be_learned_from_are_refused(blocks, held_out, says):
    blocks, held_out = (None if ids is None else Dataset.from_dict({"input_ids": ids}) for ids in (blocks, held_out))
    with pytest.raises(ValueError, match=says):
        recover(tiny_llama("llama, tied"), blocks, CONFIG, held_out=held_out, progress=False)


def test_two_processes_are_one(tmp_path):
    script = ROOT / "tests" / "train_tiny_llm.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", script, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    for micro_batch_size in (4, 8):  # gradients summed up, and all at once
        frames, model = train(CONFIG.replace(micro_batch_size=micro_batch_size))
        for name, frame in frames.items():
            pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), frame, rtol=1e-4)
        for name, values in load_file(tmp_path / "model.safetensors").items():
            torch.testing.assert_close(values, dict(model.named_parameters())[name], rtol=1e-3, atol=2e-5)


def test_paper_settings():
    """Michaud, Parker-Sartori and Tegmark (2025): 65,536 tokens per step of 1,024-token blocks; group lasso 18 x 6."""
    recovery, lasso = PAPER_RECOVERY, PAPER_GROUP_LASSO
    assert (recovery.learning_rate, recovery.n_warmup, recovery.n_steps) == (5e-5, 1_000, 20_000)
    assert recovery.batch_size * 1_024 == 65_536 and recovery.precision == "bfloat16"
    assert (lasso.learning_rate, lasso.n_steps, lasso.batch_size) == (2e-6, 70_000, 18 * 6)


def test_bad_input_is_refused():
    model = tiny_llama("llama, tied")
    groups = llama_units(model, "neurons")
    with pytest.raises(ValueError, match=r"batch_size is 8; it must be a multiple of micro_batch_size, which is 3"):
        recover(model, blocks_of(), CONFIG.replace(micro_batch_size=3), progress=False)
    with pytest.raises(ValueError, match="masks are of"):
        recover(model, blocks_of(), CONFIG, masks=masks_of(groups), progress=False)
    with pytest.raises(ValueError, match="groups is empty"):
        train_group_lasso(model, blocks_of(), CONFIG, groups=(), strength=1.0)
    with pytest.raises(ValueError, match=r"strength is -1"):
        train_group_lasso(model, blocks_of(), CONFIG, groups=groups, strength=-1)
    with pytest.raises(ValueError, match="temperature is 0"):
        Distillation(temperature=0)
    with pytest.raises(ValueError, match="hard_weight is 2"):
        Distillation(hard_weight=2)
    with pytest.raises(ValueError, match="blocks is empty"):
        recover(model, [], CONFIG)
