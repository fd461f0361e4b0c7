"""What a language model costs: operations and seconds per token, and energy."""

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from narrowlib.llm.units import head_dim_of


def flops_per_token(model: nn.Module, n_tokens: int) -> int:
    """Multiplications and additions of one token's forward pass: every matrix product, attention to all tokens.

    Parameters
    ----------
    model : PreTrainedModel
    n_tokens : int
        Length of the sequence that the token stands in.

    Notes
    -----
    A step of training takes about three times as many: the backward pass counts twice.
    """
    matrices = [module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear)]
    config = model.config
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * head_dim_of(model) * n_tokens
    return 2 * (sum(matrices) + attention)


@torch.no_grad()
def seconds_per_token(model: nn.Module, shape: tuple[int, int], *, repeats: int = 5) -> float:
    """Median time of a forward pass on random tokens, per token, after one pass to warm up.

    Parameters
    ----------
    model : PreTrainedModel
        In the precision and on the device it is in.
    shape : (int, int)
        Sequences and their length.
    repeats : int
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, shape, generator=generator).to(model.device)
    seconds = []
    for repeat in range(repeats + 1):
        started = time.perf_counter()
        model(input_ids=ids, use_cache=False)
        if ids.is_cuda:
            torch.cuda.synchronize(ids.device)
        if repeat:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) / ids.numel()


def joules_so_far(device: torch.device) -> float:
    """Energy that the device has used since its driver was loaded; NaN where it is not measured.

    Read from NVML on a GPU, with the package ``nvidia-ml-py``.
    """
    if device.type != "cuda":
        return math.nan
    with suppress(Exception):  # no package, no library, or a card that does not count
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1_000  # from millijoules
    return math.nan


class Clock:
    """Seconds and joules of training; joules are NaN where they are not measured."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.began = self._now()

    def _now(self) -> Tensor:
        return torch.tensor([time.perf_counter(), joules_so_far(self.device)], dtype=torch.float64)

    def read(self) -> Tensor:
        """Float64, shape (2,), on the CPU."""
        return self._now() - self.began

    def set(self, spent: Tensor) -> None:
        """Continue counting from ``spent``."""
        self.began = self._now() - spent

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop counting inside ``with``."""
        spent = self.read()
        yield
        self.set(spent)
