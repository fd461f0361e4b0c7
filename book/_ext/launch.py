"""Where the buttons above a page lead: notebooks to their own branch, edits and issues to the source.

Pages are rendered from executed notebooks, but nobody edits those: the source is MyST on the main branch.
Colab and Binder open no MyST: they get the plain notebook on the branch of notebooks.  Downloads are those too.
"""

from __future__ import annotations

import html
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

BRANCH = "notebooks"
_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff](?:[^<>]*[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef])?")
_JAPANESE_TERM = re.compile(r'<dt( id="[^"]*">[^<]*[\u3040-\u30ff\u4e00-\u9fff])')
_BLOCK = re.compile(r"<pre>(.*?)</pre>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
WIDEST_LINE = 80  # characters that a wide page shows without scrolling
AFTER_THE_THEME = 900  # the theme adds its buttons with priority 501


def write_one_page_as_many(app: Sphinx) -> None:
    """Have every node that extensions write in pages written on the one page for printing too."""
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = {**handlers.get("html", {}), **handlers.get("singlehtml", {})}


def choose_buttons(_: Sphinx, config: Config) -> None:
    """Buttons that lead to the repository where its address is known, none where it is not."""
    options = config.html_theme_options
    is_known = bool(options.get("repository_url"))
    for button in ("use_repository_button", "use_edit_page_button", "use_issues_button"):
        options[button] = is_known
    if not is_known:
        options["launch_buttons"] = {}


def rewrite_buttons(app: Sphinx, page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Correct the links that the theme has made for this page."""
    is_notebook = context.get("page_source_suffix") == ".ipynb"
    branch = app.config.html_theme_options.get("repository_branch") or "main"
    for group in context.get("header_buttons", []):
        if group.get("label") == "download-buttons" and is_notebook:
            group["buttons"] = [*_downloads(page, context["pathto"]), *_printing(group["buttons"])]
        for button in group.get("buttons", []):
            if group.get("label") == "launch-buttons":
                button["url"] = (
                    button["url"].replace(f"/{branch}?", f"/{BRANCH}?").replace(f"/blob/{branch}/", f"/blob/{BRANCH}/")
                )
            elif button.get("label") == "source-edit-button":
                button["url"] = button["url"].removesuffix(".ipynb") + (".md" if is_notebook else "")
    make_contents = context.get("generate_toctree_html")
    if make_contents:
        context["generate_toctree_html"] = lambda *given, **named: _japanese(
            _with_names(make_contents(*given, **named))
        )
    if "body" in context:
        if 'class="math' not in context["body"]:
            context["script_files"] = [
                file for file in context.get("script_files", ()) if "mathjax" not in str(file).lower()
            ]
        language = (context.get("meta") or {}).get("lang")
        context["body"] = _said_right(context["body"])
        if language != "ja":
            context["body"] = _japanese(context["body"])
    language = (context.get("meta") or {}).get("lang")
    if language:
        context["language"] = language


def _downloads(page: str, pathto: Any) -> list[dict[str, str]]:
    name = page.removeprefix("book/")
    kinds = (("clean", "", "without outputs"), ("executed", "executed/", "with the outputs of this page"))
    return [
        {
            "type": "link",
            "url": pathto(f"notebooks/{folder}{name}.ipynb", 1),
            "text": f".ipynb, {kind}",
            "icon": "fas fa-code",
            "tooltip": f"Download the notebook {what}",
            "label": f"download-{kind}-button",
        }
        for kind, folder, what in kinds
    ]


def _printing(buttons: list[dict[str, str]]) -> list[dict[str, str]]:
    return [button for button in buttons if button.get("label") == "download-pdf-button"]


def _with_names(contents: Any) -> str:
    """The contents in the sidebar, where what unfolds a part is more than an arrow to a screen reader."""
    return str(contents or "").replace("<summary>", '<summary aria-label="pages below">')


def _said_right(body: str) -> str:
    """The page as screen readers should say it: an empty corner of a table is no header, Japanese is Japanese.

    Entries of the bibliography are items of their list: the role that docutils gives them is deprecated.
    """
    body = body.replace("<th></th>", "<td></td>").replace('role="doc-biblioentry"', 'role="listitem"')
    body = _JAPANESE_TERM.sub(r'<dt lang="ja"\1', body)
    return _BLOCK.sub(_reachable, body)


def _japanese(text: str) -> str:
    """A page with its runs of Japanese said to be Japanese, but for terms, which are said so whole."""
    parts = re.split(r'(<dt lang="ja".*?</dt>|<pre.*?</pre>|<script.*?</script>|<[^>]*>)', text, flags=re.DOTALL)
    return "".join(part if part[:1] == "<" else _JAPANESE.sub(r'<span lang="ja">\g<0></span>', part) for part in parts)


def _reachable(block: re.Match[str]) -> str:
    """A block of code whose long lines make it scroll, with a stop for the keyboard."""
    longest = max(map(len, html.unescape(_TAG.sub("", block[1])).splitlines()), default=0)
    return f'<pre tabindex="0">{block[1]}</pre>' if longest > WIDEST_LINE else block[0]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("builder-inited", write_one_page_as_many)
    app.connect("config-inited", choose_buttons)
    app.connect("html-page-context", rewrite_buttons, priority=AFTER_THE_THEME)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
