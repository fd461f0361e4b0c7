"""The best parameters of a training run, by its held-out loss, kept on disk and put back at the end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from narrowlib.devices import prepare_torchvision
from narrowlib.store.files import replacing

prepare_torchvision()  # transformers imports it on the way to its callbacks

from transformers import TrainerCallback, TrainingArguments  # noqa: E402


class KeepBest(TrainerCallback):
    """Writes the parameters whenever the held-out loss is the lowest so far; the model ends with those.

    A run that goes on after a kill finds the file that it left.

    Parameters
    ----------
    model : nn.Module
    path : Path
        Of the file; written under another name and then renamed.
    """

    def __init__(self, model: nn.Module, path: Path) -> None:
        self.model, self.path, self.loss = model, path, math.inf
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                self.loss = float(file.metadata()["loss"])

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        """Keep the parameters where a record holds a lower loss."""
        loss = (logs or {}).get("eval_loss", math.nan)
        if not loss < self.loss:
            return
        self.loss = loss
        if state.is_world_process_zero:
            tensors = {name: values.detach().contiguous() for name, values in self.model.named_parameters()}
            with replacing(self.path) as temporary:
                save_file(tensors, temporary, {"loss": repr(loss)})

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Put the best parameters back."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if self.path.is_file():
            with safe_open(self.path, framework="pt") as file, torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    parameter.copy_(file.get_tensor(name))
