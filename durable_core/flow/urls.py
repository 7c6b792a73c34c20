"""The URLs at which clients and callers reach a run, and whose host is certain."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit, urlunsplit

from durable_core.codec.tokens import sign_callback
from durable_core.errors import StepUsageError
from durable_core.flow.env import AppConfig
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.wait_url import PROXY_PARAMS, RUN_PARAM, TOKEN_PARAM, query_reference
from durable_core.http.request import Request
from durable_core.machine.step_ids import op_named
from durable_core.model.event import check_text
from durable_core.model.step import OpKind

__all__ = ["base_url", "callback_url", "quote_url", "with_params"]


def base_url(env: AppConfig, request: Request) -> str:
    """Return the URL of a run's request, without its query.

    It is absolute if its origin is certain: by ``env.public_url``, or because the request went to a
    loopback address. Otherwise it is a path: the host in a request can be forged, and whoever
    forged it would get what is sent there.
    """
    return _origin(env, request) + _path(request)


def callback_url(
    env: AppConfig, options: ResolvedOptions, request: Request, run_id: str, step_id: str
) -> str:
    """Return the URL at which the wait of a step is answered.

    Args:
        env: the application.
        options: of the run's endpoint.
        request: the request that began the run.
        run_id: the run.
        step_id: the id of the step that waits, or will; with ``:1``, ``:2`` where it repeats.

    Raises:
        StepUsageError: nobody knows under which host clients reach the application.
        ValueError, TypeError: not a step id.
    """
    check_text("step id", step_id)
    if not _origin(env, request):
        raise StepUsageError(
            f"run.callback_url({step_id!r}) needs Durable(public_url=), such as "
            "'https://api.example.com': the host in a request can be forged, and whoever forged it "
            "would get the answer"
        )
    base = base_url(env, request)
    op = op_named(step_id, OpKind.CALLBACK)
    token = sign_callback(env.secrets()[0], app=env.app, run_id=run_id, op_id=op.id)
    if isinstance(options.async_redirect_url, str):
        params = ((PROXY_PARAMS.run, run_id), (PROXY_PARAMS.token, token))
        return urljoin(base, with_params(options.async_redirect_url, params))
    return base + query_reference(((RUN_PARAM, run_id), (TOKEN_PARAM, token)))


def with_params(url: str, params: Sequence[tuple[str, str]]) -> str:
    """Set the parameters in the URL; a path without a leading slash is made path-absolute."""
    parts = urlsplit(url)
    names = {name for name, _ in params}
    kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in names]
    path = parts.path
    if not parts.netloc and not path.startswith("/"):
        path = f"/{path}"
    query = urlencode([*kept, *params])
    return urlunsplit((parts.scheme, parts.netloc, path, query, parts.fragment))


def _origin(env: AppConfig, request: Request) -> str:
    """Return scheme and authority under which clients certainly reach the application, or ""."""
    if env.public_url is not None:
        public = urlsplit(env.public_url)
        return f"{public.scheme}://{public.netloc}"
    own = urlsplit(request.url)
    return f"{own.scheme}://{own.netloc}" if _is_loopback(own.hostname or "") else ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _path(request: Request) -> str:
    path = quote_url(urlsplit(request.url).path)
    # Without the dot, what follows two slashes would be a host (RFC 3986 section 4.2).
    return f"/.{path}" if path.startswith("//") else path


def quote_url(url: str) -> str:
    """Escape what no URL can hold, such as spaces, other letters, or halves of characters."""
    return quote(url, safe="!#$%&'()*+,/:;=?@[]~", errors="surrogatepass")
