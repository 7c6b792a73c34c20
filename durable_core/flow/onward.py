"""Where a stream goes on after the handoff: what ``inngest.redirect_info`` says."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from durable_core.flow.asks import Flow
from durable_core.flow.env import Env, Options
from durable_core.flow.handoff import (
    FROM_PARAM,
    RUN_PARAM,
    TOKEN_PARAM,
    chosen_url,
    fresh_token,
    query_reference,
    with_params,
)
from durable_core.model.request import Request

__all__ = ["HANDOFF", "redirect_url"]

#: The value of the parameter that asks for what comes after the handoff.
HANDOFF = "handoff"


def redirect_url(env: Env, options: Options, request: Request, run_id: str) -> Flow[str]:
    """Return the absolute URL where the stream of a run goes on after the handoff.

    Args:
        env: the application.
        options: of the run's endpoint.
        request: that began the run; its origin counts where ``env.public_url`` is None.
        run_id: the run.
    """
    own = urlsplit(request.url)
    origin = env.public_url or f"{own.scheme}://{own.netloc}"
    base = urlunsplit((*urlsplit(origin)[:2], own.path, "", ""))
    token = fresh_token(env, run_id)
    chosen = yield from chosen_url(options, run_id, token)
    if chosen is not None:
        return _with_from(urljoin(base, chosen))
    if isinstance(options.redirect_url, str) and not options.token_answer:
        params = (("runId", run_id), ("token", token))
        return _with_from(urljoin(base, with_params(options.redirect_url, params)))
    own_params = ((RUN_PARAM, run_id), (TOKEN_PARAM, token), (FROM_PARAM, HANDOFF))
    return base + query_reference(own_params)


def _with_from(url: str) -> str:
    parts = urlsplit(url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), ("from", HANDOFF)])
    return urlunsplit((*parts[:3], query, parts.fragment))
