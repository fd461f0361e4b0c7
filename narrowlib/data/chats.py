"""Chats as tokens, formatted by the tokenizer's template, with answers marked apart from everything else.

An answer is what the assistant says, though not as the first message.  Its tokens are those that the template marks
with ``{% generation %}``.  Where a template marks nothing, they are what an answer adds to the messages before it and
to the header that the template writes when it is asked for an answer: what the assistant says and the end of its turn.
A chat is refused where this text does not stand in the whole chat at that place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from narrowlib.data.documents import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a token that no loss counts, as torch and transformers have it
ASSISTANT = "assistant"
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")

Messages = Sequence[Mapping[str, str]]  # each with role and content


def answers_in(messages: Messages) -> list[int]:
    """Places of the messages that are answers: of the assistant, not the first, and not empty."""
    return [
        place
        for place, message in enumerate(messages)
        if place and message["role"] == ASSISTANT and message["content"].strip()
    ]


def chat_tokens(tokenizer: PreTrainedTokenizerBase, chat: Document, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a chat and their labels.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A fast one.  Without a chat template, messages are written with their roles before them.
    chat : Document
        Its text is JSON of messages.
    end : int
        The token that stands after a document; it counts where the last token of the chat does.

    Returns
    -------
    ids, labels : ndarray, int32, shape (n_tokens,)
        Labels are the ids in answers, `IGNORED` elsewhere.

    Raises
    ------
    ValueError
        When the template does not take the messages, answers cannot be told apart in what it writes, or the tokenizer
        does not tell where its tokens stand in a text.
    """
    from jinja2 import TemplateError

    if not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer is a {type(tokenizer).__name__}; for chats it must be a fast one, which gives the place of "
            "each token in the text"
        )
    messages = json.loads(chat.text)
    try:
        if tokenizer.chat_template and _MARK.search(tokenizer.get_chat_template()):
            found = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
            is_answer = np.array(found["assistant_masks"], dtype=bool)
        else:
            found, is_answer = _told_apart(tokenizer, messages, chat.name)
    except TemplateError as error:  # roles that the model does not know, or in another order
        raise ValueError(f"the chat {chat.name} does not fit the chat template of the model: {error}") from error
    ids = np.array([*found["input_ids"], end], dtype=np.int32)
    is_answer = np.append(is_answer, is_answer[-1:].any())
    return ids, np.where(is_answer, ids, np.int32(IGNORED))


def _told_apart(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, name: str
) -> tuple[Mapping[str, list], np.ndarray]:
    """What the tokenizer makes of a chat, and which of the tokens belong, with a part at least, to an answer."""
    text = _written(tokenizer, messages)
    options = {"add_special_tokens": False, "truncation": False, "verbose": False, "return_attention_mask": False}
    found = tokenizer(text, return_offsets_mapping=True, **options)
    starts, ends = np.array(found["offset_mapping"], dtype=int).reshape(-1, 2).T
    is_answer = np.zeros(len(starts), dtype=bool)
    for place in answers_in(messages):
        before = _written(tokenizer, messages[:place], is_asking=True)
        alone = _written(tokenizer, messages[: place + 1])
        added = alone.removeprefix(before)
        # some templates put thoughts before the last answer alone
        content = added[max(0, added.find(messages[place]["content"].strip())) :]
        said = next((each for each in (added, content) if text.startswith(before + each)), None)
        if said is None or not alone.startswith(before):
            raise ValueError(
                f"answers cannot be told apart in the chat {name}: the chat template of the model writes its first "
                f"{place + 1} messages differently on their own; mark the answers in the template with "
                "{% generation %}"
            )
        is_answer |= (ends > len(before)) & (starts < len(before + said))
    return found, is_answer


def _written(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, is_asking: bool = False) -> str:
    """Messages as text, with the beginning of an answer where one is asked for."""
    if tokenizer.chat_template:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_asking)
    asked = [{"role": ASSISTANT, "content": ""}] if is_asking else []
    return "\n\n".join(f"{each['role']}: {each['content']}" for each in [*messages, *asked])
