"""Random models of each supported family, small enough for tests."""

from functools import partial

import torch

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


def tiny_llama(family="llama, tied", *, seed=0, dtype=torch.float32, **options):
    """A random model: norm weights off 1, biases off 0, logits of scale 10."""
    from narrowlib.devices import prepare_torchvision

    prepare_torchvision()
    import transformers

    name, own = TINY[family]
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**{**SIZES, **own, **options})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.5 * draw if "norm" in name else 0.3 * draw)
    if dtype == torch.float64:  # the norms of transformers round to float32 on the way
        for module in model.modules():
            if hasattr(module, "variance_epsilon"):
                module.forward = partial(_norm, module)
    return model.to(dtype)


def _norm(module, x):
    return torch.nn.functional.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)


def token_ids(n_sequences=3, n_tokens=9, *, seed=0, size=SIZES["vocab_size"]):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, size, (n_sequences, n_tokens), generator=generator)


def tiny_tokens(model, n_sequences=2, n_tokens=12):
    return token_ids(n_sequences, n_tokens, seed=1, size=model.config.vocab_size)


def tiny_tokenizer(size=61):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, size)}}
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
