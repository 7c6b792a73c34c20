"""The smallest server that embeds the core: ``python -m support.core_host``.

It serves ``support.crash_app`` on the port ``CRASH_PORT`` (0: any) and writes the port to the file
``CRASH_READY``. Clients at wait URLs are held for ``CRASH_HOLD`` seconds. With ``CRASH_LAZY`` the
first request starts the engine. SIGTERM and SIGINT stop it in good order.
"""

from __future__ import annotations

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from durable_core import Request
from durable_core.stop_notice import SignalEvent
from support.crash_app import application, durable

__all__ = ["announce", "main"]

_HOLD = float(os.environ.get("CRASH_HOLD", "25"))


class _Handler(BaseHTTPRequestHandler):
    def _serve(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        request = Request(
            method=self.command,
            url=f"http://{self.headers.get('host') or 'localhost'}{self.path}",
            headers=list(self.headers.items()),
            body=self.rfile.read(length),
        )
        response = application.endpoint.handle(request, max_wait=_HOLD)
        assert isinstance(response.body, bytes)
        self.send_response_only(response.status)
        for name, value in response.headers.raw:
            self.send_header(name, value)
        if response.status != 204:
            self.send_header("content-length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - names that http.server calls

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the tests read the log."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128


def announce(port: int) -> None:
    """Tell the test that the port is served."""
    ready = Path(os.environ["CRASH_READY"])
    part = ready.with_suffix(".part")
    part.write_text(str(port), "utf-8")
    part.rename(ready)


def main() -> None:
    """Serve until a signal comes."""
    stopping = SignalEvent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    server = _Server(("127.0.0.1", int(os.environ.get("CRASH_PORT", "0"))), _Handler)
    if "CRASH_LAZY" not in os.environ:
        durable.start()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    announce(server.server_address[1])
    stopping.wait()
    server.shutdown()
    durable.stop()
    server.server_close()


if __name__ == "__main__":
    main()
