"""Results from the tables of the small base model."""

import math

import numpy as np
import pandas as pd

from narrowlib.intervals import mean

OURS, TRIGRAM = "small base", "trigram"


def against_trigram(losses: pd.DataFrame) -> pd.DataFrame:
    """Loss of the small base model and of the trigram model, and how far the first is ahead.

    Returns
    -------
    DataFrame
        Indexed by ``skill``: the two losses in nats per token, ``ahead`` with ``low`` and ``high`` (bootstrap over
        paired blocks), ``bits per byte`` of the small base model.
    """
    rows = {}
    for skill, both in losses.groupby("skill", sort=False):
        both = both.set_index("model")
        ahead = mean(np.subtract(both.at[TRIGRAM, "block_losses"], both.at[OURS, "block_losses"]))
        bits = both.at[OURS, "loss"] / math.log(2) / both.at[OURS, "bytes_per_token"]
        found = {OURS: both.at[OURS, "loss"], TRIGRAM: both.at[TRIGRAM, "loss"], "ahead": ahead.value}
        rows[skill] = found | {"low": ahead.low, "high": ahead.high, "bits per byte": bits}
    return pd.DataFrame(rows).T.rename_axis("skill")


def skills_said(losses: pd.DataFrame) -> str:
    """In a sentence, on how many skills the model is ahead, and by how much."""
    table = against_trigram(losses)
    sure = table[table["low"] > 0]
    first = losses.iloc[0]
    size = f"{first['n_parameters'] / 1e6:.1f} million parameters and {first['tokens'] / 1e6:.1f} million tokens"
    found = f"With {size}, the model is ahead of the trigram model on {len(sure)} of {len(table)} skills"
    ends = dict.fromkeys(f"{end:.2f}" for end in (sure["ahead"].min(), sure["ahead"].max()))
    by = f", by {' to '.join(ends)} nats per token" if len(sure) else ""
    return f"{found}{by}."


def shares_said(text: pd.DataFrame) -> str:
    """In a sentence, how much text of every skill there is, and how often it was read."""
    parts = [
        f"{row.skill} {row.seen / 1e6:.1f} ({row.different / 1e6:.1f}, each read {row.seen / row.different:.1f} times)"
        for row in text.itertuples()
    ]
    return f"Million tokens read, with distinct tokens in brackets: {', '.join(parts)}."
