"""Losses after a cut by `narrow`'s default and by what others published, each restated from its formula.

Every method scores on the same blocks and cuts equal shares of every layer; nothing is trained.  With x the input of a
column W_u over calibration tokens, and g gradients of the summed loss:

- *wanda-sp* (An et al., 2024, after Sun et al., 2024): column norm times the norm of its input.
- *minitron* (Muralidharan et al., 2024): the norm of the unit's activation.
- *flap* (An et al., 2024): variance of the input times the squared norm of the column; the mean of what went is added
  as a bias.  It is defined for neurons, not for residual dimensions.
- *torch-pruning* (Fang et al., 2023): the package itself, with its default importance for language models, the sum of
  absolute weight times gradient over all that belongs to the unit (Molchanov et al., 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.harness import Row, seconds_of, size_of
from benchmarks.language_model import default_model, name_of
from benchmarks.llm_scores import MIB, peak_bytes
from narrowlib.data.tokens import skill_blocks
from narrowlib.devices import pick_device
from narrowlib.llm.export import round_hidden_size, sliced
from narrowlib.llm.losses import block_losses, next_token_loss
from narrowlib.llm.refit import refit
from narrowlib.llm.scores import score_units
from narrowlib.llm.units import llama_units
from narrowlib.pruning import keep_masks
from narrowlib.recipe.settings import RecipeConfig

SKILLS = ("python", "english")
CUTS = (("neurons", 0.25), ("neurons", 0.5), ("neurons", 0.75), ("residual", 0.2))
LENGTH = {"cpu": 512, "cuda": 512, "smoke": 16}  # tokens of a block
CALIBRATED, SELECTED, READ = 16, 8, 16  # blocks
AT_ONCE = 4

Scores = dict[str, Tensor]


def prune_peers() -> list[Row]:
    """Mean loss of ours and of each peer, on two held-out sets: other files of the same packages, and other packages.

    The unit says by how many paired standard errors over blocks ours is lower (+) or higher (-).  Seconds and memory
    are of scores, cut and refit together, at half of the neurons.
    """
    device = pick_device("auto")
    loaded = default_model(device)
    return [row for skill in SKILLS for row in _of_skill(loaded.model, loaded.tokenizer, skill)]


def _of_skill(model: nn.Module, tokenizer: object, skill: str) -> Iterator[Row]:
    n_train, length = CALIBRATED + SELECTED + READ, LENGTH[size_of(model.device)]
    blocks = {
        split: torch.as_tensor(
            skill_blocks(tokenizer, skill, n_tokens=n * length, split=split, block_length=length, progress=False)[:][
                "input_ids"
            ]
        ).to(model.device)
        for split, n in (("train", n_train), ("held-out", READ))
    }
    calibration, select, same = blocks["train"].split((CALIBRATED, SELECTED, READ))
    sets = {"same-packages": same, "other-packages": blocks["held-out"]}
    for kind, share in CUTS:
        losses: dict[str, dict[str, Tensor]] = {}
        for name, method in METHODS.items():
            if kind == "residual" and name == "flap":
                continue
            cut, cost = _measured(partial(method, model, kind, share, calibration, select), model.device)
            losses[name] = {at: block_losses(cut, ids, batch_size=AT_ONCE, progress=False) for at, ids in sets.items()}
            losses[name]["cost"] = cost
        for name in list(losses)[1:]:
            for at in sets:
                ours, theirs = losses["ours"][at], losses[name][at]
                difference = theirs - ours
                apart = float(difference.mean() / (difference.std() / len(difference) ** 0.5))
                row = f"prune-peers-{skill}-{kind}-{share}-{at}-{name}"
                means = float(ours.mean()), float(theirs.mean())
                unit = f"nats a token, {apart:+.1f} paired standard errors"
                yield Row(row, *means, unit, means[1] / means[0], name_of(model), len(ours))
            if (kind, share) == ("neurons", 0.5):
                for what, ours, theirs in zip(("s", "MiB at most"), losses["ours"]["cost"], losses[name]["cost"]):
                    row = f"prune-peers-{skill}-{'seconds' if what == 's' else 'memory'}-{name}"
                    yield Row(row, ours, theirs, what, theirs / max(ours, 1e-9), name_of(model), 1)


def _measured(run: Callable[[], nn.Module], device: torch.device) -> tuple[nn.Module, tuple[float, float]]:
    """What it returns, its seconds and its MiB at most."""
    made: list[nn.Module] = []
    taken: list[float] = []
    peak = peak_bytes(lambda: taken.append(seconds_of(lambda: made.append(run()))), device)
    return made[0], (taken[0], peak / MIB)


def masks_of(model: nn.Module, scores: Scores, kind: str, share: float) -> dict[str, Tensor]:
    """Masks that keep the units of highest score, the same number in every layer."""
    return keep_masks(scores, n_kept=sizes_of(model, kind, share)[1], scope="per_layer")


def sizes_of(model: nn.Module, kind: str, share: float) -> tuple[int, int]:
    """Units of a layer, and how many of them a cut keeps."""
    size = model.config.intermediate_size if kind == "neurons" else model.config.hidden_size
    kept = size * (1 - share)
    return size, round(kept) if kind == "neurons" else round_hidden_size(model, kept)


def _named(
    model: nn.Module,
    kind: str,
    share: float,
    calibration: Tensor,
    select: Tensor,
    *,
    variant: str,
    refits: bool = False,
) -> nn.Module:
    """Cut by one of our scores; refitted where the select blocks say so, as `narrow` does it."""
    batches = calibration.split(AT_ONCE)
    scores = score_units(model, llama_units(model, kind), batches, variants=(variant,), progress=False)[variant]
    masks = masks_of(model, scores, kind, share)
    plain = sliced(model, masks)
    if not refits:
        return plain
    fitted = sliced(model, masks)
    refit(fitted, model, masks, calibration, progress=False)
    losses = [block_losses(each, select, batch_size=AT_ONCE, progress=False).mean() for each in (plain, fitted)]
    return fitted if losses[1] < losses[0] else plain


def _flap(model: nn.Module, kind: str, share: float, calibration: Tensor, select: Tensor) -> nn.Module:
    """Cut by fluctuation, and the mean of what went as a bias of the down projection."""
    groups = llama_units(model, kind)
    moments = input_moments(model, calibration)
    weights = [layer.mlp.down_proj.weight for layer in model.model.layers]
    scores = {g.name: moments[i][1] * weights[i].detach().square().sum(0) for i, g in enumerate(groups)}
    masks = masks_of(model, scores, kind, share)
    cut = sliced(model, masks)
    for number, (group, layer) in enumerate(zip(groups, cut.model.layers, strict=True)):
        gone = ~masks[group.name]
        lost = weights[number].detach()[:, gone] @ moments[number][0][gone]
        layer.mlp.down_proj.bias = nn.Parameter(lost, requires_grad=False)
    return cut


@torch.no_grad()
def input_moments(model: nn.Module, calibration: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance over tokens of what every down projection reads, by layer."""
    layers = model.model.layers
    sums = [[torch.zeros(()), torch.zeros(())] for _ in layers]

    def note(number: int, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float().flatten(0, -2)
        sums[number] = [sums[number][0] + x.sum(0), sums[number][1] + x.square().sum(0)]

    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(partial(note, number)) for number, layer in enumerate(layers)
    ]
    for ids in calibration.split(AT_ONCE):
        model.base_model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    n = calibration.numel()
    return [(first / n, second / n - (first / n).square()) for first, second in sums]


