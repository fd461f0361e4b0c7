"""Loss of a language model without one of its units, for many units, without a copy of the model.

Below a unit's layer nothing changes, so its layer's output is kept once, and only the layers above are run again.  A
neuron's absence is a rank-one change of that output, a residual dimension's a zero wherever the stream is written to;
neither touches a weight, so several units go through in one forward pass as entries of a batch.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from narrowlib.devices import moved
from narrowlib.llm.families import logits_from, norm_after_mlp
from narrowlib.llm.losses import evaluating
from narrowlib.pruning import ablated
from narrowlib.units import UnitGroup, check

CPU_TOKENS, GPU_TOKENS = 1024, 32_768  # of one forward pass, all its units together
VOCABULARY_AT_ONCE = 4_096
LOGITS_BYTES = {"cpu": 16 * 2**20, "cuda": 2**28}  # at a time; more would be given back to the system and zeroed again
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@torch.no_grad()
def ablation_losses(
    model: nn.Module,
    groups: Sequence[UnitGroup],
    batches: Iterable[Tensor],
    units: Mapping[str, Tensor] | None = None,
    *,
    tokens_per_forward: int | None = None,
    progress: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Mean loss with each unit set to zero, and without any: what `narrowlib.scores.ablation_scores` needs.

    Parameters
    ----------
    model : nn.Module
        Of Llama architecture.  Every bit of it is back afterwards.
    groups : sequence of UnitGroup
        Neurons and residual dimensions go several at a time; units of any other kind one at a time, from the lowest
        layer that they have weights in.
    batches : iterable of Tensor, int64, shape (n_sequences, n_tokens)
        Token blocks without padding; every token after the first of its block is predicted.
    units : mapping of str to Tensor, int64, shape (n_sampled,), optional
        Which units, by group; all of a group that is not named.
    tokens_per_forward : int, optional
        Bounds how many units go at a time; what suits the device by default.
    progress : bool
        Show a progress bar.

    Returns
    -------
    loss : Tensor, float64, shape ()
        In nats per token, from float32 logits.
    losses : dict of str to Tensor, float64, shape (n_sampled,)
        By group, in the order of ``units``.

    Raises
    ------
    ValueError
        For a unit or a group that the model does not have, or no batch.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), section 5 and Fig 11.
    """
    parameters = dict(model.named_parameters())
    device = next(model.parameters()).device
    for group in groups:
        check(group, parameters)
    unknown = sorted(set(units or ()) - {group.name for group in groups})
    if unknown:
        raise ValueError(
            f"units names {unknown[0]!r}; it must name some of {', '.join(g.name for g in groups[:3])}, ..."
        )
    sampled = {group.name: _sampled(group, units, device) for group in groups}
    if tokens_per_forward is None:
        tokens_per_forward = GPU_TOKENS if device.type == "cuda" else CPU_TOKENS
    base = torch.zeros((), dtype=torch.float64, device=device)
    totals = {name: torch.zeros(len(which), dtype=torch.float64, device=device) for name, which in sampled.items()}
    in_layer = {_layer_of_neurons(group): group.name for group in groups if _layer_of_neurons(group) is not None}
    neurons = {layer: sampled[name] for layer, name in sorted(in_layer.items()) if len(sampled[name])}
    others = [group for group in groups if group.name not in in_layer.values()]
    n_predicted = 0
    with evaluating(model), tqdm(desc="ablate", unit="unit", disable=not progress) as bar:
        for ids in batches:
            run = _Run(model, moved(ids, device), tokens_per_forward, neurons)
            base += run.loss(run.stream[-1])[0]
            for layer, losses in run.losses_without_neurons(bar.update).items():
                totals[in_layer[layer]] += losses
            for group in others:
                totals[group.name] += run.losses_without(group, sampled[group.name], bar.update)
            n_predicted += ids.shape[0] * (ids.shape[1] - 1)
    if not n_predicted:
        raise ValueError("batches is empty; it must hold at least one batch of at least two tokens")
    return base / n_predicted, {name: total / n_predicted for name, total in totals.items()}


def _sampled(group: UnitGroup, units: Mapping[str, Tensor] | None, device: torch.device) -> Tensor:
    if units is None or group.name not in units:
        return torch.arange(group.n_units, device=device)
    which = torch.as_tensor(units[group.name], device=device)
    if which.ndim != 1 or which.is_floating_point() or ((which < 0) | (which >= group.n_units)).any():
        raise ValueError(
            f"units of {group.name!r} is {which.tolist()}; it must hold whole numbers from 0 to {group.n_units - 1}"
        )
    return which.long()


