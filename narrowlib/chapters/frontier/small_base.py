"""A small language model, really trained on all skills in about a minute: a base to narrow where time is short."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from narrowlib.data.documents import SKILLS, package_documents
from narrowlib.data.tokens import END_OF_TEXT, skill_blocks
from narrowlib.devices import pick_device, prepare_torchvision
from narrowlib.llm.models import LanguageModel
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.llm.training import recover
from narrowlib.settings import (
    Count,
    Rate,
    Seed,
    Settings,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

NAME = "small"
DOCUMENTS_PER_SKILL = 30  # that the tokenizer is learned from


class SmallBaseConfig(Settings):
    """Shape and training of the model; the residual stream has ``n_heads * head_dim`` dimensions."""

    vocab_size: Count = Field(512, description="tokens: all bytes, and the most frequent pairs")
    n_heads: Count = 4
    head_dim: Count = 32
    n_layers: Count = 3
    intermediate_size: Count = Field(384, description="neurons of a layer")
    block_length: Count = Field(128, description="tokens of a block")
    n_steps: Count = Field(
        1_500, description="training steps, on blocks of all skills in equal number, in random order"
    )
    batch_size: Count = Field(4, description="blocks in each")
    learning_rate: Rate = Field(4e-3, description="step size of AdamW")
    seed: Seed = Field(0, description="of weights and order")


def small_base(config: SmallBaseConfig | None = None, *, device: str = "auto", progress: bool = True) -> LanguageModel:
    """Learn a tokenizer, then train a Llama from random weights on Python, English, C and JavaScript.

    Parameters
    ----------
    config : SmallBaseConfig, optional
    device : {"auto", "cpu", "cuda"}
    progress : bool
        Show a progress bar.

    Returns
    -------
    LanguageModel
        Named ``"small"``.

    Raises
    ------
    UnavailableError
        When packages are needed that cannot be fetched.
    """
    config = SmallBaseConfig() if config is None else config
    tokenizer = _tokenizer(config.vocab_size)
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
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(shape).to(pick_device(device)).eval()
    training = LLMTrainingConfig(
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        micro_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        n_warmup=min(20, config.n_steps // 10),
        schedule="cosine",
        precision="float32",
        seed=config.seed,
    )
    recover(model, _mixed_blocks(tokenizer, config), training, progress=progress)
    return LanguageModel(model, tokenizer, NAME)


def _tokenizer(vocab_size: int) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT[0]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        document.text
        for skill in SKILLS
        for document in islice(package_documents(skill, "train", seed=0), DOCUMENTS_PER_SKILL)
    )
    learned.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=learned, eos_token=END_OF_TEXT[0])


def _mixed_blocks(tokenizer: PreTrainedTokenizerBase, config: SmallBaseConfig) -> Dataset:
    from datasets import concatenate_datasets

    n_blocks = -(-config.n_steps * config.batch_size // len(SKILLS))  # of each skill, rounded up
    options = {"n_tokens": n_blocks * config.block_length, "block_length": config.block_length, "progress": False}
    return concatenate_datasets([skill_blocks(tokenizer, skill, **options) for skill in SKILLS])
