"""How much a unit of a language model matters: attribution from activations and their gradients, by named variant.

Removing a unit moves the loss by about minus the sum of weight times gradient over everything that belongs to it.  For
the row j of a linear layer y = W x + b that sum is also one over tokens, of output times gradient, and for its column j
one of input times gradient:

    sum_i W_ji g_ji = sum_t (y_tj - b_j) dL/dy_tj        sum_i W_ij g_ij = sum_t x_tj (W^T dL/dy_t)_j

So nothing as large as the parameters is held, the backward pass is spared half of its work, and every token's share is
known, which gradients of weights have already summed up.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from narrowlib.devices import moved
from narrowlib.llm.families import norm_offset_of
from narrowlib.llm.losses import evaluating, is_counted, next_token_loss
from narrowlib.llm.settings import FORWARD_ONLY, FROM_READS, FROM_TOKENS, FROM_WEIGHTS, VARIANTS, WITHOUT_DATA
from narrowlib.scores import random_scores, weight_norm_scores
from narrowlib.units import UnitGroup, check, unit_sums

OF_WEIGHTS = {  # what is summed over the weights of a unit and over batches, from weight and gradient
    "absolute per weight": lambda weight, gradient: (weight * gradient).abs(),
    "weights times mean absolute gradient": lambda weight, gradient: weight * gradient.abs(),
}

Scores = dict[str, Tensor]


def score_units(
    model: nn.Module,
    groups: Sequence[UnitGroup],
    batches: Iterable[Tensor | tuple[Tensor, Tensor]],
    *,
    variants: Sequence[str] = ("signed",),
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Scores]:
    r"""Scores of units in one pass over the data, several variants at once.

    With :math:`c_{t,u}` the share of token t in :math:`\sum_{j \in u} -\theta_j\, g_j`, g the gradient of the loss
    summed over the predicted tokens that count, and N their number:

    .. math::
        \text{signed} &= \tfrac1N \lvert \textstyle\sum_t c_{t,u} \rvert &
        \text{absolute per batch} &= \tfrac1N \textstyle\sum_b \lvert \sum_{t \in b} c_{t,u} \rvert \\
        \text{absolute per sequence} &= \tfrac1N \textstyle\sum_s \lvert \sum_{t \in s} c_{t,u} \rvert &
        \text{absolute per token} &= \tfrac1N \textstyle\sum_t \lvert c_{t,u} \rvert \\
        \text{absolute per weight} &= \tfrac1N \textstyle\sum_b \sum_{j \in u} \lvert \theta_j\, g_{b,j} \rvert &
        \text{weights times mean absolute gradient} &=
            \tfrac1N \lvert \textstyle\sum_{j \in u} \theta_j \sum_b \lvert g_{b,j} \rvert \rvert

    all but the last at least as large as the one before it in its chain of absolute values.  The variants with
    *activation* in place of the whole share take the columns alone, those that read the unit: for a neuron with
    activation h, *signed activation* is :math:`\tfrac1N \lvert \sum_t h_t\, \partial L / \partial h_t \rvert`,
    *absolute activation per batch* takes the absolute value within each batch, *absolute activation per token* within
    each token.

    Two variants need no loss and no gradient, with x the input that a column W_u reads, over all tokens, whether they
    count or not:

    .. math::
        \text{activation norm} = \sqrt{\overline{x_u^2}} \qquad
        \text{wanda} = \textstyle\sum_{W} \sum_i \lvert W_{iu} \rvert\, \sqrt{\overline{x_u^2}}

    *weight norm* and *random* need no data.

    Parameters
    ----------
    model : nn.Module
        Made of linear layers, embeddings and norms where the groups name parameters; called with ``input_ids``,
        returns ``logits``.  Left as it was: its parameters get no gradient.
    groups : sequence of UnitGroup
        See `narrowlib.llm.units.llama_units`.
    batches : iterable of Tensor, int64, shape (n_sequences, n_tokens), or of pairs of them
        Token blocks without padding; every token after the first of its block is predicted.  Of a pair the second are
        labels: the ids, but ``narrowlib.data.chats.IGNORED`` for tokens that the loss does not count.  A batch's
        activations are held at once.
    variants : sequence of str
        Of `VARIANTS`.
    seed : int
        Of the random scores.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of str to dict of str to Tensor, float32, shape (n_units,)
        By variant, then by group; higher for units to keep.

    Raises
    ------
    ValueError
        For an unknown variant, no batch or no token that counts, or a group that the model does not have or that cannot
        be scored so.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), section 5.  By their public code, *signed* is Fig 11, *absolute
    activation per batch* Fig 5 left and the unlearning models, *weights times mean absolute gradient* Fig 6, 12 and 13.
    *wanda* is the structured form of Sun et al. (2024).  Only the variants of `FROM_WEIGHTS` need gradients of weights;
    they are used up and freed one parameter at a time.
    """
    if isinstance(variants, str) or not variants or not set(variants) <= set(VARIANTS):
        raise ValueError(f"variants is {variants!r}; it must be a sequence of some of {', '.join(VARIANTS)}")
    parameters = dict(model.named_parameters())
    for group in groups:
        check(group, parameters)
    scores = _scores_without_data(groups, parameters, variants, seed)
    from_data = [variant for variant in variants if variant not in WITHOUT_DATA]
    if from_data:
        scores |= _scores_from_data(model, groups, batches, from_data, progress)
    return {variant: scores[variant] for variant in variants}


def _scores_without_data(
    groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor], variants: Sequence[str], seed: int
) -> dict[str, Scores]:
    scores = {}
    if "weight norm" in variants:
        scores["weight norm"] = weight_norm_scores(groups, parameters)
    if "random" in variants:
        drawn = random_scores(groups, torch.Generator().manual_seed(seed))
        device = parameters[groups[0].slices[0].parameter].device
        scores["random"] = {name: values.to(device) for name, values in drawn.items()}
    return scores


def _scores_from_data(
    model: nn.Module,
    groups: Sequence[UnitGroup],
    batches: Iterable[Tensor | tuple[Tensor, Tensor]],
    variants: Sequence[str],
    progress: bool,
) -> dict[str, Scores]:
    totals = {group.name: _Totals(group, variants) for group in groups}
    device = next(model.parameters()).device
    n_predicted, body = 0, _without_head(model, groups)
    with _prepared(model), ExitStack() as hooks:
        for handle in _hooks(model, groups, totals, variants):
            hooks.callback(handle.remove)
        for batch in tqdm(batches, desc="score units", unit="batch", disable=not progress):
            ids, labels = batch if isinstance(batch, tuple) else (batch, batch)
            n_predicted += int(is_counted(labels).sum())
            ids, labels = moved(ids, device), moved(labels, device)  # (sequences, tokens)
            if set(variants) <= set(FORWARD_ONLY):
                with torch.no_grad():
                    body(input_ids=ids, use_cache=False)
            else:
                logits = model(input_ids=ids, use_cache=False).logits
                next_token_loss(logits, labels, reduction="sum").backward()
            for each in totals.values():
                each.end_batch(ids.numel())
    if not n_predicted:
        raise ValueError("batches is empty; it must hold at least one batch of two or more tokens, of which one counts")
    return {variant: {name: each.score(variant, n_predicted) for name, each in totals.items()} for variant in variants}


def _without_head(model: nn.Module, groups: Sequence[UnitGroup]) -> nn.Module:
    """What there is to compute for scores without a loss: all, where a unit has columns of the head."""
    parameters = dict(model.named_parameters())
    concerned = {id(parameters[each.parameter]) for group in groups for each in group.slices}
    head = model.get_output_embeddings()
    return model if id(head.weight) in concerned else model.base_model


class _Totals:
    """Sums of one group over the batches so far."""

    def __init__(self, group: UnitGroup, variants: Sequence[str]) -> None:
        self.group, self.variants = group, variants
        self.sums: dict[str, Tensor] = {}
        self.shares: Tensor | None = None  # (sequences, tokens, units) of this batch, over all that belongs to a unit
        self.reads: Tensor | None = None  # the same over the columns alone
        self.squares: dict[nn.Module, Tensor] = {}  # (channels,) of what each linear layer reads, summed over tokens
        self.read: tuple[Tensor, Tensor] | None = None  # the last input that columns read, and the alias they saw
        self.n_awaited = self.n_read = self.n_tokens = 0

    def add_share(self, values: Tensor, gradient: Tensor, *, is_read: bool) -> None:
        """Product of an activation and its gradient; the last one of a batch closes it, so little is held at once."""
        product = self.per_unit(values.detach().float() * gradient.float())
        if is_read and _asks(self.variants, FROM_READS):
            self.reads = product if self.reads is None else self.reads + product
        if _asks(self.variants, FROM_TOKENS):
            self.shares = product if self.shares is None else self.shares + product
        self.n_awaited -= 1
        if not self.n_awaited:
            self._close()

    def per_unit(self, values: Tensor) -> Tensor:
        """Where a unit is a block of channels, such as a head, their sum: (..., channels) -> (..., units)."""
        n_units = self.group.n_units
        return values if values.shape[-1] == n_units else values.unflatten(-1, (n_units, -1)).sum(-1)

    def add(self, variant: str, values: Tensor) -> None:
        self.sums[variant] = self.sums[variant] + values if variant in self.sums else values

    def _close(self) -> None:
        if self.shares is not None:
            per_sequence = self.shares.sum(1)
            per_batch = per_sequence.sum(0)
            self.add("signed", per_batch)
            self.add("absolute per batch", per_batch.abs())
            self.add("absolute per sequence", per_sequence.abs().sum(0))
            self.add("absolute per token", self.shares.abs_().sum((0, 1)))
        if self.reads is not None:
            per_batch = self.reads.sum((0, 1))
            self.add("signed activation", per_batch)
            self.add("absolute activation per batch", per_batch.abs())
            self.add("absolute activation per token", self.reads.abs().sum((0, 1)))
        self.shares = self.reads = None

    def end_batch(self, n_tokens: int) -> None:
        self.read, self.n_awaited, self.n_tokens = None, 0, self.n_tokens + n_tokens

    def score(self, variant: str, n_predicted: int) -> Tensor:
        if variant == "wanda" and self.squares:
            return sum(self.per_unit(layer.weight.detach().float().abs().sum(0) * (squares / self.n_tokens).sqrt())
                       for layer, squares in self.squares.items())  # fmt: skip
        if variant not in self.sums:
            raise ValueError(
                f"variants holds {variant!r}, undefined for units of group {self.group.name!r}: no column reads them"
            )
        if variant == "activation norm":
            return (self.sums[variant] / self.n_read).sqrt()
        return (self.sums[variant] / n_predicted).abs()


@contextmanager
def _prepared(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and parameters without gradients: activations carry them from the embedding on."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for parameter, _, _ in before:
        parameter.grad = None
    handle = model.get_input_embeddings().register_forward_hook(lambda _, __, output: output.requires_grad_())
    try:
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        handle.remove()
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


def _hooks(
    model: nn.Module, groups: Sequence[UnitGroup], totals: Mapping[str, _Totals], variants: Sequence[str]
) -> Iterator[torch.utils.hooks.RemovableHandle]:
    """Hooks that feed the totals; parameters are told apart by identity, so that tied ones count at both places."""
    parameters = dict(model.named_parameters())
    if _asks(variants, (*FROM_TOKENS, *FROM_READS, *FORWARD_ONLY)):
        places: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                places.setdefault(id(parameter), []).append((module, name))
        for group in groups:
            for each in group.slices:
                for module, name in places[id(parameters[each.parameter])]:
                    yield _share_hook(totals[group.name], module, name, each.axis, norm_offset_of(model))
    if _asks(variants, FROM_WEIGHTS):
        by_parameter: dict[str, list[UnitGroup]] = {}
        for group in groups:
            for name in group.axes:
                by_parameter.setdefault(name, []).append(group)
        for name, concerned in by_parameter.items():
            yield _weight_hook(parameters[name].requires_grad_(), name, concerned, totals)


def _asks(variants: Sequence[str], some: Sequence[str]) -> bool:
    return any(variant in some for variant in variants)


def _share_hook(totals: _Totals, module: nn.Module, name: str, axis: int, norm_offset: float):
    is_linear = isinstance(module, nn.Linear)
    if is_linear and name == "weight" and axis == 1:
        return module.register_forward_pre_hook(_reader(totals))
    is_embedding = isinstance(module, nn.Embedding) and axis == 1
    is_vector = getattr(module, name).ndim == 1  # the weight of a norm, a bias
    if not (is_embedding or is_vector or (is_linear and axis == 0)):
        raise ValueError(
            f"group {totals.group.name!r} has axis {axis} of the {name} of a {type(module).__name__}, which has no "
            f"score from activations; linear layers, embeddings and norms have"
        )
    bias = getattr(module, "bias", None) if name == "weight" else None
    is_bias = name == "bias"
    of_weight: Tensor | None = None  # part of the output that is due to the weight, where it is not all
    if norm_offset and is_vector and not is_linear:
        scale = getattr(module, name).detach() + norm_offset
        of_weight = torch.where(scale == 0, 0, getattr(module, name).detach() / scale)

    def watch(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not _asks(totals.variants, FROM_TOKENS):
            return
        totals.n_awaited += 1
        values = output.detach()  # a hook that held the output itself would keep it, and all behind it, for good
        if of_weight is not None:
            values = values * of_weight
        output.register_hook(
            lambda gradient: totals.add_share(
                module.bias if is_bias else values if bias is None else values - bias, gradient, is_read=False
            )
        )

    return module.register_forward_hook(watch)


def _reader(totals: _Totals):
    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]  # (sequences, tokens, channels)
        if "wanda" in totals.variants:
            squares = x.detach().float().square().sum((0, 1))
            totals.squares[module] = totals.squares[module] + squares if module in totals.squares else squares
        if totals.read is None or totals.read[0] is not x:  # queries, keys and values read the same
            alias = x.view_as(x)  # its gradient is what flows back through these columns alone
            totals.read = x, alias
            if "activation norm" in totals.variants:
                totals.add("activation norm", totals.per_unit(x.detach().float().square().sum((0, 1))))
                totals.n_read += x.shape[0] * x.shape[1]
            if _asks(totals.variants, (*FROM_TOKENS, *FROM_READS)):
                totals.n_awaited += 1
                alias.register_hook(lambda gradient: totals.add_share(x, gradient, is_read=True))
        return (totals.read[1], *inputs[1:])

    return watch


def _weight_hook(parameter: Tensor, name: str, groups: Sequence[UnitGroup], totals: Mapping[str, _Totals]):
    @torch.no_grad()
    def use_up(parameter: Tensor) -> None:
        for group in groups:
            part = UnitGroup(group.name, group.n_units, tuple(s for s in group.slices if s.parameter == name))
            for variant, of in OF_WEIGHTS.items():
                sums = unit_sums(part, {name: parameter}, {name: parameter.grad}, of=of)
                totals[group.name].add(variant, sums)
        parameter.grad = None

    return parameter.register_post_accumulate_grad_hook(use_up)
