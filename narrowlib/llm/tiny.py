"""A random language model of some ten thousand parameters, for quick trials without a download."""

from pathlib import Path

import torch

from narrowlib.devices import prepare_torchvision

NAME = "tiny"
VERSION = 1  # of what `write_tiny` writes; the cache keeps one folder per version
END_OF_TEXT = "<|endoftext|>"
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2_048,
    "tie_word_embeddings": True,
}
SPREAD = 0.2  # standard deviation of the weights: gives logits as large as those of a trained model
SEED = 0


def write_tiny(folder: Path) -> None:
    """Write the model and a tokenizer with one token per byte to a folder that transformers loads."""
    prepare_torchvision()
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: number for number, token in enumerate([END_OF_TEXT, *letters])}
    bytes_alone = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    ends = {"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_alone, **ends)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = transformers.LlamaConfig(vocab_size=len(tokens), initializer_range=SPREAD, **SHAPE, **special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
