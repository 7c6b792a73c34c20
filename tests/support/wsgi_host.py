"""The application on the WSGI adapter's own server: ``python -m support.wsgi_host``.

It serves ``support.crash_app`` on the port ``CRASH_PORT`` (0: any) and writes the port to the file
``CRASH_READY``.
"""

from __future__ import annotations

import os

from durable_wsgi import create_endpoint_server
from support.core_host import announce
from support.crash_app import application

__all__ = ["main"]


def main() -> None:
    """Serve until a signal comes."""
    server = create_endpoint_server(application).listen(int(os.environ.get("CRASH_PORT", "0")))
    announce(server.port)
    server.serve_forever()


if __name__ == "__main__":
    main()
