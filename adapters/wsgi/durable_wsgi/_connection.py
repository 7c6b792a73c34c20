"""One connection of our own server: a request is read, refused or answered, and that is all.

What differs from ``wsgiref.simple_server``: the size of a request's head is limited; malformed and
ambiguous requests are refused, with problem documents; the path is passed on as it was sent; a
client that waits for ``100 Continue`` gets it; a response that breaks off is seen to do so.
"""

from __future__ import annotations

import io
import logging
import re
import socketserver
import sys
from typing import IO, Any, cast
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.types import WSGIApplication, WSGIEnvironment

from durable_core import BadRequest, HTTPError
from durable_core.http.problem import problem_from_http_error
from durable_core.platform import lingering_close
from durable_wsgi._closing import reset_on_close
from durable_wsgi._exchange import Exchange
from durable_wsgi._request import content_length
from durable_wsgi._response import to_answer
from durable_wsgi._streams import HeadReader, HeadTooLargeError, RequestBody

__all__ = ["Connection"]

_logger = logging.getLogger("durable.wsgi")
_ABSOLUTE = re.compile(r"https?://([^/?#]+)(.*)", re.IGNORECASE)


class Connection(WSGIRequestHandler):
    """Reads one request, has it answered by a WSGI application, and closes.

    Args:
        request, client_address, server: see ``socketserver.BaseRequestHandler``.
        application: what answers.
        head_limit: the most bytes of a request's line and header fields; beyond it 431.
        timeout: the most seconds that a client may take to send or receive something.
    """

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a response's head and its first chunk leave together
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
        self.request.settimeout(self._timeout)
        super().setup()

    def handle(self) -> None:
        """Read the request and answer it."""
        self.requestline, self.request_version = "", self.protocol_version
        self.command = self.path = "-"
        try:
            if not self._read_head():
                return
            self._check_head()
            environ = self.get_environ()
            length = content_length(environ) or 0
        except HTTPError as error:
            self._refuse(error)
            return
        before_read = self._continue if self._expects else None
        self._body = RequestBody(self.rfile, length, before_read)
        stdin = io.BufferedReader(self._body)
        Exchange(self, stdin, cast("IO[bytes]", self.wfile), sys.stderr, environ).run(
            self._application
        )

    def finish(self) -> None:
        """Send what is left to be sent, and see that it arrives."""
        try:
            super().finish()
        finally:
            self.rfile.close()  # which the base class forgets when the client is gone
        if self._refused or (self._body is not None and self._body.left):
            # Closing with unread data would reset the connection, and the answer would be lost.
            lingering_close(self.connection)

    # -- the head ---------------------------------------------------------------------------

    def _read_head(self) -> bool:
        whole = self.rfile
        try:
            self.rfile = HeadReader(whole, self._head_limit)
            self.raw_requestline = self.rfile.readline()
            return self.parse_request()
        except HeadTooLargeError:
            raise HTTPError(431, f"at most {self._head_limit} bytes are accepted") from None
        finally:
            self.rfile = whole

    def _check_head(self) -> None:
        """Refuse what could be understood in more than one way (RFC 9112)."""
        headers = self.headers
        if self.request_version == "HTTP/0.9":
            raise HTTPError(505, "the request must be HTTP/1.1 or HTTP/1.0")
        if headers.defects or headers.get_payload():
            raise BadRequest("a header field is malformed")
        if "transfer-encoding" in headers:
            raise HTTPError(411, "the request must have a content-length, chunks are not accepted")
        if "host" not in headers and self.request_version != "HTTP/1.0":
            raise BadRequest("the Host header is missing")
        for name in {name for name in headers if "_" in name}:
            del headers[name]  # in the environ it would look like the field with a dash
        self._check_target()

    def _check_target(self) -> None:
        absolute = _ABSOLUTE.fullmatch(self.path)
        if absolute is not None:
            del self.headers["host"]
            self.headers["host"], self.path = absolute.groups()
        if self.path == "*" or self.path.startswith("?") or not self.path:
            self.path = f"/{self.path.lstrip('*')}"
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

    # -- answers of the server's own --------------------------------------------------------

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that cannot be parsed."""
        # The message holds the request line, which may hold a token.
        self._refuse(HTTPError(int(code), "the head of the request is malformed"))

    def _refuse(self, error: HTTPError) -> None:
        self._refused = True
        answer = to_answer(problem_from_http_error(error), head=self.command == "HEAD")
        status, _, phrase = answer.status.partition(" ")
        self.request_version = self.protocol_version
        self.log_request(status)
        self.send_response_only(int(status), phrase)
        for name, value in (*answer.headers, ("connection", "close")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.writelines(answer.body)

    def abort(self) -> None:
        """Have the connection reset instead of closed: what was sent is not all there is."""
        reset_on_close(self.connection)

    # -- logging ----------------------------------------------------------------------------

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log an answered request; its query may hold a token and is left out."""
        path = self.path.partition("?")[0]
        _logger.info('%s "%s %s" %s %s', self.client_address[0], self.command, path, code, size)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing else: the library's other messages would repeat what is logged already."""
