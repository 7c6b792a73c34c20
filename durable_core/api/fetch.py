"""``step.fetch``: a call of another service that is made once and for all."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from durable_core.api.function_steps import current_scope, named, parsed
from durable_core.duration import Duration
from durable_core.flow.scope import HandlerKind, RunScope
from durable_core.flow.server_calls import ServerGateway
from durable_core.flow.step_options import StepOptions, call_options, merge_options

if TYPE_CHECKING:
    from durable_core.api.outgoing import AsyncClient, Client, OutgoingCall
    from durable_core.http.headers import HeaderFields
    from durable_core.http.response import FetchedResponse

__all__ = ["AsyncFetchSteps", "FetchSteps"]

_MAX_BYTES = 1024 * 1024
_TIMEOUT = "30s"


class AsyncFetchSteps:
    """The steps of ``async def`` handlers that call another service."""

    _options: StepOptions | None

    def fetch(
        self,
        id: str,
        url: str,
        *,
        method: str = "GET",
        headers: HeaderFields = (),
        body: bytes | str | None = None,
        json: object = None,
        timeout: Duration | None = None,
        max_bytes: int = _MAX_BYTES,
        retries: int | None = None,
        client: AsyncClient | ServerGateway | None = None,
    ) -> Coroutine[Any, Any, FetchedResponse]:
        """Call another service; the response is stored, and replay gets it from there.

        The call is made again, up to ``retries`` times, if the connection fails, or the service
        answers 429 or 5xx; then as late as its ``Retry-After`` says, up to an hour. Every other
        status is returned. Redirects are not followed: they are returned, too.

        Args:
            id: the step's id.
            url: absolute, ``http`` or ``https``.
            method: such as ``"POST"``. POST and PATCH get an ``Idempotency-Key``, the same in all
                attempts, unless ``headers`` has one.
            headers: of the request. They are not stored.
            body: bytes, or text, which is sent as UTF-8. It is not stored.
            json: a value to send as JSON, in place of ``body``.
            timeout: how long one attempt may take; a duration. Default: that of ``step.options``,
                else 30 s.
            max_bytes: how large the body of the response may be.
            retries: how often to try again, 0 to 20. Default: that of ``step.options``, else of the
                endpoint.
            client: an ``AsyncClient`` of ``httpx2`` or ``httpx`` to call with. Default: one of the
                package ``durable-client`` for this call. Under an engine with a server, a gateway
                such as ``InngestGateway()``: the server makes the call.

        Returns:
            Status, headers and body.

        Raises:
            StepError: it failed on the last attempt; its ``data`` has the ``status``, if any.
            StepArgumentError: an argument of another form (a ValueError and a TypeError).
            StepUsageError: no client is given, and ``durable-client`` is not installed.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        request = (method, url, headers, body, json)
        options = self._options, timeout, retries
        coroutine = _fetch(scope, id, request, options, max_bytes, client)
        return named("fetch", id, coroutine)


class FetchSteps:
    """The steps of ``def`` handlers that call another service."""

    _options: StepOptions | None

    def fetch(
        self,
        id: str,
        url: str,
        *,
        method: str = "GET",
        headers: HeaderFields = (),
        body: bytes | str | None = None,
        json: object = None,
        timeout: Duration | None = None,
        max_bytes: int = _MAX_BYTES,
        retries: int | None = None,
        client: Client | ServerGateway | None = None,
    ) -> FetchedResponse:
        """Call another service; see :meth:`AsyncFetchSteps.fetch`."""
        scope = current_scope(HandlerKind.DEF, id)
        request = (method, url, headers, body, json)
        options = self._options, timeout, retries
        response: FetchedResponse = _fetch(scope, id, request, options, max_bytes, client)
        return response


def _fetch(
    scope: RunScope,
    step_id: str,
    request: tuple[str, str, HeaderFields, object, object],
    given: tuple[StepOptions | None, Duration | None, int | None],
    max_bytes: int,
    client: Any,
) -> Any:
    from durable_core.api.outgoing import check_client, drive_call, make_call
    from durable_core.http.response import FetchedResponse

    method, url, headers, body, json = request
    is_gateway = isinstance(client, ServerGateway)
    before, timeout, retries = given
    options, seconds = call_options(
        step_id, before, timeout=timeout, retries=retries, default_timeout=_TIMEOUT
    )

    def make() -> OutgoingCall:
        if not is_gateway:
            check_client(client, is_async=scope.kind is HandlerKind.ASYNC_DEF)
        return make_call(
            method=method,
            url=url,
            headers=headers,
            body=body,
            json=json,
            timeout=seconds,
            max_bytes=max_bytes,
        )

    outgoing = parsed(step_id, make)
    if is_gateway:
        from durable_core.api.gateway import fetch_through_server

        unknown = merge_options(before, retries=retries, timeout=timeout).given()
        return fetch_through_server(scope, step_id, outgoing, unknown)
    dump, load = FetchedResponse.dump, FetchedResponse.load
    return drive_call(scope, step_id, outgoing, client, options, dump, load)
