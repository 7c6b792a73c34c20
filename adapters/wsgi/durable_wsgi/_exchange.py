"""One call of a WSGI application by our own server, and the response that it sends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import IO, Protocol
from wsgiref.handlers import SimpleHandler
from wsgiref.headers import Headers
from wsgiref.types import ErrorStream, InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from durable_core.adapter.asynchronous import ClientDisconnectedError
from durable_core.http.problem import problem
from durable_wsgi._request import request_line
from durable_wsgi._response import to_answer

__all__ = ["Exchange", "Peer"]

_logger = logging.getLogger("durable.wsgi")


class Peer(Protocol):
    """What an exchange needs of its connection, besides the streams."""

    def abort(self) -> None:
        """Have the connection reset instead of closed."""
        ...

    def log_request(self, code: int | str = ..., size: int | str = ...) -> None:
        """Log an answered request."""
        ...


class Exchange(SimpleHandler):
    """Runs the application once; its response ends with the connection.

    Args:
        peer: the connection.
        stdin, stdout, stderr: the request's body, the way to the client, ``wsgi.errors``.
        environ: describes the request.
    """

    http_version = "1.1"
    # The variables of the process are none of a request's business.
    os_environ: MutableMapping[str, str] = {}  # noqa: RUF012 - the base class declares it so

    environ: WSGIEnvironment
    headers: Headers
    headers_sent: bool
    bytes_sent: int
    status: str
    result: Iterable[bytes]

    def __init__(
        self,
        peer: Peer,
        stdin: InputStream,
        stdout: IO[bytes],
        stderr: ErrorStream,
        environ: WSGIEnvironment,
    ) -> None:
        super().__init__(stdin, stdout, stderr, environ, multithread=True, multiprocess=False)
        self._peer = peer

    def run(self, application: WSGIApplication) -> None:
        """Call the application and send its response.

        An exception becomes a 500, or cuts the response off where that has begun.
        """
        try:
            self._run(application)
        except ClientDisconnectedError:
            _logger.debug("a client went away before it had its response")

    def _run(self, application: WSGIApplication) -> None:
        try:
            self.setup_environ()
            self.result = application(self.environ, self.start_response)
            self.finish_response()
        except ClientDisconnectedError:
            raise
        except Exception:
            _logger.exception("%s failed", request_line(self.environ))
            if self.headers_sent:
                self._peer.abort()
            else:
                self.result = self.error_output(self.environ, self.start_response)
                self.finish_response()

    def error_output(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer in place of an application that has failed."""
        head = environ["REQUEST_METHOD"] == "HEAD"
        answer = to_answer(problem(500, "internal-error"), head=head)
        start_response(answer.status, answer.headers, sys.exc_info())
        return list(answer.body)

    def cleanup_headers(self) -> None:
        """Set the fields that are the server's business."""
        super().cleanup_headers()
        if self.status.startswith(("204", "304")):
            del self.headers["content-length"]  # which wsgiref has set to 0
        self.headers["connection"] = "close"

    def finish_content(self) -> None:
        """Send the head of a response without content; to HEAD its length may be unknown."""
        if not self.headers_sent:
            if self.environ["REQUEST_METHOD"] != "HEAD":
                self.headers.setdefault("content-length", "0")
            self.send_headers()

    def close(self) -> None:
        """Close the application's iterable; the response has been sent by now."""
        self._peer.log_request(self.status[:3], self.bytes_sent)
        try:
            super().close()
        except Exception:
            _logger.exception("a response body could not be closed")

    def _write(self, data: bytes) -> None:
        with _client_errors():
            self.stdout.write(data)

    def _flush(self) -> None:
        with _client_errors():
            self.stdout.flush()


@contextmanager
def _client_errors() -> Iterator[None]:
    """Tell errors of the connection from those of the application."""
    try:
        yield
    except OSError as error:
        raise ClientDisconnectedError("the client is gone, or too slow") from error
