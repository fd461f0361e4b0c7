"""Training of language models: what is held, what is added, what is recorded, and going on after a kill."""

import copy
import math
import os
import subprocess
import sys
from functools import cache

import pandas as pd
import pytest
import torch
import train_tiny_llm
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_llamas import tiny_llama, token_ids
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from train_tiny_llm import CONFIG, Killed, blocks_of, killed_after, labelled, train

from narrowlib.llm.distillation import Distillation, soft_targets
from narrowlib.llm.loop import order_of
from narrowlib.llm.settings import PAPER_GROUP_LASSO, PAPER_RECOVERY
from narrowlib.llm.training import recover, train_group_lasso
from narrowlib.llm.units import llama_units
from narrowlib.penalties import group_lasso
from narrowlib.pruning import ablated
from narrowlib.store.unfinished import DivergedError


def masks_of(groups):
    return {group.name: torch.arange(group.n_units) % 3 > 0 for group in groups}


def mean_loss(model, ids):
    logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def removed(tensors, groups, masks):
    return torch.cat(
        [tensors[s.parameter].movedim(s.axis, 0)[~masks[g.name]].flatten() for g in groups for s in g.slices]
    )


@pytest.mark.parametrize("kind", ["neurons", "residual"])
def test_pruned_stays_pruned(kind):
    """Under weight decay, and momentum that the optimiser has of the removed weights."""
    model = tiny_llama("llama, tied")
    groups, parameters = llama_units(model, kind), dict(model.named_parameters())
    masks, before = masks_of(groups), {name: p.detach().clone() for name, p in parameters.items()}
    hook = register_optimizer_step_post_hook(
        lambda optimiser, *_: [state["exp_avg"].add_(1e-8) for state in optimiser.state.values()]
    )
    frame = recover(model, blocks_of(), CONFIG, groups=groups, masks=masks, progress=False)
    hook.remove()
    assert not removed(parameters, groups, masks).any()
    moved = [(p - before[name]).abs().max() for name, p in parameters.items()]
    assert min(moved) > 0 and not model.training and model.config.use_cache
    with ablated(tiny_llama("llama, tied"), groups, masks) as masked, torch.no_grad():  # kept weights start unchanged
        assert float(frame.loss[0]) < 1.5 * float(mean_loss(masked, token_ids(20, 12)))


