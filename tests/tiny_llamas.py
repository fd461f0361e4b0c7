"""Random models of each supported family, small enough for tests."""

import copy
from functools import partial

import torch

WINDOWS = ["full_attention", "sliding_attention", "sliding_attention"]
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4, "layer_types": WINDOWS, "pad_token_id": None}
GRANITE = {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.7, "attention_multiplier": 0.4}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 64,
}
TINY = {
    "llama, tied": ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    "llama, untied": ("LlamaForCausalLM", {"tie_word_embeddings": False}),
    "llama, all heads of their own": ("LlamaForCausalLM", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama, biases": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralForCausalLM", {"sliding_window": 5}),
    "qwen2": ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "qwen2, windows": (
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "tie_word_embeddings": False},
    ),
    "llama, scaled rope": (
        "LlamaForCausalLM",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8,
            }
        },
    ),
    "ministral": ("MinistralForCausalLM", {"head_dim": 8, "sliding_window": 4, "layer_types": WINDOWS}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 12, "tie_word_embeddings": True}),
    "qwen3, biases": ("Qwen3ForCausalLM", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": False}),
    "gemma2": ("Gemma2ForCausalLM", {**GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0}),
    "gemma2, untied": ("Gemma2ForCausalLM", {**GEMMA, "tie_word_embeddings": False}),
    "gemma3": ("Gemma3ForCausalLM", GEMMA),
    "gemma3, untied": ("Gemma3ForCausalLM", {**GEMMA, "tie_word_embeddings": False}),
    "smollm3": ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 0, 1], "tie_word_embeddings": True, "pad_token_id": None}),
    "olmo2": ("Olmo2ForCausalLM", {"pad_token_id": None}),
    "olmo2, tied": ("Olmo2ForCausalLM", {"pad_token_id": None, "tie_word_embeddings": True, "attention_bias": True}),
    "phi3": ("Phi3ForCausalLM", {"sliding_window": 4, "pad_token_id": None}),
    "phi3, long": ("Phi3ForCausalLM", {"rope_parameters": LONG, "tie_word_embeddings": True, "pad_token_id": None}),
    "granite": ("GraniteForCausalLM", {**GRANITE, "tie_word_embeddings": True}),
    "granite, untied": ("GraniteForCausalLM", {**GRANITE, "attention_bias": True, "mlp_bias": True}),
}
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "rms_norm_eps": 1e-2,  # large, so that leaving it unfolded shows
}


def as_transformers_makes_it(family, **options):
    """A model of the family before anything is done to it; its config is its own, to be changed by a test."""
    import transformers

    name, own = TINY[family]
    cls = getattr(transformers, name)
    return cls(cls.config_class(**copy.deepcopy({**SIZES, **own, **options}))).eval()


def plain_llama(family, *, seed=0, **options):
    """A random model as transformers has it: norm weights off 1, biases off 0, logits of scale 10."""
    from narrowlib.devices import prepare_torchvision

    prepare_torchvision()
    model = as_transformers_makes_it(family, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.5 * draw if "norm" in name else 0.3 * draw)
    return model


def tiny_llama(family="llama, tied", *, seed=0, dtype=torch.float32, **options):
    """A random model as the library loads it."""
    from narrowlib.llm.families import family_of, unfused

    model = unfused(plain_llama(family, seed=seed, **options))
    if dtype == torch.float64:  # the norms of transformers round to float32 on the way
        for module in model.modules():
            if "RMSNorm" in type(module).__name__:
                module.forward = partial(_norm, module, family_of(model).norm_offset)
    return model.to(dtype)


def _norm(module, offset, x):
    epsilon = module.eps if hasattr(module, "eps") else module.variance_epsilon
    return torch.nn.functional.rms_norm(x, x.shape[-1:], module.weight + offset, epsilon)


def token_ids(n_sequences=3, n_tokens=9, *, seed=0, size=SIZES["vocab_size"]):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, size, (n_sequences, n_tokens), generator=generator)


def tiny_tokens(model, n_sequences=2, n_tokens=12):
    return token_ids(n_sequences, n_tokens, seed=1, size=model.config.vocab_size)


def tiny_tokenizer(words=tuple(f"w{n}" for n in range(3, 61))):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(("<s>", "</s>", "<unk>", *words))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


@torch.no_grad()
def logits_masked(model, masks, tokens):
    from narrowlib.llm.units import units_named
    from narrowlib.pruning import ablated

    with ablated(model, units_named(model, masks), masks):
        return model(tokens).logits


def random_masks(groups, n_kept, *, seed=0):
    """Masks that keep ``n_kept`` of each group's units, at random."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for group in groups:
        kept = torch.randperm(group.n_units, generator=generator)[:n_kept]
        masks[group.name] = torch.zeros(group.n_units, dtype=torch.bool).index_fill(0, kept, True)
    return masks


def random_blocks(n_blocks, seed=0, length=8):
    from datasets import Dataset

    ids = torch.randint(3, 61, (n_blocks, length), generator=torch.Generator().manual_seed(seed))
    return Dataset.from_dict({"input_ids": ids.tolist()})


def random_skill(tokenizer, skill, *, n_tokens, split, block_length, **_):
    """In the place of `skill_blocks`, which reads packages."""
    return random_blocks(n_tokens // block_length, len(skill) + (100 if split == "train" else 0), block_length)


def letter_tokens():
    """One token per byte, and the two special ones that chat models have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def word_pieces(size=61, texts=("def f(x):\n    return x + 1\n",) * 9):
    """A byte-level BPE tokenizer of the kind of SmolLM, with as many tokens as the random models embed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[0], pad_token=special[0])


class Counting:
    """A tokenizer that notes how many tokens it makes."""

    def __init__(self, tokenizer, counted):
        self.tokenizer, self.counted = tokenizer, counted

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __len__(self):
        return len(self.tokenizer)

    def __call__(self, texts, **options):
        encoded = self.tokenizer(texts, **options)
        self.counted.append(sum(map(len, encoded["input_ids"])))
        return encoded
