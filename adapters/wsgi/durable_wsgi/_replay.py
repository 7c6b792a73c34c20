"""Stored requests, sent through the WSGI application of a framework again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any
from urllib.parse import unquote, urlsplit
from wsgiref.types import StartResponse, WSGIEnvironment

from durable_core import Request, Response
from durable_core.adapters import NotReachedError

__all__ = ["WSGIReplay", "replay_environ"]


class WSGIReplay:
    """A run's request on its way through the application to the run's view.

    Args:
        request: the stored request.
        function: the view.
        key: of the environ; under it the application finds this.

    Attributes:
        function: the view.
    """

    def __init__(self, request: Request, function: Callable[..., Any], key: str) -> None:
        self._request = request
        self.function = function
        self._key = key
        self._response: Response | None = None
        self._error: Exception | None = None
        self._status = ""

    def run(
        self, application: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]
    ) -> Response:
        """Send the request through an application; return the response of the view.

        Raises:
            NotReachedError: it was answered without a call of the view.
            Exception: what the view raised.
        """
        environ = {**replay_environ(self._request), self._key: self}
        answer = application(environ, self._start_response)
        try:
            for _ in answer:
                pass
        finally:
            if hasattr(answer, "close"):
                answer.close()
        if self._error is not None:
            raise self._error
        if self._response is None:
            raise NotReachedError(
                f"in a replay the application answered {self._status!r} before it reached the "
                "view: middleware or a function before the request may need what is not stored "
                "with the run, such as the header Authorization; see durable.is_replaying()"
            )
        return self._response

    def reach(self, function: Callable[..., Any], respond: Callable[[], Response]) -> bool:
        """Have a view that the application calls respond, if it is the run's.

        Args:
            function: the view.
            respond: calls it.

        Returns:
            Whether it was; the application then gets a response that nobody reads. False for
            another view, which this one calls, and after the first call.
        """
        if function is not self.function or self._response or self._error:
            return False
        try:
            self._response = respond()
        except Exception as error:
            self._error = error
        return True

    def _start_response(self, status: str, *_: object) -> Callable[[bytes], None]:
        self._status = status
        return lambda data: None


def replay_environ(request: Request) -> WSGIEnvironment:
    """Return the environ that sends a stored request through an application again.

    There is no client, and nothing that the server or another application had put into the environ.
    """
    url = urlsplit(request.url)
    root = request.root_path
    path = unquote(url.path, "latin-1")
    root_octets = root.encode().decode("latin-1")
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": root_octets,
        "PATH_INFO": path.removeprefix(root_octets),
        "QUERY_STRING": url.query,
        "REQUEST_URI": f"{url.path}?{url.query}" if url.query else url.path,
        "SERVER_NAME": url.hostname or "localhost",
        "SERVER_PORT": str(url.port or (443 if url.scheme == "https" else 80)),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": url.netloc,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": url.scheme,
        "wsgi.input": BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "CONTENT_LENGTH": str(len(request.body)),
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_LENGTH", "HOST"):
            environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    return environ
