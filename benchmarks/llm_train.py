"""Training of a language model: tokens per second, the share of the device's matrix products, and a stock Trainer."""

from __future__ import annotations

import math
import tempfile
import time
from functools import partial

import torch
from torch import nn

from benchmarks.harness import Row, measure_side_by_side, seconds_of
from benchmarks.language_model import default_model, random_blocks
from narrowlib.llm_costs import flops_per_token
from narrowlib.llm_training import ACCELERATE_LEAVES, LLMTrainingConfig, recover
from narrowlib.records import provenance
from narrowlib.torchvision_import import prepare_torchvision
from narrowlib.training import pick_device

SMALL = {  # on a CPU: the width of the default model, with fewer layers and words
    "vocab_size": 8_192,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
BLOCK_LENGTH = {"cpu": 128, "cuda": 1_024}
BATCH_SIZE, MICRO_BATCH_SIZE = {"cpu": 4, "cuda": 64}, {"cpu": 4, "cuda": 8}
N_STEPS = {"cpu": 3, "cuda": 10}
PRECISION = {"cpu": "float32", "cuda": "bfloat16"}
MATRIX = {"cpu": 1_024, "cuda": 8_192}
BACKWARD = 3  # operations of a step in those of its forward pass
REPEATS = 3


def llm_train() -> list[Row]:
    """Tokens per second of `recover` against a stock Trainer, and its share of the measured matrix products.

    The stock Trainer has the paper's settings: weights in float32, on a GPU bfloat16 autocast, no compilation, the loss
    of the model itself.
    """
    device = pick_device("auto")
    kind = device.type
    model = _model(device)
    blocks = _blocks(model, kind)
    ours, stock, ratio = measure_side_by_side(
        partial(_ours, model, blocks, kind), partial(_stock, model, blocks, kind), repeats=REPEATS
    )
    n_tokens = N_STEPS[kind] * BATCH_SIZE[kind] * BLOCK_LENGTH[kind]
    operations = BACKWARD * flops_per_token(model, BLOCK_LENGTH[kind]) * n_tokens
    rate = _matmul_rate(device, kind)
    name = f"{provenance(device)['device']}, {PRECISION[kind]}"
    return [
        Row("llm-train", n_tokens / ours, n_tokens / stock, "tokens/s", ratio, name, REPEATS),
        Row("llm-train-of-matmul", operations / ours, rate, "FLOP/s", operations / ours / rate, name, REPEATS),
    ]


def _model(device: torch.device) -> nn.Module:
    if device.type == "cuda":
        return default_model(device)
    prepare_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**SMALL))


def _blocks(model: nn.Module, kind: str):
    from datasets import Dataset

    ids = random_blocks(model, (N_STEPS[kind] * BATCH_SIZE[kind], BLOCK_LENGTH[kind]))
    return Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch")


def _ours(model: nn.Module, blocks, kind: str) -> None:
    config = LLMTrainingConfig(
        n_steps=N_STEPS[kind],
        n_warmup=0,
        learning_rate=1e-6,
        batch_size=BATCH_SIZE[kind],
        micro_batch_size=MICRO_BATCH_SIZE[kind],
        precision=PRECISION[kind],
        record_every=N_STEPS[kind],
    )
    recover(model, blocks, config, progress=False)


def _stock(model: nn.Module, blocks, kind: str) -> None:
    """The Trainer of transformers as it is, with the labels that make the model compute its own loss."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=N_STEPS[kind],
            learning_rate=1e-6,
            per_device_train_batch_size=MICRO_BATCH_SIZE[kind],
            gradient_accumulation_steps=BATCH_SIZE[kind] // MICRO_BATCH_SIZE[kind],
            bf16=PRECISION[kind] == "bfloat16",
            use_cpu=kind == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=blocks, data_collator=_with_labels)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    for leftover in ACCELERATE_LEAVES:
        vars(model).pop(leftover, None)


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
