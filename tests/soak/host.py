"""One process of the soak: ``python -m soak.host {wsgi,asyncio,uvicorn,worker} PORT``.

The servers are those of the adapters; that of the ASGI adapter runs on uvicorn. SIGTERM stops each
in good order. The worker serves nothing.
"""

from __future__ import annotations

import importlib
import os
import sys

__all__ = ["ADAPTERS", "main"]

#: The module whose adapter wraps the endpoints, for each kind of process.
ADAPTERS = {
    "wsgi": "durable_wsgi",
    "asyncio": "durable_asyncio",
    "uvicorn": "durable_asgi",
    "worker": "durable_core",
}


def main(kind: str, port: int) -> None:
    """Serve, or work, until a signal comes."""
    os.environ["SOAK_ADAPTER"] = ADAPTERS[kind]
    from soak.application import application  # reads the environment

    if kind == "worker":
        from durable_core.cli.application import work

        work("soak.application:durable")
    else:
        server = importlib.import_module(ADAPTERS[kind]).create_endpoint_server(application)
        server.listen(port).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
