"""Refit after a cut: weights that read the kept units compensate, by least squares, for the removed ones.

A cut drops inputs of linear layers.  Their outputs then lack what the dropped inputs brought, although much of it can
be told from the inputs that were kept.  No gradient is needed: only inputs and outputs on some text, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from narrowlib.llm.losses import evaluating
from narrowlib.llm.units import llama_units, removed_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RIDGE = 0.1
BATCH_SIZE = 4  # blocks that go through a layer at once
STAGES = (  # linear layers that read the same input, in the order in which a layer computes them
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


@torch.no_grad()
def refit(
    narrowed: PreTrainedModel,
    whole: PreTrainedModel,
    masks: Mapping[str, Tensor],
    blocks: Sequence[Any] | Tensor,
    *,
    ridge: float = RIDGE,
    progress: bool = True,
) -> None:
    r"""Change, in place, the weights of a cut model that read a partly removed group of units.

    With inputs X and outputs Y of a linear layer over all tokens, bias taken off, its weight :math:`W_S` becomes the
    solution of a ridge regression towards itself,

    .. math:: W' = \arg\min_V \lVert X V^\top - Y \rVert^2 + d\, \lVert V - W_S \rVert^2
              = (Y^\top X + d\, W_S)\,(X^\top X + d\, I)^{-1}

    with d the mean of the diagonal of :math:`X^\top X` times ``ridge``.  Y are the outputs of the whole model.  Where
    neurons or heads went, X are what was kept of the whole model's inputs, so that with its Gram matrix H this is
    :math:`(W H_{:,S} + d W_S)(H_{S,S} + d I)^{-1}`.  Where residual dimensions went, errors of one layer are inputs of
    the next: X are the inputs in the cut model itself, refitted up to there.

    Parameters
    ----------
    narrowed : PreTrainedModel
        What `narrowlib.llm.export.sliced` made of ``whole`` with these masks.
    whole : PreTrainedModel
        Not changed.
    masks : mapping of str to Tensor, bool, shape (n_units,)
        By group; layers may have gone as a whole.
    blocks : datasets.Dataset with a column ``input_ids``, or Tensor of shape (n_blocks, length)
        Text of what is to be kept; several times as many tokens as a layer has inputs.
    ridge : float
        Above 0; larger values stay nearer to the weights as they were.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        For a ridge that is not positive, no block, or models that do not belong together.

    Notes
    -----
    Sums are kept in float64, and of one kind of layer at a time.  Regression of outputs on kept inputs is used by ZipLM
    (Kurtic, Frantar and Alistarh, 2023) and, weight by weight, by SparseGPT (Frantar and Alistarh, 2023).
    """
    if not 0 < ridge < float("inf"):
        raise ValueError(f"ridge is {ridge!r}; it must be a number above 0")
    ids = blocks if isinstance(blocks, Tensor) else torch.as_tensor(np.asarray(blocks[:]["input_ids"]))
    if not len(ids):
        raise ValueError("blocks is empty; there must be at least one block")
    gone = removed_layers(masks)
    left = [number for number in range(len(whole.model.layers)) if number not in gone]
    if len(left) != len(narrowed.model.layers):
        raise ValueError(f"narrowed has {len(narrowed.model.layers)} layers; masks leave {len(left)} of whole")
    batches, kept = ids.to(whole.device).split(BATCH_SIZE), _Kept(whole, masks)
    if not kept.inputs:
        return
    with evaluating(whole), evaluating(narrowed):
        theirs, ours = _Flow(whole, batches), _Flow(narrowed, batches) if kept.is_residual else None
        for number in tqdm(range(len(whole.model.layers)), desc="refit", unit="layer", disable=not progress):
            place = left.index(number) if number in left else None
            for stage in STAGES if place is not None else ():
                names = [name for name in stage if f"model.layers.{number}.{name}.weight" in kept.inputs]
                if names:
                    linear = {name: narrowed.model.layers[place].get_submodule(name) for name in names}
                    own = ours.watched(place, names) if stage in STAGES[::2] else None
                    _solve(linear, theirs.watched(number, names), own, kept, number, ridge)
            theirs.advance(number)
            if ours is not None and place is not None:
                ours.advance(place)


class _Kept:
    """Which inputs and outputs of the linear layers of a model are left, by the names of their weights."""

    def __init__(self, model: PreTrainedModel, masks: Mapping[str, Tensor]) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        groups = [group for kind in ("residual", "neurons", "heads") for group in llama_units(model, kind)]
        for group in (group for group in groups if group.name in masks):
            mask = masks[group.name].to(model.device)
            for each in group.slices:
                if each.parameter.endswith("_proj.weight"):
                    places = mask.repeat_interleave(each.block).nonzero()[:, 0]  # for which no host waits in a loop
                    if each.axis == 0:
                        self.outputs[each.parameter] = places
                    elif not bool(mask.all()):
                        self.inputs[each.parameter] = places
        self.is_residual = "residual" in masks and not bool(masks["residual"].all())


class _Flow:
    """Hidden states of a model on all batches, at the entry of the layer that is next."""

    def __init__(self, model: PreTrainedModel, batches: Sequence[Tensor]) -> None:
        self.layers = model.model.layers
        self.hidden: list[Tensor] = []
        self.calls: list[dict[int, tuple[tuple, dict[str, Any]]]] = [{} for _ in self.layers]  # by layer and batch size
        for ids in batches:
            is_new = len(ids) not in self.calls[0]  # then all layers are called once, to see with what
            handles = [self.layers[n].register_forward_pre_hook(self._note(n, is_new), with_kwargs=True)
                       for n in range(len(self.layers) if is_new else 1)]  # fmt: skip
            with suppress(_ReachedError):
                model.model(input_ids=ids, use_cache=False)
            for handle in handles:
                handle.remove()

    def _note(self, number: int, is_new: bool) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            self.calls[number].setdefault(len(hidden), (args[1:], rest))
            if number == 0:
                self.hidden.append(hidden)
                if not is_new:
                    raise _ReachedError

        return note

    def _through(self, number: int) -> Iterator[Tensor]:
        """Outputs of a layer, batch by batch."""
        for hidden in self.hidden:
            args, kwargs = self.calls[number][len(hidden)]
            output = self.layers[number](hidden, *args, **kwargs)
            yield output[0] if isinstance(output, tuple) else output

    def advance(self, number: int) -> None:
        """Go through a layer."""
        self.hidden = list(self._through(number))

    def watched(self, number: int, names: Sequence[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
        """Inputs and outputs of some linear layers, batch by batch, each (tokens, features)."""
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                seen[name] = inputs[0].flatten(0, -2), output.flatten(0, -2)

            return hook

        handles = [self.layers[number].get_submodule(name).register_forward_hook(keep(name)) for name in names]
        try:
            for _ in self._through(number):
                yield seen
        finally:
            for handle in handles:
                handle.remove()


class _ReachedError(Exception):
    """The first layer is reached; nothing behind it is wanted."""


def _solve(
    linear: Mapping[str, nn.Linear],
    theirs: Iterator[dict[str, tuple[Tensor, Tensor]]],
    own: Iterator[dict[str, tuple[Tensor, Tensor]]] | None,
    kept: _Kept,
    number: int,
    ridge: float,
) -> None:
    """New weights for linear layers that read the same input: of the cut model itself, or kept of the whole one."""
    gram: Tensor | None = None
    crossed: dict[str, Tensor] = {}
    weights = {name: f"model.layers.{number}.{name}.weight" for name in linear}
    first = next(iter(linear))
    for batch in theirs:
        x = batch[first][0][:, kept.inputs[weights[first]]] if own is None else next(own)[first][0]
        x = x.float()  # (tokens, kept inputs)
        square = (x.T @ x).double()
        gram = square if gram is None else gram + square
        for name, layer in linear.items():
            y = batch[name][1]  # (tokens, outputs)
            y = y[:, kept.outputs[weights[name]]] if weights[name] in kept.outputs else y
            y = y.float() if layer.bias is None else y.float() - layer.bias.float()
            product = (y.T @ x).double()
            crossed[name] = product + crossed[name] if name in crossed else product
    damping = ridge * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, fails = torch.linalg.cholesky_ex(gram + damping * eye)
    if (fails != 0) | ~gram.isfinite().all():
        raise ValueError(f"inputs of {first} of layer {number} are too large for a refit; set refit to 'off'")
    for name, layer in linear.items():
        right = crossed[name] + damping * layer.weight.double()
        layer.weight.copy_(torch.cholesky_solve(right.T, factor).T.to(layer.weight.dtype))
