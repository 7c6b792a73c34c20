"""A request whose body is not stored with its run: ``endpoint(omit_request_body=True)``."""

from __future__ import annotations

from durable_core.errors import BodyNotStoredError
from durable_core.flow.attempt import StepAttempt
from durable_core.flow.scope import CURRENT_RUN
from durable_core.http.request import Request

__all__ = ["OmittedBodyRequest"]


class OmittedBodyRequest(Request):
    """The request as a handler gets it: code that a replay repeats cannot read the body.

    The functions of steps can, in the process that has the client's request, and so can the hooks
    that are called before the run begins. The body of a replay's request is gone.
    """

    __slots__ = ("_kept",)
    _kept: bytes | None

    @classmethod
    def of(cls, request: Request, *, is_stored: bool = False) -> OmittedBodyRequest:
        """Return a request like this one, whose body is kept in memory only.

        Args:
            request: what the client has sent, or what is stored of it.
            is_stored: it is what is stored, without the body.
        """
        omitted = cls(
            method=request.method,
            url=request.url,
            headers=request.headers,
            path_params=request.path_params,
            root_path=request.root_path,
        )
        object.__setattr__(omitted, "_kept", None if is_stored else request.body)
        if request.principal is not None:
            object.__setattr__(omitted, "_principal", request.principal)
        return omitted

    @property
    def body(self) -> bytes:
        """The body, where it may be read.

        Raises:
            BodyNotStoredError: here a replay would need it, or this is a replay.
        """
        scope = CURRENT_RUN.get()
        if self._kept is not None and (scope is None or isinstance(scope, StepAttempt)):
            return self._kept
        raise BodyNotStoredError(
            "the body of this request is not stored with the run (omit_request_body=True), so a "
            "replay cannot read it: read it in the function of a step, and return what is needed "
            "later; a step that is tried again in a replay fails"
        )

    @body.setter
    def body(self, body: bytes) -> None:
        """Take the body that ``Request.__init__`` sets, which is empty."""
