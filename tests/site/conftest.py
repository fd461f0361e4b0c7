"""The site, served to a headless Chromium; every test of this folder is skipped where there is none."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading

import pytest

from narrowlib.store.downloads import Archive, UnavailableError, fetch, members

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
AXE = Archive(
    "npm",
    "axe-core",
    "4.10.3",
    "axe-core-4.10.3.tgz",
    "0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292",
)


@pytest.fixture(scope="session")
def address(smoke_book):
    """The site, served."""
    handler = functools.partial(QuietHandler, directory=smoke_book / "_build" / "html")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def browser():
    if BROWSER is None:
        pytest.skip("no Chromium on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Open a page and collect what goes wrong on it."""
    contexts = []

    def open_page(page, *, width=1440, scheme="light", touch=False, scripts=True):
        how = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme, "reduced_motion": "reduce"}
        how |= {"has_touch": touch, "java_script_enabled": scripts}
        context = browser.new_context(**how)  # without motion no colour is caught on its way
        contexts.append(context)
        tab = context.new_page()
        tab.problems = []
        tab.on("console", lambda message: message.type == "error" and tab.problems.append(message.text))
        tab.on("pageerror", lambda error: tab.problems.append(str(error)))
        tab.on("requestfailed", lambda request: tab.problems.append(f"failed: {request.url}"))
        tab.on(
            "request", lambda request: request.url.startswith((address, "data:")) or tab.problems.append(request.url)
        )
        tab.on(
            "response", lambda answer: answer.status >= 400 and tab.problems.append(f"{answer.status}: {answer.url}")
        )
        tab.goto(f"{address}/{page}.html", wait_until="networkidle")
        return tab

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def axe():
    """The accessibility checker, fetched for these tests only."""
    try:
        archive = fetch(AXE)
    except UnavailableError as error:
        pytest.skip(str(error))
    ((_, script),) = members(archive, lambda name: name == "package/axe.min.js")
    return script.decode()
