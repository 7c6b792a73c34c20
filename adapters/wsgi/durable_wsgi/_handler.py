"""One call of a WSGI application by our own server, and how its response is framed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, MutableMapping
from typing import IO, Protocol
from wsgiref.handlers import SimpleHandler
from wsgiref.headers import Headers
from wsgiref.types import ErrorStream, InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from durable_core.adapters import ClientDisconnectedError, problem
from durable_wsgi._exchange import request_line

__all__ = ["Handler", "Peer"]

_logger = logging.getLogger("durable.wsgi")


class Peer(Protocol):
    """What a handler needs of its connection, besides the streams."""

    def abort(self) -> None:
        """Have the connection reset instead of closed."""
        ...

    def log_request(self, code: int | str = ..., size: int | str = ...) -> None:
        """Log an answered request."""
        ...


class Handler(SimpleHandler):
    """Runs the application once; the connection ends with its response.

    A body of unknown length is sent in chunks, so that its client sees whether it has all of it.

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
        self._chunked = self._coding = False

    def run(self, application: WSGIApplication) -> None:
        """Call the application and send its response.

        An exception becomes a 500, or cuts the response off where that has begun.
        """
        try:
            self._run(application)
        except ClientDisconnectedError:
            _logger.debug("a client went away before it had its response")
            self._peer.abort()

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
        response = problem(500, "internal-error")
        body = response.body if environ["REQUEST_METHOD"] != "HEAD" else b""
        assert isinstance(body, bytes)
        start_response("500 Internal Server Error", [*response.headers.raw], sys.exc_info())
        return [body]

    def cleanup_headers(self) -> None:
        """Set the fields that are the server's business."""
        super().cleanup_headers()
        headers = self.headers
        has_no_content = self.status.startswith(("204", "304"))
        if has_no_content:
            del headers["content-length"]  # which wsgiref has set to 0
        headers["connection"] = "close"
        self._chunked = (
            not has_no_content
            and "content-length" not in headers
            and self.environ["REQUEST_METHOD"] != "HEAD"
            and self.environ["SERVER_PROTOCOL"] == "HTTP/1.1"
        )
        if self._chunked:
            headers["transfer-encoding"] = "chunked"

    def send_headers(self) -> None:
        """Send the head, which is not in chunks itself."""
        super().send_headers()
        self._coding = self._chunked

    def finish_content(self) -> None:
        """Send the end of the body; the head, too, of a response without content."""
        if not self.headers_sent:
            if self.environ["REQUEST_METHOD"] != "HEAD":  # to which its length may be unknown
                self.headers.setdefault("content-length", "0")
            self.send_headers()
        if self._coding:
            self._send(b"0\r\n\r\n")

    def close(self) -> None:
        """Close the application's iterable; the response has been sent by now."""
        self._peer.log_request(self.status[:3], self.bytes_sent)
        try:
            super().close()
        except Exception:
            _logger.exception("a response body could not be closed")

    def _write(self, data: bytes) -> None:
        if self._coding:  # an empty chunk would be the last
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self._send(data)

    def _send(self, data: bytes) -> None:
        try:
            self.stdout.write(data)
        except OSError as error:
            raise ClientDisconnectedError("the client is gone, or too slow") from error

    def _flush(self) -> None:
        try:
            self.stdout.flush()
        except OSError as error:
            raise ClientDisconnectedError("the client is gone, or too slow") from error
