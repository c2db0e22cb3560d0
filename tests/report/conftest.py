"""A headless Chromium for the tests that open pages."""

import shutil

import pytest
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # A container's root user and small /dev/shm need the two flags.
        started = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.fixture
def show(browser, tmp_path):
    """``show(markup, **of the window) -> page``; what it asked for and said is in its lists."""
    contexts = []

    def open_page(markup, **options):
        path = tmp_path / "page.html"
        path.write_text(markup, encoding="utf-8")
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.requests, page.messages = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("console", lambda message: page.messages.append(message.text))
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.goto(path.as_uri())
        page.address = path.as_uri()
        return page

    yield open_page
    for context in contexts:
        context.close()