@pytest.mark.parametrize("kind", ["neurons", "residual"])
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_group_lasso_is_that_of_autograd(kind, clip):
    """The gradient that the optimiser gets, accumulated and clipped, against that of the explicit sum."""
    strength, seen = 0.03, {}
    config = CONFIG.replace(n_steps=1, max_grad_norm=clip)
    ours, by_hand = tiny_llama("llama, tied"), tiny_llama("llama, tied")
    groups = llama_units(ours, kind)
    hook = register_optimizer_step_pre_hook(
        lambda *_: seen.update({name: p.grad.clone() for name, p in ours.named_parameters()})
    )
    train_group_lasso(ours, blocks_of(8), config, groups=groups, strength=strength, progress=False)
    hook.remove()
    loss = mean_loss(by_hand, token_ids(8, 12)) + strength * group_lasso(groups, dict(by_hand.named_parameters()))
    loss.backward()
    if clip:
        assert torch.nn.utils.clip_grad_norm_(by_hand.parameters(), clip) > clip
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("taught", ["", "by a model", "by kept targets"])
def test_every_token_that_counts_weighs_the_same(taught):
    """However blocks share them, and none counts in some: gradient and losses against those of all tokens at once."""
    counts, seen = [3, 0, 0, 0, 0, 9, 1, 2], {}
    blocks, held_out = labelled(blocks_of(8), counts), labelled(blocks_of(5, seed=1), [4, 0, 0, 0, 2])
    config = CONFIG.replace(n_steps=1, micro_batch_size=2, max_grad_norm=0.0)
    ours, by_hand, teacher = tiny_llama("llama, tied"), tiny_llama("llama, tied"), tiny_llama("llama, untied", seed=1)
    hook = register_optimizer_step_pre_hook(
        lambda *_: seen.update({name: p.grad.clone() for name, p in ours.named_parameters()})
    )
    targets = soft_targets(blocks, teacher, n_kept=61, progress=False) if "kept" in taught else blocks
    how = {"teacher": teacher} if "model" in taught else {}
    frame = recover(ours, targets, config, held_out=held_out, progress=False, **how)
    hook.remove()

    def losses(text):
        ids, labels = (torch.tensor(text[name][:]) for name in ("input_ids", "labels"))
        is_counted = labels[:, 1:] != -100
        logits = by_hand(input_ids=ids).logits[:, :-1][is_counted]
        hard = torch.nn.functional.cross_entropy(logits, ids[:, 1:][is_counted])
        with torch.no_grad():
            wanted = (teacher(input_ids=ids).logits[:, :-1][is_counted] / 2).log_softmax(-1)
        soft = (wanted.exp() * (wanted - (logits / 2).log_softmax(-1))).sum(-1).mean()
        return hard, (hard + 4 * soft) / 2 if taught else hard

    at_first = float(losses(held_out)[0].detach())
    hard, loss = losses(blocks)
    loss.backward()
    told = frame.groupby("split")["loss"].first()
    assert told["train"] == pytest.approx(loss.item(), rel=1e-3) and told["held out"] == pytest.approx(at_first)
    assert not taught or told["train, hard"] == pytest.approx(hard.item(), rel=1e-4)
    close = {"rtol": 0.02, "atol": 2e-3} if "kept" in taught else {"rtol": 1e-3, "atol": 2e-5}  # kept in float16
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, **close)


def test_labels_of_all_tokens_change_no_bit_and_others_are_another_run(tmp_path):
    config, ends = CONFIG.replace(checkpoint_every=1), []
    for blocks in (blocks_of(), labelled(blocks_of(), [12] * 20)):
        model = tiny_llama("llama, tied")
        ends.append((recover(model, blocks, config, held_out=blocks, progress=False), list(model.parameters())))
    assert ends[0][0].equals(ends[1][0]) and all(map(torch.equal, ends[0][1], ends[1][1]))
    some = labelled(blocks_of(), [12, 0] * 10)
    with pytest.raises(Killed), killed_after(2):
        recover(tiny_llama("llama, tied"), some, config, checkpoint=tmp_path, progress=False)
    for blocks, n_steps in ((some, 3), (labelled(blocks_of(), [11, 0] * 10), 4)):
        with killed_after(math.inf) as steps:
            recover(tiny_llama("llama, tied"), blocks, config, checkpoint=tmp_path, progress=False)
        assert len(steps) == n_steps


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
    order = order_of(7, 17, seed=3).tolist()
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7)) and order[:7] != order[7:14]
    assert order == order_of(7, 17, seed=3).tolist() != order_of(7, 17, seed=4).tolist()


def test_learning_rates_by_hand():
    """Up over the warmup, then along a line or half a wave to 0 after the last step, or flat."""
    ends = {"linear": [1, 0.75, 0.5, 0.25], "cosine": [1, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5], "constant": [1] * 4}
    for schedule, falling in ends.items():
        rates = []
        hook = register_optimizer_step_pre_hook(lambda given, *_, to=rates: to.append(given.param_groups[0]["lr"]))
        config = CONFIG.replace(schedule=schedule, n_warmup=2, n_steps=6, learning_rate=0.01)
        recover(tiny_llama("llama, tied"), blocks_of(), config, progress=False)
        hook.remove()
        assert rates == pytest.approx([0.01 * each for each in (0, 0.5, *falling)])


