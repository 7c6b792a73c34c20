"""Durable endpoints in a server of your own: only the core, without an adapter.

``python examples/embed_custom_server.py [PORT]``, then ``curl -L localhost:8000/greet?name=ada``.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from durable_core import Durable, Request, Response, endpoint_adapter
from durable_core.sync import step

durable = Durable(id="embedded", endpoint_adapter=endpoint_adapter)


@durable.endpoint
def greet(request: Request) -> Response:
    """Look a person up, sleep, and greet the person."""
    name = step.run("look-up", str.title, request.query["name"])
    step.sleep("nap", request.query.get("nap") or "1s")
    return Response.text(f"Hello {name}\n")


class Handler(BaseHTTPRequestHandler):
    """Converts each HTTP request to a Request, and sends the Response."""

    def do_GET(self) -> None:
        """Answer one request."""
        url = f"http://{self.headers.get('host', 'localhost')}{self.path}"
        request = Request(method=self.command, url=url, headers=list(self.headers.items()))
        response = greet.handle(request)
        assert isinstance(response.body, bytes)  # `greet` streams nothing
        self.send_response(response.status)
        for name, value in response.headers.raw:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(response.body)


def main(port: int = 8000) -> None:
    """Serve until Ctrl-C."""
    durable.start()
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"serving on http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        durable.stop()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
