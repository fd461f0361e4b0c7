"""Digits that are drawn: easy to tell apart, but not at first sight."""

import torch

from narrowlib.data.digits import Digits


def drawn_digits(n_train, n_test):
    """Ten fixed pictures with noise."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(10, 784, generator=generator)

    def draw(n):
        labels = torch.randint(0, 10, (n,), generator=generator)
        return (pictures[labels] + torch.rand(n, 784, generator=generator)) / 2, labels

    return Digits(*draw(n_train), *draw(n_test))
