"""Model folders from which no model can be loaded: refused by their files, before a weight is read."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

CONFIG, WEIGHTS, ADAPTER = "config.json", "model.safetensors", "adapter_config.json"
_INDEX = f"{WEIGHTS}.index.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "*.tiktoken", "tekken.json", "spiece.model", "vocab.*")
_READ = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", _INDEX)
NOT_LOADED = {  # files in place of those that are needed, and what to do about them
    ADAPTER: "is a PEFT adapter; merge it into its base model and name the folder of the merged model",
    "*.gguf": "is for llama.cpp; name the model it was made from",
    "pytorch_model*.bin": "is a pickle, which may run code; save the model again as safetensors",
}


def check_files(folder: str | Path) -> None:
    """Refuse a folder without tokenizer, without weights as safetensors, or in which one of these is damaged.

    Raises
    ------
    ValueError
        In a sentence that names a file.
    """
    folder = Path(folder)
    if (folder / ADAPTER).is_file():
        raise ValueError(in_place_of("complete weights", folder))
    for name in filter(lambda name: (folder / name).is_file(), _READ):
        try:
            json.loads((folder / name).read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} is not JSON ({error})") from error
    if not any(any(folder.glob(name)) for name in _TOKENIZERS):
        raise ValueError(f"it has no readable tokenizer, such as {_TOKENIZERS[0]}")
    for name in _weights_of(folder):
        try:
            with safe_open(folder / name, framework="pt"):  # reads the header, and compares it with the size
                pass
        except FileNotFoundError as error:
            raise ValueError(f"it has no {name}, which {_INDEX} names") from error
        except SafetensorError as error:
            raise ValueError(f"{name} is damaged or truncated ({error})") from error


def in_place_of(what: str, folder: Path) -> str:
    """That a folder does not have something, and what it has in its place."""
    others = ((path.name, remedy) for pattern, remedy in NOT_LOADED.items() for path in sorted(folder.glob(pattern)))
    return f"it has no {what}" + next((f"; {name} {remedy}" for name, remedy in others), "")


def _weights_of(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / _INDEX).is_file():
        raise ValueError(in_place_of(WEIGHTS, folder))
    try:
        return sorted({*map(str, json.loads((folder / _INDEX).read_bytes())["weight_map"].values())})
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{_INDEX} names no weights") from error
