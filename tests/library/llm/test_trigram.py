"""The trigram model: probabilities by hand, and what holds for all of them."""

import numpy as np
import pytest

from narrowlib.llm.trigram import Trigram


def test_probabilities_of_every_context_sum_to_one():
    rng = np.random.default_rng(0)
    model = Trigram(rng.integers(7, size=(20, 9)) ** 2 % 7, 7)
    for first, second in [(0, 1), (4, 2), (6, 6), (3, 3)]:  # squares modulo 7 are 0, 1, 2, 4: the last were never seen
        blocks = np.array([[first, second, token] for token in range(7)])
        for order in (2, 3):
            p = model._probabilities(blocks[:, 3 - order :], order)
            assert p.shape == (7, 1) and (p > 0).all() and p.sum() == pytest.approx(1)


def test_counts_by_hand():
    model = Trigram(np.array([[0, 1, 0, 1, 1]]), 2)  # 010, 101, 011; in contexts: 10, 01, 11; alone: 0 once, 1 twice
    assert [level.discount for level in model.levels] == [1 / 3, 1.0, 1.0]
    zero = (1 - 1 / 3) / 3 + (1 / 3) * 2 / 3 / 2  # one token: 0
    assert model._probabilities(np.array([[1, 0]]), 2).item() == pytest.approx(zero)  # all mass is discounted
    loss = model.block_losses(np.array([[0, 0, 0]])).item()
    assert loss == pytest.approx(-np.log(zero))


def test_it_learns_what_repeats_and_weighs_blocks_alone():
    text = np.tile(np.arange(8), 50).reshape(-1, 16)
    model = Trigram(text, 16)
    same, other = model.block_losses(text[:2]), model.block_losses(text[:2, ::-1])
    assert same.shape == (2,) and same.max() < 1.0 < 2.0 < other.min()
    assert model.block_losses(text[:1]) == pytest.approx(same[:1])


@pytest.mark.parametrize(("blocks", "size", "says"), [(np.zeros((2, 2)), 4, "shape"), (np.zeros((2, 5)), 0, "vocab")])
def test_illegal_input_is_refused(blocks, size, says):
    with pytest.raises(ValueError, match=says):
        Trigram(blocks, size)