def test_matrix_products_are_in_bfloat16_and_nothing_else():
    """In every training of a model and of its copy; nothing stays on the model."""
    model, full, seen = tiny_llama("llama, tied"), tiny_llama("llama, tied"), []
    config, names = CONFIG.replace(precision="bfloat16"), set(vars(model))
    recover(full, blocks_of(), CONFIG, progress=False)
    hook = model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *given: seen.append(given[-1].dtype))
    frame = recover(model, blocks_of(), config, progress=False)
    assert frame.loss.iloc[-1] < frame.loss.iloc[0]
    differences = [(p - q).abs().max() for p, q in zip(model.parameters(), full.parameters())]
    assert 0 < max(differences) < 0.1
    for each in (model, copy.deepcopy(model)):
        recover(each, blocks_of(), config.replace(n_steps=1), progress=False)
    assert len(seen) >= 6 * 2 and set(seen) == {torch.bfloat16}
    hook.remove()
    assert set(vars(model)) == names and {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(input_ids=token_ids()).logits.dtype == torch.float32


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


def test_the_best_parameters_are_put_back():
    model, held_out = tiny_llama("llama, tied"), blocks_of(4, seed=1)
    config = CONFIG.replace(n_steps=12, learning_rate=0.1, record_every=1)
    frame = recover(model, blocks_of(), config, held_out=held_out, keep_best=True, progress=False)
    losses = frame[frame.split == "held out"].loss
    assert losses.min() < losses.iloc[0] and losses.min() < losses.iloc[-1]
    with torch.no_grad():
        assert float(mean_loss(model, token_ids(4, 12, seed=1))) == pytest.approx(losses.min(), rel=1e-5)


KILLED = CONFIG.replace(n_steps=8, checkpoint_every=3, record_every=4, learning_rate=0.05)


@cache
def taught_blocks():
    return soft_targets(blocks_of(), tiny_llama("llama, untied", seed=1), n_kept=5, progress=False)


def masked_run(folder=None, changes=None, model=None, blocks=None, held_out=None):
    """A training with all that it has to go on with: masks, a teacher, the best parameters."""
    model = tiny_llama("llama, tied") if model is None else model
    blocks, held_out = blocks or taught_blocks(), held_out or blocks_of(4, seed=1)
    groups, how = llama_units(model, "neurons"), {"keep_best": True, "tells_costs": True, "progress": False}
    config = KILLED.replace(**(changes or {}))
    where = {"held_out": held_out, "checkpoint": folder}
    return model, recover(model, blocks, config, groups=groups, masks=masks_of(groups), **where, **how)


@cache
def unbroken_run(precision="float32"):
    return masked_run(changes={"precision": precision})


def left_off(folder, step=5, **changes):
    with pytest.raises(Killed), killed_after(step):
        masked_run(folder, **changes)


def assert_same(run, other):
    (model, frame), (other_model, other_frame) = run, other
    costs = ["seconds", "joules"]
    pd.testing.assert_frame_equal(frame.drop(columns=costs), other_frame.drop(columns=costs), check_exact=True)
    assert all(map(torch.equal, model.parameters(), other_model.parameters()))
    assert frame.query("split == 'train'")["seconds"].is_monotonic_increasing


@pytest.mark.parametrize(("step", "precision"), [*((n, "float32") for n in range(1, 9)), (5, "bfloat16")])
def test_a_run_killed_at_any_step_ends_at_the_same_bits(step, precision, tmp_path):
    expected = unbroken_run(precision)  # before steps are counted
    left_off(tmp_path, step, changes={"precision": precision})
    assert all(path.suffix == ".safetensors" for path in tmp_path.iterdir())  # no pickle
    with killed_after(math.inf) as steps:
        assert_same(masked_run(tmp_path, {"precision": precision}), expected)
    assert len(steps) == 8 - 3 * ((step - 1) // 3)
    assert not list(tmp_path.iterdir())


def rewritten(path, changed):
    """Other tensors under the header of the file."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(changed(load_file(path)), path, header)


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "other shapes": lambda path: rewritten(path, lambda all_: {name: torch.ones(9) for name in all_}),
}


@pytest.mark.parametrize(("damage", "is_best"), [*((damage, False) for damage in DAMAGES), ("cut short", True)])
def test_a_damaged_checkpoint_is_not_used(damage, is_best, tmp_path):
    expected = unbroken_run()
    left_off(tmp_path)
    (path,) = (path for path in tmp_path.iterdir() if ("best" in path.name) == is_best)
    DAMAGES[damage](path)
    with killed_after(math.inf) as steps:
        assert_same(masked_run(tmp_path), expected)
    assert len(steps) == 8


def test_another_run_starts_anew(tmp_path):
    """Of another seed, of other parameters, of blocks that differ in the middle, of other held-out blocks."""
    left_off(tmp_path)
    ids = blocks_of().to_dict()["input_ids"]
    ids[10] = ids[3]
    others = [{"changes": {"seed": 1}}, {"model": tiny_llama("llama, tied", seed=5)}]
    others += [{"blocks": Dataset.from_dict({"input_ids": ids})}, {"held_out": blocks_of(4, seed=2)}]
    for n_runs, other in enumerate(others, 2):
        with killed_after(5) as steps, pytest.raises(Killed):
            masked_run(tmp_path, **other)
        assert len(steps) == 5 and len(list(tmp_path.iterdir())) == 2 * n_runs


TORCHRUN = "torch.distributed.run --standalone --nproc-per-node=2"
ACCELERATE = "accelerate.commands.launch --multi_gpu --num_processes=2 --num_machines=1 --main_process_port=0"


@pytest.mark.parametrize("launcher", [TORCHRUN, f"{ACCELERATE} --mixed_precision=bf16 --dynamo_backend=no"])
def test_two_processes_are_one(launcher, tmp_path):
    """In losses and parameters, which the last process writes; it also goes on after a kill to the same bits."""
    command = [sys.executable, "-m", *launcher.split(), train_tiny_llm.__file__, tmp_path]
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


LOST_IN_ROUNDING = tiny_llama("llama, tied", dtype=torch.bfloat16)
REFUSED = [
    ({"config": CONFIG.replace(micro_batch_size=3)}, "batch_size is 8; it must be a multiple of micro_batch_size"),
    ({"model": LOST_IN_ROUNDING}, "embed_tokens.weight of the model is torch.bfloat16; it must be float32"),
    ({"masks": {"neurons": torch.ones(3)}}, "masks are of"),
    ({"keep_best": True}, "keep_best is True and held_out is missing"),
    ({"blocks": labelled(blocks_of(8), [0] * 8)}, "labels of blocks are all -100; at least one token must count"),
    ({"held_out": []}, "held_out is empty or has no column input_ids"),
    ({"blocks": []}, "blocks is empty"),
    ({"blocks": Dataset.from_dict({"input_ids": [[1], [2]]})}, "blocks holds blocks of 1 token"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_bad_input_is_refused(changes, message):
    given = {"model": tiny_llama("llama, tied"), "blocks": blocks_of(), "config": CONFIG, **changes}
    with pytest.raises(ValueError, match=message):
        recover(**given, progress=False)


@pytest.mark.parametrize(("held_out", "step"), [(None, CONFIG.record_every), (blocks_of(), 0)])
def test_a_loss_that_is_no_number_ends_the_training(held_out, step):
    model = tiny_llama("llama, tied")
    next(model.parameters()).detach().fill_(math.nan)
    with pytest.raises(DivergedError, match=f"the loss is not a finite number after {step} steps"):
        recover(model, blocks_of(), CONFIG, held_out=held_out, progress=False)


@pytest.mark.parametrize("kind", ["recovery", "group lasso"])
def test_a_last_step_that_ends_without_numbers_is_told(kind):
    model, config = tiny_llama("llama, tied"), CONFIG.replace(n_steps=1, n_warmup=0, learning_rate=1e39)
    how = {"groups": llama_units(model, "neurons"), "strength": 0.1} if kind == "group lasso" else {}
    train = train_group_lasso if how else recover
    with pytest.raises(DivergedError, match="the loss is not a finite number after 1 steps; training has diverged"):
        train(model, blocks_of(), config, progress=False, **how)
