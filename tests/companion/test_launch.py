"""Buttons above a page: notebooks on their branch, edits and issues at the source, none without a repository."""

import importlib.util
from types import SimpleNamespace

import pytest
import yaml
from companion import chapters, stage
from trees import ROOT

_spec = importlib.util.spec_from_file_location("launch", ROOT / "book" / "_ext" / "launch.py")
launch = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(launch)

REPOSITORY = "https://github.com/owner/book"


def context(source_suffix=".ipynb"):
    def link(label, url):
        return {"type": "link", "label": label, "url": url}

    page = f"book/hierarchy{source_suffix}"
    colab = f"https://colab.research.google.com/github/owner/book/blob/main/{page}"
    binder = f"https://mybinder.org/v2/gh/owner/book/main?urlpath=lab/tree/{page}"
    return {
        "page_source_suffix": source_suffix,
        "pathto": lambda path, _: f"../{path}",
        "body": "<table><th></th></table>",
        "meta": {"lang": "ja"},
        "header_buttons": [
            {"label": "launch-buttons", "buttons": [link("", binder), link("", colab)]},
            {
                "label": "source-buttons",
                "buttons": [
                    link("source-edit-button", f"{REPOSITORY}/edit/main/{page}"),
                    link("source-issues-button", f"{REPOSITORY}/issues/new?title=x"),
                ],
            },
            {
                "label": "download-buttons",
                "buttons": [link("download-source-button", "x"), link("download-pdf-button", "")],
            },
        ],
    }


def application(**options):
    return SimpleNamespace(config=SimpleNamespace(html_theme_options={"repository_branch": "main", **options}))


def test_notebooks_open_from_their_branch_edits_stay_on_main_and_downloads_are_clean_and_executed():
    page = context()
    launch.rewrite_buttons(application(), "book/hierarchy", "page.html", page, None)
    binder, colab = (button["url"] for button in page["header_buttons"][0]["buttons"])
    assert binder == "https://mybinder.org/v2/gh/owner/book/notebooks?urlpath=lab/tree/book/hierarchy.ipynb"
    assert colab == "https://colab.research.google.com/github/owner/book/blob/notebooks/book/hierarchy.ipynb"
    edit, issue = (button["url"] for button in page["header_buttons"][1]["buttons"])
    assert edit == f"{REPOSITORY}/edit/main/book/hierarchy.md" and issue == f"{REPOSITORY}/issues/new?title=x"
    assert (ROOT / "book" / "hierarchy.md").is_file()
    clean, executed, paper = page["header_buttons"][2]["buttons"]
    assert (clean["url"], executed["url"]) == ("../notebooks/hierarchy.ipynb", "../notebooks/executed/hierarchy.ipynb")
    assert paper["label"] == "download-pdf-button"


def test_pages_without_code_keep_their_links():
    page = context(".md")
    launch.rewrite_buttons(application(), "book/intro", "page.html", page, None)
    assert page["header_buttons"][1]["buttons"][0]["url"].endswith("/edit/main/book/hierarchy.md")
    assert page["header_buttons"][2]["buttons"][0]["label"] == "download-source-button"
    assert page["language"] == "ja" and "<th>" not in page["body"]


def test_long_lines_can_be_scrolled_by_keyboard():
    page = {**context(), "body": f"<pre><span>{'x' * 90}</span></pre><pre><span>{'y' * 9}</span>&lt;</pre>"}
    launch.rewrite_buttons(application(), "book/hierarchy", "page.html", page, None)
    assert page["body"].count('<pre tabindex="0">') == 1 and page["body"].count("<pre>") == 1


@pytest.mark.parametrize("address", ["", REPOSITORY])
def test_buttons_are_there_exactly_when_the_repository_is_known(address):
    app = application(repository_url=address, launch_buttons={"colab_url": "https://colab.research.google.com"})
    launch.choose_buttons(app, app.config)
    options = app.config.html_theme_options
    assert bool(options["launch_buttons"]) == options["use_edit_page_button"] == bool(address)


def test_the_repository_stands_in_one_place(monkeypatch):
    monkeypatch.delenv("REPOSITORY", raising=False)
    assert chapters.repository() == yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    monkeypatch.setenv("REPOSITORY", f"{REPOSITORY}.git")
    assert chapters.repository() == REPOSITORY
    config = yaml.safe_load(stage.configuration())
    assert config["repository"]["url"] == REPOSITORY
    assert config["execute"]["execute_notebooks"] == "off"  # still a text, not a truth value
