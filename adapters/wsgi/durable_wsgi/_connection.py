"""One connection of our own server: a request is read, refused or answered, and that is all.

What differs from ``wsgiref.simple_server``: a client has a deadline for its request; the size of
a request's head is limited; malformed and ambiguous requests are refused, with problem documents;
the path is passed on as it was sent; a client that waits for ``100 Continue`` gets it; a response
that breaks off, or that its client does not take in, is seen to do so.
"""

from __future__ import annotations

import io
import logging
import re
import socket
import socketserver
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import IO, Any, cast
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.types import WSGIApplication, WSGIEnvironment

from durable_core import BadRequest, HTTPError
from durable_core.adapters import (
    lingering_close,
    loggable_path,
    parse_content_length,
    problem_from_http_error,
    reset_on_close,
    split_target,
)
from durable_wsgi._handler import Handler
from durable_wsgi._streams import RequestBody, SocketReader, SocketWriter, read_head

__all__ = ["Connection", "refuse"]

_logger = logging.getLogger("durable.wsgi")
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
#: A request line (RFC 9112, section 3), and the lines of its fields, none of them folded.
_HEAD = re.compile(
    rb"%b [^\x00-\x20\x7f]+ HTTP/[0-9]\.[0-9]\r\n(?:%b:[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*\r\n"
    % (_TOKEN, _TOKEN)
)


class Connection(WSGIRequestHandler):
    """Reads one request, has it answered by a WSGI application, and closes.

    Args:
        request, client_address, server: see ``socketserver.BaseRequestHandler``.
        application: what answers.
        head_limit: the most bytes of a request's line and header fields; beyond it 431.
        timeout: seconds that a client may take for its whole request, and a second more for each
            1,000 bytes of it that have come; and for taking in 64 KiB of a response.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(
        self,
        request: Any,
        client_address: Any,
        server: socketserver.BaseServer,
        *,
        application: WSGIApplication,
        head_limit: int,
        timeout: float,
    ) -> None:
        self._timeout = timeout
        self._application = application
        self._head_limit = head_limit
        self._body: RequestBody | None = None
        self._expects = self._refused = False
        super().__init__(request, client_address, server)

    def setup(self) -> None:
        """Let nothing that is sent or received take too long."""
        super().setup()
        self.rfile.close()
        self._reader = SocketReader(self.connection, self._timeout)
        self.rfile = io.BufferedReader(self._reader)
        # A response's head and its first chunk leave together.
        self.wfile = io.BufferedWriter(SocketWriter(self.connection, self._timeout))

    def handle(self) -> None:
        """Read the request and answer it."""
        self.requestline, self.request_version = "", self.protocol_version
        self.command = self.path = "-"
        try:
            if not self._read_head():
                return
            environ = self.get_environ()
            length = parse_content_length(environ["CONTENT_LENGTH"]) or 0
        except TimeoutError:
            if self._reader.came:
                self._refuse(HTTPError(408, "the request did not come in time"))
            return
        except HTTPError as error:
            self._refuse(error)
            return
        before_read = self._continue if self._expects else None
        self._body = RequestBody(self.rfile, length, before_read)
        stdin = io.BufferedReader(self._body)
        Handler(self, stdin, cast("IO[bytes]", self.wfile), sys.stderr, environ).run(
            self._application
        )

    def finish(self) -> None:
        """Send what is left to be sent, and see that it arrives."""
        try:
            super().finish()
        except OSError:
            self.abort()
            raise
        finally:
            self.rfile.close()  # which the base class forgets when the client is gone
        if self._refused or (self._body is not None and self._body.left):
            # Closing with unread data would reset the connection, and the answer would be lost.
            lingering_close(self.connection)

    def _read_head(self) -> bool:
        """Read and check the head; False if the client closes in place of sending one."""
        whole = self.rfile
        head = read_head(whole, self._head_limit)
        if not head:
            return False
        if _HEAD.fullmatch(head) is None:
            raise BadRequest("the head of the request is malformed")
        line, end, fields = head.partition(b"\r\n")
        try:
            self.raw_requestline, self.rfile = line + end, io.BytesIO(fields)
            if not self.parse_request():
                return False
        finally:
            self.rfile = whole
        self._check_head()
        return True

    def _check_head(self) -> None:
        """Refuse what could be understood in more than one way (RFC 9112)."""
        headers = self.headers
        if not self.request_version.startswith("HTTP/1."):
            raise HTTPError(505, "the request must be HTTP/1.1 or HTTP/1.0")
        if "transfer-encoding" in headers:
            raise HTTPError(411, "the request must have a content-length, chunks are not accepted")
        hosts = headers.get_all("host", ())
        if len(hosts) > 1 or (not hosts and self.request_version != "HTTP/1.0"):
            raise BadRequest("there must be one Host header")
        for name in {name for name in headers if "_" in name}:
            del headers[name]  # in the environ it would look like the field with a dash
        authority, self.path = split_target(self.path)
        if authority is not None:
            del headers["host"]
            headers["host"] = authority
        if not self.path.startswith("/"):
            raise BadRequest("the request target must be a path or a URL")

    def get_environ(self) -> WSGIEnvironment:
        """Return the environ, with what wsgiref leaves out and without what it makes up."""
        environ = super().get_environ()
        environ["REQUEST_URI"] = self.path
        environ["CONTENT_TYPE"] = self.headers.get("content-type", "")
        environ["CONTENT_LENGTH"] = ", ".join(self.headers.get_all("content-length", ()))
        environ["wsgi.input_terminated"] = True
        return environ

    def handle_expect_100(self) -> bool:
        """Wait with ``100 Continue`` until somebody wants to read the body."""
        self._expects = True
        return True

    def _continue(self) -> None:
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.wfile.flush()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that cannot be parsed."""
        # The message holds the request line, which may hold a token.
        self._refuse(HTTPError(int(code), "the head of the request is malformed"))

    def _refuse(self, error: HTTPError) -> None:
        self._refused = True
        response = problem_from_http_error(error)
        body = cast(bytes, response.body)
        self.request_version = self.protocol_version
        self.log_request(response.status)
        self.send_response_only(response.status, HTTPStatus(response.status).phrase)
        for name, value in response.headers.raw:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def abort(self) -> None:
        """Have the connection reset instead of closed: what was sent is not all there is."""
        reset_on_close(self.connection)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log an answered request; its query may hold a token and is left out."""
        path = loggable_path(self.path)
        _logger.info('%s "%s %s" %s %s', self.client_address[0], self.command, path, code, size)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing else: the library's other messages would repeat what is logged already."""


def refuse(connection: socket.socket) -> None:
    """Tell a client that there are too many, without having read what it wants, or waiting."""
    detail = "too many clients are connected"
    busy = problem_from_http_error(HTTPError(503, detail, {"retry-after": "1"}))
    fields = "".join(f"{name}: {value}\r\n" for name, value in busy.headers.raw)
    head = f"HTTP/1.1 503 Service Unavailable\r\n{fields}connection: close\r\n"
    body = cast(bytes, busy.body)
    connection.setblocking(False)
    with suppress(OSError):
        connection.send(f"{head}content-length: {len(body)}\r\n\r\n".encode("latin-1") + body)
        # Closing with unread data would reset the connection, and the answer could be lost.
        while connection.recv(65536):
            pass
