"""How many units of every kind a cut leaves, and which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from narrowlib.llm.export import round_width, width_divisor
from narrowlib.llm.gguf_files import check_gguf
from narrowlib.llm.losses import rows_of
from narrowlib.llm.models import LanguageModel, check_model, load_causal_lm
from narrowlib.llm.scores import score_units
from narrowlib.llm.units import llama_units, n_parameters_of
from narrowlib.pruning import count_removed, keep_masks
from narrowlib.recipe.intake import check_sources, texts_of
from narrowlib.recipe.settings import RecipeConfig
from narrowlib.store.unfinished import not_finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset
    from transformers import PreTrainedModel

    from narrowlib.units import UnitGroup

Masks = dict[str, Tensor]
_BISECTIONS = 20  # of the share that leaves a number of parameters; finer than a unit
_MOST = 1 - 1e-6  # share that leaves one unit of every kind
_SCORED_AT_ONCE = 4  # blocks


def load_model(config: RecipeConfig) -> tuple[LanguageModel, dict[str, float]]:
    """The model to cut and what `shares_of` says of it; a ValueError where the result could not be written as asked."""
    language_model = load_causal_lm(config.model, device=config.device, block_length=config.block_length)
    if config.gguf:
        check_gguf(language_model)
    weights = dict(language_model.model.named_parameters())
    for name, dtype in (("dtype", config.dtype), ("gguf", {"f16": "float16"}.get(config.gguf, "auto"))):
        if dtype != "auto" and (beyond := not_finite(weights, getattr(torch, dtype))):
            raise ValueError(
                f"{name} is {getattr(config, name)!r}, in which weights of the model are infinite, such as "
                f"{beyond[0]} ({len(beyond)} in total); use a type with a larger range, such as bfloat16"
            )
    return language_model, shares_of(config, language_model.model)


def counts_at(
    model: PreTrainedModel, shares: Mapping[str, float], multiple_of: int | None = None, *, at_most: int | None = None
) -> dict[str, int]:
    """Units of every kind that a model keeps per layer after these shares are cut.

    At least one unit is left.  Neurons and residual dimensions that are cut are rounded to multiples, see
    `narrowlib.llm.export.round_width`; residual dimensions always to what a checkpoint can have, which may take some of
    them away when heads go.

    Parameters
    ----------
    model : PreTrainedModel
        Uncut.
    shares : mapping of str to float
        By kind, from 0 to 1.
    multiple_of : int, optional
        Of the widths that are cut; None for what suits the model.
    at_most : int, optional
        Residual dimensions that an earlier cut has left; None for all.
    """
    config = model.config

    def width(size: int, kind: str, needs: int = 1) -> int:
        n_kept = max(1, size - count_removed(size, shares.get(kind, 0.0)))
        return round_width(size, n_kept, needs=needs, multiple_of=multiple_of if shares.get(kind) else 1)

    n_groups = config.num_key_value_heads
    n_heads = max(1, n_groups - count_removed(n_groups, shares.get("heads", 0.0)))
    needs = width_divisor(model, n_heads * (config.num_attention_heads // n_groups))
    residual = width(config.hidden_size, "residual", needs)
    if at_most is not None and residual > at_most:
        residual = round_width(at_most, at_most, needs=needs, multiple_of=1)
    return {
        "neurons": width(config.intermediate_size, "neurons"),
        "heads": n_heads,
        "residual": residual,
    }


def counts_by_round(
    model: PreTrainedModel, shares: Mapping[str, float], n_rounds: int, multiple_of: int | None = None
) -> list[dict[str, int]]:
    """Units that are left after each of several cuts, in equal parts, up to these shares: see `counts_at`.

    Dimensions that heads demand to go in one round are not there in the next.
    """
    found: list[dict[str, int]] = []
    for number in range(1, n_rounds + 1):
        so_far = {kind: share * number / n_rounds for kind, share in shares.items()}
        there = found[-1]["residual"] if found else None
        found.append(counts_at(model, so_far, multiple_of, at_most=there))
    return found


def first_masks(model: PreTrainedModel, counts: Mapping[str, int]) -> Masks:
    """Masks that keep the first units of every kind, to compute the size of a model with these counts."""
    return {
        group.name: torch.arange(group.n_units) < n_kept
        for kind, n_kept in counts.items()
        for group in llama_units(model, kind)
        if n_kept < group.n_units
    }


def n_parameters_at(model: PreTrainedModel, shares: Mapping[str, float], multiple_of: int | None = None) -> int:
    """Parameters of the model without these shares of its units."""
    return n_parameters_of(model, first_masks(model, counts_at(model, shares, multiple_of)))


def shares_of(config: RecipeConfig, model: PreTrainedModel) -> dict[str, float]:
    """Share of every kind of units that is cut in the end.

    Raises
    ------
    ValueError
        When so few parameters cannot be reached, or are more than the model has.
    """
    target = config.target_parameters
    if target is None:
        if n_parameters_at(model, config.shares, config.multiple_of) == n_parameters_of(model):
            raise ValueError(
                f"sparsity is {', '.join(map(str, config.sparsity))}; with rounded widths, nothing is cut; "
                f"use a larger sparsity or a smaller multiple_of"
            )
        return config.shares
    together = dict.fromkeys(config.units, _MOST)
    multiple_of = config.multiple_of
    least, whole = n_parameters_at(model, together, multiple_of), n_parameters_of(model)
    if not least <= target < whole:
        raise ValueError(
            f"target_parameters is {target}; by cutting {' and '.join(config.units)}, it must be from {least} to "
            f"{whole - 1}"
        )
    low, high = 0.0, _MOST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fits = n_parameters_at(model, dict.fromkeys(config.units, middle), multiple_of) <= target
        low, high = (low, middle) if fits else (middle, high)
    return dict.fromkeys(config.units, high)


def masks_for(
    model: PreTrainedModel,
    counts: Mapping[str, int],
    keep: Dataset,
    lose: Dataset | None,
    config: RecipeConfig,
    *,
    progress: bool = True,
) -> Masks:
    r"""Masks that keep the units of highest score, as many per layer as ``counts`` says.

    With a weight :math:`w` on what is to be lost, and both scores divided by their mean over the kind,

    .. math:: s_u = s_u^\text{keep} - w\, s_u^\text{lose}

    Parameters
    ----------
    model : PreTrainedModel
        Cut up to here; counts of what it has already are left alone.
    counts : mapping of str to int
        See `counts_at`.
    keep, lose : datasets.Dataset
        Blocks that scores are computed on; ``lose`` only with a weight.
    config : RecipeConfig
    progress : bool

    Returns
    -------
    dict of str to Tensor, bool
        Only of groups that lose units.
    """
    kinds = {kind: llama_units(model, kind) for kind in counts}
    shrinking = {kind: groups for kind, groups in kinds.items() if counts[kind] < groups[0].n_units}
    if not shrinking:
        return {}
    together = [group for groups in shrinking.values() for group in groups]
    scores = _scores(model, together, keep, config, progress)
    against = _scores(model, together, lose, config, progress) if lose is not None and config.lose_weight else None
    masks = {}
    for kind, groups in shrinking.items():
        ranked = {group.name: scores[group.name] for group in groups}
        if against is not None:
            opposed = _over_mean({group.name: against[group.name] for group in groups})
            ranked = {name: values - config.lose_weight * opposed[name] for name, values in _over_mean(ranked).items()}
        masks |= keep_masks(ranked, n_kept=counts[kind], scope="per_layer")
    return masks


def _over_mean(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    mean = torch.cat(list(scores.values())).mean()
    return {name: values / mean.clamp_min(torch.finfo(mean.dtype).tiny) for name, values in scores.items()}


def _scores(
    model: PreTrainedModel, groups: Sequence[UnitGroup], blocks: Dataset, config: RecipeConfig, progress: bool
) -> dict[str, Tensor]:
    batches = [rows_of(blocks, start, start + _SCORED_AT_ONCE) for start in range(0, len(blocks), _SCORED_AT_ONCE)]
    options = {"variants": (config.method,), "seed": config.seed, "progress": progress}
    scores = score_units(model, groups, batches, **options)[config.method]
    if wrong := not_finite(scores):
        raise ValueError(
            f"method is {config.method!r}, whose scores are NaN or infinite for groups of units such as "
            f"{wrong[0]} ({len(wrong)} in total); use another method"
        )
    return scores


def score_table(config: RecipeConfig, *, progress: bool = True) -> pd.DataFrame:
    """Score of every unit of the requested kinds, on training documents of the text to keep.

    Returns
    -------
    DataFrame
        One row per unit: ``kind``, ``group``, ``unit``, ``score``.
    """
    check_sources(config)
    check_model(config.model, block_length=config.block_length)
    texts = texts_of(config)["keep"]
    language_model = load_causal_lm(config.model, device=config.device, block_length=config.block_length)
    options = {"at_most": config.score_tokens, "block_length": config.block_length, "progress": progress}
    blocks = texts.blocks(language_model.tokenizer, "train", **options)
    kinds = {group.name: (kind, group) for kind in config.units for group in llama_units(language_model.model, kind)}
    scores = _scores(language_model.model, [group for _, group in kinds.values()], blocks, config, progress)
    frames = [
        pd.DataFrame({"kind": kinds[name][0], "group": name, "unit": torch.arange(len(values)), "score": values.cpu()})
        for name, values in scores.items()
    ]
    return pd.concat(frames, ignore_index=True)
