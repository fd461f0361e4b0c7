"""A small language model, trained here on Python, English, C and JavaScript: a base to narrow without a GPU.

`SmallBaseConfig` is the recipe; what it makes is recorded with the book, and ``load_causal_lm("small")`` loads that.
While nothing is recorded, `STAND_IN` is trained in its place, in about a minute.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from pydantic import Field

from narrowlib.data.documents import SKILLS, package_documents, pinned_sources
from narrowlib.data.tokens import END_OF_TEXT, count_tokens, skill_blocks
from narrowlib.devices import pick_device, prepare_torchvision
from narrowlib.llm.models import SMALL_NAME as NAME
from narrowlib.llm.models import silenced
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.llm.training import recover
from narrowlib.settings import AutoPrecision, Count, Rate, Seed, Settings, Whole
from narrowlib.store.digests import closure_of, digest_of
from narrowlib.store.downloads import UnavailableError, cache_folder, made
from narrowlib.store.files import lock_of, sha256_of
from narrowlib.store.records import PAPER_RESULTS, BadRecordError, paper_record

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHAPTER, WEIGHTS = "small-base", "model"  # where its record lies: a folder of results, and the weights in it
MOST_PASSES = 4  # over any text
MOST_BYTES = 6  # of a token, in the mean: where a skill has so many for each, its tokens need not be counted
TEXT, TRAINED = "text.json", "trained"
N_READINGS, READ_BLOCKS = 40, 8  # of the held-out loss while it trains, and blocks of every skill for it


class SmallBaseConfig(Settings):
    """Shape, text and training of the model; the residual stream has ``n_heads * head_dim`` dimensions."""

    vocab_size: Count = Field(4_096, description="size of the vocabulary: all bytes, and the most frequent pairs")
    tokenizer_bytes: Count = Field(2_000_000, description="bytes of every skill for training the tokenizer")
    n_heads: Count = Field(6, description="attention heads")
    head_dim: Count = Field(32, description="dimensions of each head")
    n_layers: Count = Field(6, description="decoder layers")
    intermediate_size: Count = Field(512, description="MLP neurons per layer")
    block_length: Count = Field(256, description="tokens per block")
    n_tokens: Count = Field(60_000_000, description="training tokens, a quarter from each skill if it has enough text")
    batch_size: Count = Field(16, description="blocks in each training step")
    learning_rate: Rate = Field(3e-3, description="highest step size of AdamW")
    n_warmup: Whole = Field(200, description="warm-up steps; the step size then falls to 0 on a cosine")
    precision: AutoPrecision = Field("bfloat16", description="precision of matrix products in training")
    compiled: bool = Field(True, description="compile layers and loss before training")
    seed: Seed = Field(0, description="seed of the weights and of the order of blocks")

    @property
    def n_steps(self) -> int:
        """Training steps."""
        return max(1, self.n_tokens // (self.batch_size * self.block_length))

    @property
    def training(self) -> LLMTrainingConfig:
        """The configuration of the trainer."""
        every = max(1, self.n_steps // N_READINGS)
        how = {"schedule": "cosine", "weight_decay": 0.1, "micro_batch_size": self.batch_size}
        how |= {"record_every": every, "checkpoint_every": 50}  # half a minute, or less
        return self.build(LLMTrainingConfig, n_steps=self.n_steps, **how)


STAND_IN = SmallBaseConfig(
    vocab_size=512, tokenizer_bytes=200_000, n_heads=4, n_layers=3, intermediate_size=384, block_length=128,
    n_tokens=600_000, batch_size=4, learning_rate=4e-3, n_warmup=20, precision="float32", compiled=False,
)  # fmt: skip


def recorded() -> Path | None:
    """The folder with the recorded weights, each file verified by its sha256 sum; None while nothing is recorded.

    Raises
    ------
    UnavailableError
        When there is a record and it is damaged or incomplete.
    """
    try:
        record, folder = paper_record(CHAPTER, "losses"), PAPER_RESULTS / CHAPTER
    except BadRecordError as error:
        raise UnavailableError(f"{NAME!r} cannot be loaded: {error}") from error
    if record is None:
        return None
    for name, expected in record.provenance["files"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != expected:
            raise UnavailableError(f"{NAME!r} cannot be loaded: {folder / name} is not the recorded file")
    return folder / WEIGHTS


def version() -> str:
    """Digest of the recorded weights, or of the settings and the code of their stand-in."""
    record = paper_record(CHAPTER, "losses")
    return digest_of(record.provenance["files"]) if record else cached_folder(STAND_IN).name


def cached_folder(config: SmallBaseConfig) -> Path:
    """The folder of a training in the cache, which depends on settings and code."""
    return cache_folder() / "models" / f"{NAME}-base-{digest_of(config, closure_of(train_small_base))[:12]}"


def stand_in() -> Path:
    """The folder of a stand-in for the recorded weights, which is trained first if it is not in the cache."""
    return train_small_base(STAND_IN, cached_folder(STAND_IN))[0]


def train_small_base(
    config: SmallBaseConfig, folder: str | Path, *, device: str = "auto", progress: bool = True
) -> tuple[Path, pd.DataFrame]:
    """Learn a tokenizer, then train a Llama from random weights on a mixture of all skills.

    Everything lies in the folder, the state of the training too: the same call goes on from there, after a kill, on
    another day, or with the folder copied to another machine with the same kind of device.

    Parameters
    ----------
    config : SmallBaseConfig
    folder : path
        For one configuration.  ``start`` in it holds tokenizer, first weights and how much text there is; a folder
        named after the kind of device holds the checkpoint; ``trained`` is there at the end.
    device : {"auto", "cpu", "cuda"}
    progress : bool
        Show a progress bar, with tokens per second.

    Returns
    -------
    folder : Path
        ``trained`` in the folder: model in bfloat16 and tokenizer, as transformers loads them.
    curve : DataFrame
        See `narrowlib.llm.training.recover`, with its costs; the held-out loss is that of all skills in equal shares.

    Raises
    ------
    UnavailableError
        When packages are needed that cannot be fetched.
    """
    folder, place = Path(folder), pick_device(device)
    trained, curve = folder / TRAINED, folder / "curve.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    with lock_of(folder / ".lock"):
        if not trained.is_dir():
            from datasets import concatenate_datasets

            model, tokenizer, text = start_of(config, folder)
            blocks = mixed_blocks(tokenizer, config, text, progress=progress)
            held_out = concatenate_datasets(list(held_out_blocks(tokenizer, config, READ_BLOCKS).values()))
            how = {"held_out": held_out, "checkpoint": folder / place.type, "tells_costs": True, "progress": progress}
            recover(model.to(place), blocks, config.training, **how).to_parquet(curve, index=False)

            def write(path: Path) -> None:
                copy.deepcopy(model).cpu().to(torch.bfloat16).save_pretrained(path)
                tokenizer.save_pretrained(path)

            with silenced():
                made(trained, write)
    return trained, pd.read_parquet(curve)


def start_of(
    config: SmallBaseConfig, folder: str | Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, tuple[int, int]]]:
    """Model, tokenizer and `text_for` at the start of a training, read from the folder if they exist."""
    prepare_torchvision()
    from transformers import AutoTokenizer, LlamaForCausalLM

    def write(path: Path) -> None:
        tokenizer = learned_tokenizer(config)
        new_model(config, tokenizer).save_pretrained(path)
        tokenizer.save_pretrained(path)
        (path / TEXT).write_text(json.dumps(text_for(config, tokenizer)), encoding="utf-8")

    with silenced():
        start = made(Path(folder) / "start", write)
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(start)
    return model.eval(), tokenizer, json.loads((start / TEXT).read_text(encoding="utf-8"))


def learned_tokenizer(config: SmallBaseConfig) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer of the most frequent pairs in the first documents of all skills."""
    prepare_torchvision()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def texts():
        for skill in SKILLS:
            n_bytes = 0
            for document in package_documents(skill, "train", seed=config.seed):
                if n_bytes >= config.tokenizer_bytes:
                    break
                n_bytes += len(document.text.encode())
                yield document.text

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[END_OF_TEXT[0]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learned.train_from_iterator(texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=learned, eos_token=END_OF_TEXT[0])


def new_model(config: SmallBaseConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The Llama of this shape with random weights."""
    prepare_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    end = tokenizer.eos_token_id
    shape = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.n_heads * config.head_dim,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        max_position_embeddings=1_024,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(shape)


def text_for(config: SmallBaseConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[int, int]]:
    """For every skill, how many different blocks training sees, and how many including repeats.

    A quarter of all for each; where a skill has less text, all of it `MOST_PASSES` times, and more of the skill with
    the most text instead.

    Raises
    ------
    ValueError
        When that skill has too little as well.
    """
    n_bytes = {skill: sum(each.n_bytes for each in pinned_sources(skill, "train")) for skill in SKILLS}
    n_left, found = config.n_steps * config.batch_size, {}
    for n_skills, skill in zip(range(len(SKILLS), 0, -1), sorted(SKILLS, key=n_bytes.__getitem__), strict=True):
        wanted = min(n_left, config.n_steps * config.batch_size // len(SKILLS)) if n_skills > 1 else n_left
        most = wanted * config.block_length
        if n_bytes[skill] < MOST_BYTES * most:
            most = count_tokens(tokenizer, package_documents(skill, "train"), at_most=most)
        different = min(wanted, most // config.block_length)
        found[skill] = different, min(wanted, MOST_PASSES * different)
        n_left -= found[skill][1]
    if n_left:
        raise ValueError(
            f"n_tokens is {config.n_tokens}; the packages hold {n_left * config.block_length} fewer, even if each is "
            f"read {MOST_PASSES} times"
        )
    return found


def mixed_blocks(
    tokenizer: PreTrainedTokenizerBase,
    config: SmallBaseConfig,
    text: Mapping[str, tuple[int, int]],
    *,
    progress: bool = True,
) -> Dataset:
    """Every block that training sees, with repeats, see `text_for`; the trainer shuffles them."""
    from datasets import concatenate_datasets

    parts = []
    for skill, blocks in different_blocks(tokenizer, config, text, progress=progress).items():
        n_passes, rest = divmod(text[skill][1], len(blocks))
        parts += [blocks] * n_passes + [blocks.select(range(rest))] * bool(rest)
    return concatenate_datasets(parts)


def different_blocks(
    tokenizer: PreTrainedTokenizerBase,
    config: SmallBaseConfig,
    text: Mapping[str, tuple[int, int]],
    *,
    progress: bool = True,
) -> dict[str, Dataset]:
    """The blocks of every skill, each once."""
    how = {"block_length": config.block_length, "progress": progress}
    return {
        skill: skill_blocks(tokenizer, skill, n_tokens=different * config.block_length, **how)
        for skill, (different, _) in text.items()
    }


def held_out_blocks(tokenizer: PreTrainedTokenizerBase, config: SmallBaseConfig, n_blocks: int) -> dict[str, Dataset]:
    """Blocks of every skill, from packages that nothing is trained on."""
    how = {"split": "held-out", "block_length": config.block_length, "progress": False}
    return {skill: skill_blocks(tokenizer, skill, n_tokens=n_blocks * config.block_length, **how) for skill in SKILLS}
