"""Training of a language model: tokens per second, the share of the device's matrix products, and a stock Trainer."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.harness import Row, measure_side_by_side, seconds_of, size_of
from benchmarks.language_model import default_model, random_blocks
from narrowlib.devices import pick_device, prepare_torchvision
from narrowlib.llm.costs import flops_per_token
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.llm.training import recover
from narrowlib.store.provenance import provenance

SMALL = {  # on a CPU: the width of the default model, with fewer layers and words
    "vocab_size": 8_192,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
BLOCK_LENGTH = {"cpu": 128, "cuda": 1_024, "smoke": 16}
BATCH_SIZE, MICRO_BATCH_SIZE = {"cpu": 4, "cuda": 64, "smoke": 4}, {"cpu": 4, "cuda": 16, "smoke": 2}
N_WARMUP = {"cpu": 2, "cuda": 5, "smoke": 1}  # steps before the clock starts
N_STEPS = {"cpu": 6, "cuda": 20, "smoke": 2}  # and on it
PRECISION = {"cpu": "float32", "cuda": "bfloat16", "smoke": "bfloat16"}
MATRIX = {"cpu": 1_024, "cuda": 8_192, "smoke": 64}
BACKWARD = 3  # operations of a step in those of its forward pass
REPEATS = 3
# On a model that accelerate wrapped for bfloat16.  With the last one on it, the next training would not be wrapped.
ACCELERATE_LEAVES = ("forward", "_original_forward", "_is_accelerate_prepared")


def llm_train() -> list[Row]:
    """Tokens per second of `recover` against a stock Trainer, and its share of the measured matrix products.

    The stock Trainer has the paper's settings: weights in float32, on a GPU bfloat16 autocast, no compilation, the loss
    of the model itself.  The first steps, in which ours is compiled, are not counted.
    """
    device = pick_device("auto")
    kind = size_of(device)
    model = _model(device, kind)
    blocks = _blocks(model, kind)
    ours, stock, ratio = measure_side_by_side(
        partial(_ours, model, blocks, kind), partial(_stock, model, blocks, kind), repeats=REPEATS, seconds=_own_seconds
    )
    n_tokens = N_STEPS[kind] * BATCH_SIZE[kind] * BLOCK_LENGTH[kind]
    operations = BACKWARD * flops_per_token(model, BLOCK_LENGTH[kind]) * n_tokens
    rate = _matmul_rate(device, kind)
    name = f"{provenance(device)['device']}, {PRECISION[kind]}"
    return [
        Row("llm-train", n_tokens / ours, n_tokens / stock, "tokens/s", ratio, name, REPEATS),
        Row("llm-train-of-matmul", operations / ours, rate, "FLOP/s", operations / ours / rate, name, REPEATS),
    ]


def _model(device: torch.device, kind: str) -> nn.Module:
    if kind != "cpu":
        return default_model(device).model
    prepare_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**SMALL))


def _blocks(model: nn.Module, kind: str):
    from datasets import Dataset

    ids = random_blocks(model, (BATCH_SIZE[kind] * (N_WARMUP[kind] + N_STEPS[kind]), BLOCK_LENGTH[kind]))
    return Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch")


def _own_seconds(run: Callable[[], float]) -> float:
    return run()


def _ours(model: nn.Module, blocks, kind: str) -> float:
    config = LLMTrainingConfig(
        n_steps=N_WARMUP[kind] + N_STEPS[kind],
        n_warmup=0,
        learning_rate=1e-6,
        batch_size=BATCH_SIZE[kind],
        micro_batch_size=MICRO_BATCH_SIZE[kind],
        precision=PRECISION[kind],
        compiled=kind != "smoke",
        record_every=N_WARMUP[kind],
    )
    seconds = recover(model, blocks, config, tells_costs=True, progress=False)["seconds"]
    return seconds.iloc[-1] - seconds.iloc[0]


def _stock(model: nn.Module, blocks, kind: str) -> float:
    """The Trainer of transformers as it is, with the labels that make the model compute its own loss."""
    from accelerate.state import AcceleratorState
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    times = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **_) -> None:
            if state.global_step in (N_WARMUP[kind], args.max_steps):
                if model.device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=N_WARMUP[kind] + N_STEPS[kind],
            learning_rate=1e-6,
            per_device_train_batch_size=MICRO_BATCH_SIZE[kind],
            gradient_accumulation_steps=BATCH_SIZE[kind] // MICRO_BATCH_SIZE[kind],
            bf16=PRECISION[kind] == "bfloat16",
            use_cpu=model.device.type == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=blocks, data_collator=_with_labels)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Clock())
        trainer.train()
    AcceleratorState._reset_state()  # it is one for the process, and holds the precision
    for leftover in ACCELERATE_LEAVES:
        vars(model).pop(leftover, None)
    return times[1] - times[0]


def _with_labels(rows: list[dict]) -> dict[str, torch.Tensor]:
    ids = torch.stack([row["input_ids"] for row in rows])
    return {"input_ids": ids, "labels": ids}


def _matmul_rate(device: torch.device, kind: str) -> float:
    """Operations per second of a large matrix product in the precision of training: the best of several."""
    size = MATRIX[kind]
    dtype = torch.bfloat16 if PRECISION[kind] == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    if device.type == "cuda":
        torch.cuda.synchronize()
    best, until = math.inf, time.perf_counter() + 1.0
    while time.perf_counter() < until:
        best = min(best, seconds_of(torch.matmul, a, b))
    return 2 * size**3 / best
