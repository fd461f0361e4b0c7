"""A trigram model of tokens with interpolated Kneser-Ney backoff, as a baseline for trained language models."""

import numpy as np


class Trigram:
    r"""Probabilities of the next token from counts of three, two and one.

    .. math:: P_k(c \mid h) = \frac{\max(n(hc) - D_k, 0)}{n(h)} + \frac{D_k\, N(h)}{n(h)}\, P_{k-1}(c \mid h')

    with :math:`h'` the context without its first token, :math:`N(h)` the number of different tokens after it, and the
    uniform distribution below that of one token.  Below three tokens, :math:`n` counts in how many different contexts
    something was seen.  The discounts are :math:`D_k = n_1 / (n_1 + 2 n_2)`, of the numbers of what was counted once
    and twice.

    Parameters
    ----------
    blocks : ndarray of int, shape (n_blocks, length)
        Token ids; nothing is counted across the end of a block.
    vocab_size : int
        At most 2,000,000, so that three ids fit one 64-bit integer.

    Notes
    -----
    Source: Chen and Goodman (1999), An empirical study of smoothing techniques for language modeling.
    """

    def __init__(self, blocks: np.ndarray, vocab_size: int) -> None:
        if not 1 <= vocab_size <= 2_000_000:
            raise ValueError(f"vocab_size is {vocab_size!r}; it must be from 1 to 2,000,000")
        blocks = np.asarray(blocks)
        if blocks.ndim != 2 or blocks.shape[1] < 3:
            raise ValueError(f"blocks has shape {blocks.shape}; it must be (n_blocks, length), length at least 3")
        self.vocab_size = vocab_size
        codes, counts = np.unique(_codes(blocks, 3, vocab_size), return_counts=True)
        self.levels = [_Level(codes, counts, vocab_size)]
        for order in (2, 1):  # in how many contexts each shorter one was seen
            codes, counts = np.unique(codes % vocab_size**order, return_counts=True)
            self.levels.insert(0, _Level(codes, counts, vocab_size))

    def block_losses(self, blocks: np.ndarray) -> np.ndarray:
        """Mean loss of the next token of every block in nats, (n_blocks, length) -> (n_blocks,).

        The second token of a block is predicted from the first alone, as a language model has to.
        """
        blocks = np.asarray(blocks)
        shorter = self._probabilities(blocks, 2)  # (n_blocks, length - 1)
        p = np.concatenate([shorter[:, :1], self._probabilities(blocks, 3)], axis=1)
        return -np.log(p).mean(1)

    def _probabilities(self, blocks: np.ndarray, order: int) -> np.ndarray:
        """Of every token that has ``order - 1`` others before it: (n, t) -> (n, t - order + 1)."""
        codes = _codes(blocks, order, self.vocab_size)
        p = np.full(codes.shape, 1 / self.vocab_size)
        for k, level in enumerate(self.levels[:order], start=1):
            p = level.mixed(codes % self.vocab_size**k, p)
        return p


class _Level:
    """Counts of one order: of sequences by their code, and of their contexts."""

    def __init__(self, codes: np.ndarray, counts: np.ndarray, vocab_size: int) -> None:
        self.codes, self.counts, self.vocab_size = codes, counts, vocab_size
        once, twice = (int((counts == n).sum()) for n in (1, 2))
        self.discount = once / (once + 2 * twice) if once else 0.5
        self.contexts, first = np.unique(codes // vocab_size, return_index=True)
        self.totals = np.add.reduceat(counts, first)
        self.kinds = np.diff(first, append=len(codes))

    def mixed(self, codes: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Probabilities of the last tokens, given those of the order below."""
        total, kinds = (_found(self.contexts, each, codes // self.vocab_size) for each in (self.totals, self.kinds))
        above = np.maximum(_found(self.codes, self.counts, codes) - self.discount, 0)
        mixed = (above + self.discount * kinds * lower) / np.maximum(total, 1)
        return np.where(total > 0, mixed, lower)


def _codes(blocks: np.ndarray, order: int, vocab_size: int) -> np.ndarray:
    """Each ``order`` neighbouring tokens as one integer: (n, t) -> (n, t - order + 1)."""
    length = blocks.shape[1] - order + 1
    codes = np.zeros((len(blocks), length), np.int64)
    for place in range(order):
        codes = codes * vocab_size + blocks[:, place : place + length]
    return codes


def _found(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where it is not there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
