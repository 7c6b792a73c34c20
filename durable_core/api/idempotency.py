"""Requests whose run the store decides about: those with a key, and those of limited endpoints.

Of the requests with one key the first one begins a run, and each repetition gets that run. The
header is that of draft-ietf-httpapi-idempotency-key-header-07, which is a draft.
"""

from __future__ import annotations

import hashlib
import json
import re
from urllib.parse import urlsplit

from durable_core.api.effects import RequestFlow, Serve, ServeOnce, Wait
from durable_core.api.engine import Engine
from durable_core.codec.tokens import request_fingerprint
from durable_core.errors import BadRequest
from durable_core.flow.env import AppConfig
from durable_core.flow.handoff import new_token
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.wait_url import Joined, WaitRequest
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import check_text
from durable_core.ports import EarlierRun, IdempotencyKey
from durable_core.runners.settings import RegisteredEndpoint

__all__ = ["serve"]

_MOST = 255
#: A string of structured fields (RFC 9651, section 3.3.3). A key without quotes is taken, too.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE = re.compile(r"[!#-~]+")


def serve(
    engine: Engine,
    endpoint: RegisteredEndpoint,
    request: Request,
    route: str | None,
    max_wait: float,
) -> RequestFlow[Response]:
    """Answer a request that may have a key, or whose run is stored before its handler begins.

    Args:
        engine: runs the handler.
        endpoint: the endpoint.
        request: what the client asks; it is authorized.
        route: the template that the path was found by.
        max_wait: how long a client may wait for an earlier run, seconds.

    Raises:
        BadRequest: a malformed key, or none where one is required.
        TypeError, ValueError: ``key=`` returned no key.
    """
    key = None if engine.store is None else _key_of(engine, endpoint.options, request)
    options = endpoint.options
    if key is None and options.limits is None and options.ui_messages is None:
        response: Response = yield Serve(endpoint, request, route)
        return response
    answer: Response | EarlierRun = yield ServeOnce(endpoint, request, route, key)
    if isinstance(answer, Response):
        return answer
    digest = "" if key is None else key.fingerprint
    if not _is_of(answer, digest, engine.env):
        detail = "another request was sent with this key before"
        return problem(422, "idempotency-key-reused", detail=detail)
    joined = Joined(endpoint.options, request)
    token = new_token(engine.env, answer.run_id)
    wanted = WaitRequest.from_joined(joined, answer.run_id, token, max_wait)
    waited: Response = yield Wait(wanted)
    return waited


def _key_of(engine: Engine, options: ResolvedOptions, request: Request) -> IdempotencyKey | None:
    text = _text_of(request, options)
    if text is None:
        return None
    return IdempotencyKey(
        scope=json.dumps([options.key, request.method, request.principal or ""]),
        key=text,
        fingerprint=_digest(request),
        expires_at=engine.env.clock.now() + options.idempotency_ttl,
    )


def _text_of(request: Request, options: ResolvedOptions) -> str | None:
    if options.derive_key is not None:
        return _derived(options.derive_key(request))
    if options.idempotency == "off":
        return None
    values = request.headers.get_all("idempotency-key")
    if not values:
        if options.idempotency == "required":
            raise BadRequest("this endpoint needs the header Idempotency-Key")
        return None
    return _parsed(values)


def _derived(key: object) -> str | None:
    if key is None:
        return None
    check_text("the key, which key= returns,", key)
    return str(key)


def _parsed(values: tuple[str, ...]) -> str:
    """Return the key that the header fields hold.

    Raises:
        BadRequest: several, or no key of a length and form that is allowed.
    """
    if len(values) > 1:
        raise BadRequest("the header Idempotency-Key must occur once")
    text = values[0].strip()
    quoted = _QUOTED.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted is not None else text
    if quoted is None and _BARE.fullmatch(text) is None:
        raise BadRequest('the header Idempotency-Key must be a string, such as "8e03978e"')
    if not 1 <= len(key) <= _MOST:
        raise BadRequest(f"the header Idempotency-Key must have 1 to {_MOST} characters")
    return key


def _is_of(earlier: EarlierRun, digest: str, env: AppConfig) -> bool:
    """Tell whether a client may join a run: a request like its own began it, by any secret."""
    return earlier.fingerprint is None or any(
        request_fingerprint(secret, app=env.app, digest=digest) == earlier.fingerprint
        for secret in env.secrets()
    )


def _digest(request: Request) -> str:
    """Return what two equal requests have in common: method, path, query, content, and client.

    Where ``authorize=`` names no principal, the credentials tell clients apart: whoever guesses the
    key of another one must not get its response.
    """
    url = urlsplit(request.url)
    found = hashlib.sha256()
    content_type = request.headers.get("content-type") or ""
    for part in (request.method, url.path, url.query, content_type):
        found.update(part.encode("utf-8", "surrogatepass") + b"\0")
    if request.principal is None:
        found.update(request.headers.identity() + b"\0")
    found.update(request.body)
    return found.hexdigest()