class _Run:
    """One batch that went through the whole model once, and what is needed to run its upper layers again."""

    def __init__(self, model: nn.Module, ids: Tensor, tokens_per_forward: int, neurons: Mapping[int, Tensor]) -> None:
        self.model, self.ids, self.neurons = model, ids, neurons  # ids: (sequences, tokens)
        self.layers = model.model.layers
        self.n_at_once = max(1, tokens_per_forward // ids.numel())
        self.stream: list[Tensor] = []  # before every layer and after the last, (sequences, tokens, hidden)
        self.arguments: list[dict] = []  # of every layer: mask and rotary embedding of one sequence
        self.activations: dict[int, Tensor] = {}  # of sampled neurons by layer, (sequences, tokens, sampled)
        self.written: dict[
            int, Tensor
        ] = {}  # by all neurons of a layer, where a norm follows, (sequences, tokens, hidden)
        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.callback(layer.register_forward_pre_hook(self._keep, with_kwargs=True).remove)
            for number in neurons:
                down = self.layers[number].mlp.down_proj
                hooks.callback(down.register_forward_pre_hook(partial(self._keep_activations, number)).remove)
                if norm_after_mlp(self.layers[number]):
                    hooks.callback(down.register_forward_hook(partial(self._keep_written, number)).remove)
            hooks.callback(self.layers[-1].register_forward_hook(lambda *call: self.stream.append(call[-1])).remove)
            model.model(input_ids=ids, use_cache=False)

    def _keep(self, _layer: nn.Module, inputs: tuple[Tensor, ...], arguments: dict) -> None:
        self.stream.append(inputs[0])
        self.arguments.append({name: _of_one_sequence(value) for name, value in arguments.items()})

    def _keep_activations(self, layer: int, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.activations[layer] = inputs[0][..., self.neurons[layer]]

    def _keep_written(self, layer: int, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.written[layer] = output

    def losses_without_neurons(self, report: Callable[[int], object]) -> dict[int, Tensor]:
        """Loss summed over the batch without each of the sampled neurons, by layer: (n_sampled,).

        On the way up each layer's neurons join those from below in one batch.
        """
        every = [(layer, place) for layer, units in self.neurons.items() for place in range(len(units))]
        losses: dict[int, list[Tensor]] = {layer: [] for layer in self.neurons}
        for start in range(0, len(every), self.n_at_once):
            chunk = every[start : start + self.n_at_once]
            hidden = self.stream[0][:0]  # (neurons so far * sequences, tokens, hidden)
            for layer in range(chunk[0][0], len(self.layers)):
                if len(hidden):
                    hidden = self.layers[layer](hidden, **self.arguments[layer])
                places = [place for at, place in chunk if at == layer]
                if places:
                    hidden = torch.cat([hidden, self._without_neurons(layer, slice(places[0], places[-1] + 1))])
            for (layer, _), loss in zip(chunk, self.loss(hidden)):
                losses[layer].append(loss)
            report(len(chunk))
        return {layer: torch.stack(each) for layer, each in losses.items()}

    def _without_neurons(self, layer: int, places: slice) -> Tensor:
        """The stream after a layer without each of its neurons: (neurons * sequences, tokens, hidden)."""
        columns = self.layers[layer].mlp.down_proj.weight[:, self.neurons[layer][places]]  # (hidden, neurons)
        written = torch.einsum("stu,hu->usth", self.activations[layer][..., places], columns)
        after, norm = self.stream[layer + 1], norm_after_mlp(self.layers[layer])
        if norm:
            whole = self.written[layer]
            return (after - norm(whole) + norm(whole - written)).flatten(0, 1)
        return (after - written * getattr(self.model.config, "residual_multiplier", 1.0)).flatten(0, 1)

    def losses_without(self, group: UnitGroup, units: Tensor, report: Callable[[int], object]) -> Tensor:
        """Loss summed over the batch without each of the units: (n_sampled,)."""
        is_residual = _is_residual(group, self.model)
        losses = self._without_residual(units, report) if is_residual else self._without_weights(group, units, report)
        return torch.cat(list(losses)) if len(units) else units.new_zeros(0, dtype=torch.float64)

    def _without_residual(self, units: Tensor, report: Callable) -> Iterator[Tensor]:
        for chunk in units.split(self.n_at_once):
            keep = torch.ones(len(chunk), self.stream[0].shape[-1], dtype=torch.bool, device=units.device)
            keep[torch.arange(len(chunk), device=units.device), chunk] = False
            keep = keep.repeat_interleave(len(self.ids), 0).unsqueeze(1)  # (units * sequences, 1, hidden)
            hidden = self.stream[0].repeat(len(chunk), 1, 1) * keep
            with _writes_masked(self.layers, keep):
                hidden = self.run_from(0, hidden)
            yield self.loss(hidden)
            report(len(chunk))

    def _without_weights(self, group: UnitGroup, units: Tensor, report: Callable) -> Iterator[Tensor]:
        layers = [_LAYER.match(name) for name in group.axes]
        lowest = min((int(match[1]) if match else 0 for match in layers), default=0)
        is_above = all(match or name.startswith(("model.norm", "lm_head")) for name, match in zip(group.axes, layers))
        for unit in units:
            with ablated(self.model, [group], {group.name: torch.arange(group.n_units, device=unit.device) != unit}):
                start = self.stream[lowest] if is_above else self.model.model.embed_tokens(self.ids)
                yield self.loss(self.run_from(lowest, start))
            report(1)

    def run_from(self, layer: int, hidden: Tensor) -> Tensor:
        """The stream after the last layer."""
        for block, arguments in zip(self.layers[layer:], self.arguments[layer:]):
            hidden = block(hidden, **arguments)
        return hidden

    def loss(self, hidden: Tensor) -> Tensor:
        """Loss of each copy of the batch, summed over its tokens: (copies * sequences, tokens, hidden) -> (copies,)."""
        hidden = self.model.model.norm(hidden[:, :-1])
        n_copies = len(hidden) // len(self.ids)
        labels = self.ids[:, 1:].flatten().repeat(n_copies)
        some_rows = LOGITS_BYTES.get(labels.device.type, 2**26) // (4 * VOCABULARY_AT_ONCE)
        pairs = zip(hidden.flatten(0, 1).split(some_rows), labels.split(some_rows), strict=True)
        losses = torch.cat([_token_losses(rows, self.model, targets) for rows, targets in pairs])
        return losses.view(n_copies, -1).sum(1, dtype=torch.float64)


def _token_losses(hidden: Tensor, model: nn.Module, targets: Tensor) -> Tensor:
    """Cross entropy without all logits at once: (rows, hidden), (rows,) -> (rows,).

    A few words at a time, so that the head's weights are gone through once and the logits stay in a small buffer.
    """
    full = torch.promote_types(hidden.dtype, torch.float32)
    finished = logits_from(model.config)
    parts, wanted, start = [], 0, 0
    for weight in model.lm_head.weight.split(VOCABULARY_AT_ONCE):
        logits = finished(F.linear(hidden, weight)).to(full)  # (rows, some of the vocabulary)
        parts.append(logits.logsumexp(-1))
        place = targets - start
        is_here = (place >= 0) & (place < len(weight))
        found = logits.gather(1, place.clamp(0, len(weight) - 1).unsqueeze(1)).squeeze(1)
        wanted = wanted + torch.where(is_here, found, 0)
        start += len(weight)
    return torch.stack(parts).logsumexp(0) - wanted


def _of_one_sequence(value: object) -> object:
    """Masks and rotary embeddings are those of every sequence alike, as nothing is padded; one serves any batch."""
    if isinstance(value, tuple):
        return tuple(_of_one_sequence(each) for each in value)
    return value[:1] if isinstance(value, Tensor) and value.ndim > 1 else value


def _layer_of_neurons(group: UnitGroup) -> int | None:
    """Number of the layer when the group is that of its neurons: they write through columns of down_proj."""
    found = None
    for each in group.slices:
        match = _LAYER.match(each.parameter)
        if match and each.parameter == f"{match[0]}mlp.down_proj.weight" and each.axis == 1:
            found = int(match[1])
    is_mlp = found is not None and all(s.parameter.startswith(f"model.layers.{found}.mlp.") for s in group.slices)
    return found if is_mlp else None


def _is_residual(group: UnitGroup, model: nn.Module) -> bool:
    """Whether the group holds everything that writes to the stream, so that its units stay zero all the way up."""
    held = {(each.parameter, each.axis) for each in group.slices}
    writes = {("model.embed_tokens.weight", 1)}
    for name, _ in model.named_parameters():
        if name.endswith(("o_proj.weight", "o_proj.bias", "down_proj.weight", "down_proj.bias")):
            writes.add((name, 0))
    return writes <= held


@contextmanager
def _writes_masked(layers: Sequence[nn.Module], keep: Tensor) -> Iterator[None]:
    with ExitStack() as hooks:
        for layer in layers:
            for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
                hooks.callback(module.register_forward_hook(lambda _, __, output: output * keep).remove)
        yield
