"""Trains tiny models and writes what comes out, for comparison; run by a test in one process or under torchrun."""

import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_llamas import tiny_llama, token_ids
from torch.optim.optimizer import register_optimizer_step_post_hook

from narrowlib.llm.distillation import soft_targets
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.llm.training import recover, train_group_lasso
from narrowlib.llm.units import llama_units

CONFIG = LLMTrainingConfig(
    n_steps=4, learning_rate=1e-2, n_warmup=1, batch_size=8, micro_batch_size=4, weight_decay=0.1,
    precision="float32", record_every=2,
)  # fmt: skip


def blocks_of(n_blocks=20, seed=0):
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": token_ids(n_blocks, 12, seed=seed).tolist()})


def labelled(blocks, counts):
    """The blocks, of which the last so many tokens of each count."""
    rows = [[-100] * (len(ids) - n) + ids[len(ids) - n :] for ids, n in zip(blocks["input_ids"], counts, strict=True)]
    return blocks.add_column("labels", rows)


class Killed(RuntimeError):
    pass


@contextmanager
def killed_after(n_steps):
    """Ends a training after so many steps of the optimiser; yields a list with an entry per step."""
    steps = []

    def count(*_):
        steps.append(1)
        if len(steps) == n_steps:
            raise Killed

    hook = register_optimizer_step_post_hook(count)
    try:
        yield steps
    finally:
        hook.remove()


def distilled(config=CONFIG, checkpoint=None):
    model = tiny_llama("llama, tied", seed=2)
    taught = soft_targets(blocks_of(), tiny_llama("llama, untied", seed=1), n_kept=5, progress=False)
    options = {"held_out": blocks_of(5, seed=1), "checkpoint": checkpoint, "progress": False}
    return recover(model, taught, config, **options), model


def train(config=CONFIG):
    """Group lasso, recovery of what is left, distillation from kept targets: the frames by name, and the model."""
    model = tiny_llama("llama, tied")
    groups = llama_units(model, "neurons")
    common = {"held_out": blocks_of(5, seed=1), "progress": False}
    lasso = train_group_lasso(model, blocks_of(), config, groups=groups, strength=0.05, **common)
    masks = {group.name: torch.arange(group.n_units) % 2 == 0 for group in groups}
    recovery = recover(model, blocks_of(), config, groups=groups, masks=masks, keep_best=True, **common)
    return {"lasso": lasso, "recovery": recovery, "distilled": distilled(config)[0]}, model


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    frames, model = train()
    rank = torch.distributed.get_rank()
    config = CONFIG.replace(checkpoint_every=1)
    frame, whole = distilled(config)
    with suppress(Killed), killed_after(4):
        distilled(config, folder / "left")
    torch.distributed.barrier()
    assert len(list((folder / "left").iterdir())) == 1
    with killed_after(0) as steps:
        again, resumed = distilled(config, folder / "left")
    assert len(steps) == 1 and again.equals(frame) and all(map(torch.equal, whole.parameters(), resumed.parameters()))
    if rank == 1:
        for name, frame in frames.items():
            frame.to_parquet(folder / f"{name}.parquet")
        save_file({name: p.detach().clone() for name, p in model.named_parameters()}, folder / "model.safetensors")
    torch.distributed.destroy_process_group()
