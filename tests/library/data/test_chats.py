"""Chats as tokens: which of them belong to answers, by templates of all kinds."""

import json

import pytest
from tiny_llamas import letter_tokens

from narrowlib.data.chats import IGNORED, chat_tokens
from narrowlib.data.documents import CHAT, Document

MARKED = """{% for m in messages %}<{{ m.role }}>{% if m.role == "assistant" %}{% generation %}\
{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"""
UNMARKED = """{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<|im_end|>{% endfor %}\
{% if add_generation_prompt %}<assistant>{% endif %}"""
THOUGHTFUL = UNMARKED.replace(
    "{{ m.content", '{% if loop.last and m.role == "assistant" %}<think></think>{% endif %}{{ m.content'
)
COUNTING = "{{ messages | length }}" + UNMARKED
CHANGING = UNMARKED.replace("m.content | trim", 'm.content | upper if loop.last else "..."')
TWO_TURNS = ["system be brief", "user é?", "assistant  yes", "user why", "assistant so é"]


@pytest.fixture(scope="module")
def tokenizer():
    return letter_tokens()


def chat(*turns):
    messages = [dict(zip(("role", "content"), turn.split(" ", 1), strict=True)) for turn in turns]
    return Document(CHAT, "chats.jsonl:7", json.dumps(messages))


def counted(tokenizer, template, *turns):
    """Texts of a chat that count, each as long as no other token lies in between."""
    tokenizer.chat_template = template
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    ids, labels = chat_tokens(tokenizer, chat(*turns), end)
    assert ids[-1] == end and all(label in (token, IGNORED) for token, label in zip(ids, labels, strict=True))
    found = [[]]
    for label in labels:
        if label != IGNORED:
            found[-1].append(label)
        elif found[-1]:
            found.append([])
    return [tokenizer.decode(each) for each in found if each]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (MARKED, [" yes<|im_end|>", "so é<|im_end|><|endoftext|>"]),
        (UNMARKED, ["yes<|im_end|>", "so é<|im_end|><|endoftext|>"]),
        (THOUGHTFUL, ["yes<|im_end|>", "<think></think>so é<|im_end|><|endoftext|>"]),
        (None, [" yes", "so é<|endoftext|>"]),
    ],
)
def test_answers_count_and_nothing_else(tokenizer, template, expected):
    assert counted(tokenizer, template, *TWO_TURNS) == expected


@pytest.mark.parametrize("template", [MARKED, UNMARKED, None])
def test_a_chat_that_ends_with_a_question_has_an_end_that_does_not_count(tokenizer, template):
    (found,) = counted(tokenizer, template, "user a", "assistant b", "user c")
    assert found == ("b" if template is None else "b<|im_end|>")


@pytest.mark.parametrize("template", [COUNTING, CHANGING])
def test_a_template_that_writes_messages_otherwise_alone_is_refused(tokenizer, template):
    with pytest.raises(ValueError, match=r"answers cannot be told apart in the chat chats\.jsonl:7: .* \{% generation"):
        counted(tokenizer, template, *TWO_TURNS)


def test_a_tokenizer_that_tells_no_places_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="the tokenizer is a Slow; for chats it must be a fast one"):
        chat_tokens(Slow(), chat("user a", "assistant b"), 0)
