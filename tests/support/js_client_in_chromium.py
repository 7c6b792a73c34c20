"""The JavaScript client in a page of Chromium, as the conformance suite calls clients."""

from __future__ import annotations

import atexit
import base64
import shutil
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from durable_client import ClientResponse
from durable_core.http.headers import Headers
from support.js_client import error_of, event_of
from support.source_tree import ROOT

__all__ = ["browser_path", "call", "clients"]

_SOURCE = ROOT / "clients" / "js" / "durable-client.js"
_FUNCTION = "fetchWithStream"
_CALL = """async ({ url, timeout, ...request }) => {
  const say = kind => event => window.say(kind, event)
  try {
    const response = await window.fetchWithStream(url, {
      ...request,
      signal: AbortSignal.timeout(timeout),
      onMetadata: say('metadata'),
      onData: say('data'),
      onCommit: say('commit'),
      onRollback: say('rollback'),
    })
    const body = new Uint8Array(await response.arrayBuffer())
    return {
      status: response.status,
      headers: [...response.headers],
      body: btoa(Array.from(body, each => String.fromCharCode(each)).join('')),
    }
  } catch (error) {
    return { error: [error.name, error.message] }
  }
}"""
#: Playwright belongs to the thread that it was started in.
_browsers = threading.local()


def browser_path() -> str | None:
    """Return where Chromium is; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def _browser() -> Browser:
    if not hasattr(_browsers, "browser"):
        playwright = sync_playwright().start()
        launch = playwright.chromium.launch
        _browsers.browser = launch(executable_path=browser_path(), args=["--no-sandbox"])
        atexit.register(playwright.stop)
    browser: Browser = _browsers.browser
    return browser


def _open(url: str) -> Page:
    """Open an empty page of the same origin, with the client; the server is not asked for it."""
    parts = urlsplit(url)
    page = _browser().new_page()
    for path in ("/empty-page", "/favicon.ico"):
        page.route(f"**{path}", lambda route: route.fulfill(content_type="text/html"))
    page.goto(f"{parts.scheme}://{parts.netloc}/empty-page")
    source = _SOURCE.read_text("utf-8")
    page.add_script_tag(type="module", content=f"{source}\nwindow.{_FUNCTION} = {_FUNCTION}")
    page.wait_for_function(f"window.{_FUNCTION}")
    return page


def call(url: str, *, timeout: float = 30.0, **options: Any) -> ClientResponse:
    """Call an endpoint; pass what the client is told on to the callbacks.

    Raises:
        StreamEndedError: no response came.
        JavaScriptError: what else the client has thrown.
    """
    names = ("metadata", "data", "commit", "rollback")
    on: dict[str, Callable[[object], object] | None] = {
        name: options.pop(f"on_{name}", None) for name in names
    }
    if "max_reconnects" in options:
        options["maxReconnects"] = options.pop("max_reconnects")
    headers = list(Headers(options.pop("headers", ())).items())
    argument = {"url": url, "headers": headers, "timeout": round(timeout * 1000), **options}

    def say(source: object, kind: str, value: Mapping[str, Any]) -> None:
        callback = on[kind]
        if callback is not None:
            callback(event_of(kind, value))

    page = _open(url)
    try:
        page.expose_binding("say", say)
        found = page.evaluate(_CALL, argument)
    finally:
        page.close()
    if "error" in found:
        raise error_of(*found["error"])
    body = base64.b64decode(found["body"])
    return ClientResponse(found["status"], Headers(found["headers"]), body)


#: What the suite calls servers with.
clients: Mapping[str, Callable[..., ClientResponse]] = {"chromium": call}
