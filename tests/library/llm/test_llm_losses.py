"""Losses of language models against cross-entropy computed the plain way."""

import math

import pandas as pd
import pytest
import torch
from tiny_llamas import tiny_llama, tiny_tokens
from torch.nn import functional as F

from narrowlib.llm.losses import block_losses, loss_per_skill, mean_loss, next_token_loss, token_losses


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def plain_losses(model, ids):
    logits = model(ids).logits[:, :-1].float()
    return F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").detach()


@pytest.mark.parametrize("family", ["llama, tied", "llama, untied", "mistral", "qwen2", "gemma2", "granite"])
def test_losses_are_the_cross_entropy_of_the_logits(family):
    model = tiny_llama(family)
    ids = tiny_tokens(model, 3, 20)
    torch.testing.assert_close(token_losses(model, ids), plain_losses(model, ids), rtol=1e-5, atol=1e-5)


def test_logits_of_all_tokens_are_never_there(model):
    sizes, expected = [], token_losses(model, tiny_tokens(model, 3, 20))
    handle = model.lm_head.register_forward_hook(lambda module, inputs, logits: sizes.append(logits.shape[0]))
    try:
        losses = token_losses(model, tiny_tokens(model, 3, 20), rows_at_once=10)
    finally:
        handle.remove()
    assert sum(sizes) == 3 * 19 and max(sizes) == 10
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)


def test_the_softmax_of_a_bf16_model_is_float32():
    model = tiny_llama().to(torch.bfloat16)
    ids = tiny_tokens(model, 2, 20)
    losses = token_losses(model, ids)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, plain_losses(model, ids), rtol=1e-3, atol=1e-3)
    rounded = F.cross_entropy(model(ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").float()
    assert (losses - rounded).abs().max() > 3e-3


def test_per_skill(model):
    from datasets import Dataset

    ids = tiny_tokens(model, 5, 12)
    blocks = {"python": Dataset.from_dict({"input_ids": ids.tolist()}), "english": ids[:1]}
    table = loss_per_skill(model, blocks, batch_size=2, progress=False).set_index("skill")
    expected = plain_losses(model, ids).mean(1).double()  # (blocks,)
    assert list(table.index) == ["python", "english"]
    python = table.loc["python"]
    assert python["loss"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert python["standard_error"] == pytest.approx(expected.std().item() / math.sqrt(5), rel=1e-4)
    assert python["perplexity"] == pytest.approx(math.exp(python["loss"]))
    assert (python["n_blocks"], python["n_tokens"]) == (5, 55)
    assert table.loc["english", "loss"] == pytest.approx(expected[0].item(), rel=1e-5)
    assert pd.isna(table.loc["english", "standard_error"])


def test_only_tokens_that_count(model):
    """Some in one block, one in another, none in a third; against a sum by hand."""
    from datasets import Dataset

    ids, labels = tiny_tokens(model, 3, 12), torch.full((3, 12), -100)
    labels[0, :5], labels[1, 7] = ids[0, :5], ids[1, 7]
    losses = plain_losses(model, ids).double()
    first, second = losses[0, :4], losses[1, 6]
    blocks = Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})
    expected = (first.sum() + second).item() / 5
    logits = model(ids).logits
    assert next_token_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    assert next_token_loss(logits, labels, reduction="sum").item() == pytest.approx(5 * expected, rel=1e-5)
    assert next_token_loss(logits[2:], labels[2:]).item() == 0
    found = block_losses(model, blocks, batch_size=2, progress=False).tolist()
    assert found == pytest.approx([first.mean().item(), second.item(), 0], rel=1e-5)
    assert mean_loss(model, blocks, progress=False) == pytest.approx(expected, rel=1e-5)
    row = loss_per_skill(model, {"chats": blocks}, progress=False).iloc[0]
    assert (row["n_tokens"], row["n_blocks"]) == (5, 3) and row["loss"] == pytest.approx(expected, rel=1e-5)
    residuals = torch.tensor([first.sum() - 4 * expected, second - expected, 0])  # of a ratio of sums
    assert row["standard_error"] == pytest.approx((residuals.square().sum() * 3 / 2).sqrt().item() / 5, rel=1e-4)
    with pytest.raises(ValueError, match="labels of blocks are all -100; at least one token must count"):
        mean_loss(model, blocks.select([2]), progress=False)


def test_dropout_is_off_and_the_mode_is_left_as_it_was():
    model = tiny_llama(attention_dropout=0.5).train()
    ids = tiny_tokens(model)
    losses = block_losses(model, ids, progress=False)
    assert model.training and torch.equal(losses, block_losses(model, ids, progress=False))
    assert all(parameter.grad is None for parameter in model.parameters()) and not losses.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, ids: token_losses(m, ids[0]), r"input_ids has shape \(12,\); it must be \(batch, length\)"),
        (lambda m, ids: token_losses(m, ids[:, :1]), r"input_ids has shape \(2, 1\)"),
        (lambda m, ids: token_losses(m, ids, rows_at_once=0), "rows_at_once is 0; it must be at least 1"),
        (lambda m, ids: block_losses(m, ids, batch_size=0), "batch_size is 0; it must be at least 1"),
        (lambda m, ids: block_losses(m, ids[:0]), "blocks is empty"),
        (lambda m, ids: loss_per_skill(m, {}), "blocks_by_skill is empty"),
    ],
)
def test_bad_arguments_are_named(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, tiny_tokens(model))
