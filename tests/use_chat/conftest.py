"""Chromium, and the page with the real hook, of the AI SDK 7, 6 and 5."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from support.node import USE_CHAT, install

#: The packages of each version.
_ALIASES = {
    7: (),
    6: ("--alias:@ai-sdk/react=ai-sdk-react-6", "--alias:ai=ai-6"),
    5: ("--alias:@ai-sdk/react=ai-sdk-react-5", "--alias:ai=ai-5"),
}


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Path]:
    """The bundled page, by the version of the SDK."""
    folder, made = install(USE_CHAT), tmp_path_factory.mktemp("pages")
    bundled = {}
    for version, aliases in _ALIASES.items():
        bundled[version] = made / f"page-{version}.js"
        subprocess.run(
            [
                *("node_modules/.bin/esbuild", "page.jsx", "--bundle", "--jsx=automatic"),
                *("--minify", "--log-level=warning", f"--outfile={bundled[version]}"),
                *('--define:process.env.NODE_ENV="production"', *aliases),
            ],
            cwd=folder,
            check=True,
        )
    return bundled


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser without a window. While it is there, no other event loop runs in this thread."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed, so no browser can be run")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