def _torch_pruning(model: nn.Module, kind: str, share: float, calibration: Tensor, select: Tensor) -> nn.Module:
    """Cut by Torch-Pruning, from the layers that write neurons or the residual stream on."""
    import torch_pruning

    class Norm(torch_pruning.function.BasePruningFunc):
        """How the weight of an RMSNorm is cut, which the package leaves to its users."""

        def prune_out_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
            kept = torch.ones(len(layer.weight), dtype=torch.bool).index_fill(0, torch.tensor(idxs), False)
            layer.weight = nn.Parameter(layer.weight.detach()[kept])
            return layer

        def get_out_channels(self, layer: nn.Module) -> int:
            return len(layer.weight)

        prune_in_channels, get_in_channels = prune_out_channels, get_out_channels

    cut = copy.deepcopy(model)
    for ids in calibration.split(AT_ONCE):
        next_token_loss(_logits(cut, ids), ids, reduction="sum").backward()
    layers = cut.model.layers
    n_units, n_kept = sizes_of(model, kind, share)
    writers = tuple(writer for layer in layers for writer in (layer.self_attn.o_proj, layer.mlp.down_proj))
    others = [getattr(layer.self_attn, f"{name}_proj") for layer in layers for name in "qkv"]
    roots = [layer.mlp.gate_proj for layer in layers] if kind == "neurons" else [writers]
    torch_pruning.pruner.BasePruner(
        cut,
        calibration[:1, :8],  # to trace the model with
        importance=torch_pruning.importance.GroupTaylorImportance(),
        pruning_ratio=0.0,
        pruning_ratio_dict=dict.fromkeys(roots, 1 - n_kept / n_units),
        ignored_layers=[cut.lm_head, *others],
        customized_pruners={type(layers[0].input_layernorm): Norm()},
        forward_fn=_logits,
        root_module_types=[nn.Linear],
    ).step()
    cut.zero_grad()
    return cut


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


METHODS: dict[str, Callable[..., nn.Module]] = {  # ours first
    "ours": partial(_named, variant=RecipeConfig.model_fields["method"].default, refits=True),
    "ours-wanda": partial(_named, variant="wanda", refits=True),
    "ours-reads": partial(_named, variant="absolute activation per token", refits=True),
    "wanda-sp": partial(_named, variant="wanda"),
    "minitron": partial(_named, variant="activation norm"),
    "flap": _flap,
    "torch-pruning": _torch_pruning,
}
