"""Model cards: what a name holds is told as it is, and the metadata is YAML, whatever the name."""

import pytest
import yaml
from markdown_it import MarkdownIt
from tiny_llamas import tiny_llama

from narrowlib.llm import cards
from narrowlib.llm.models import LanguageModel

ODD = (
    "a|b || c",
    "two\nlines",
    "--- | ---",
    "`code` ``and`` `",
    "<b>bold</b> <!-- &amp; &lt;",
    "*a* _b_ __c__ ~~d~~ snake_case_name",
    "[a](b) ![c](d)",
    "a\\|b\\",
)
OF_YAML = ("---", "yes", "null", "1e3", "key: [1, {", "'\"#", "- a", "%TAG", "&a *b", "a: b\n---\nc", "\u00e9\u3042")


def shown(markdown):
    """Texts of headings, list items and table cells, in their order, and whether there is any mark-up among them."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    inline = [token for token in tokens if token.type in ("inline", "html_block")]
    kinds = {child.type for token in inline for child in token.children or [token]}
    return ["".join(child.content for child in token.children or ()) for token in inline], kinds


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_shown_as_it_is(name):
    told = cards.escaped(name)
    markdown = f"# {told}, narrowed\n\n| text | n |\n|---|---:|\n| {told} | 1 |\n\n- {told}: 2"
    plain = " ".join(name.split())
    assert shown(markdown)[0] == [f"{plain}, narrowed", "text", "n", plain, "1", f"{plain}: 2"]
    assert shown(markdown)[1] <= {"text", "text_special", "entity"}


@pytest.mark.parametrize("name", [*ODD, *OF_YAML])
def test_metadata_holds_any_name(name, monkeypatch):
    monkeypatch.setattr(cards, "origin_of", lambda _: {"base_model": name, "license": name, "note": ""})
    model = tiny_llama()
    card = cards.model_card(LanguageModel(model, None, "model"), model, {}, {"loss": 2.0})
    nothing, about, text = card.split("---\n", 1)[0], *card.removeprefix("---\n").split("\n---\n", 1)
    assert not nothing and "\n# " in text
    found = yaml.safe_load(about)
    assert (found["base_model"], found["license"], found["library_name"]) == (name, name, "transformers")
