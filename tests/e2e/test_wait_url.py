"""The wait URL: answers at once, holds and hops, and opens for nobody else."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from support.processes import App, Reply, World, fetch, until, until_held

pytestmark = pytest.mark.slow

_MIB = 1024 * 1024
_BINARY = bytes(range(256)) * 64
_NO_RUN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def _handoff(world: World, app: App, face: str, trip: str) -> Reply:
    """Hand a run off by a step that fails once; it stays in its last step until the gate opens."""
    world.close_gate(trip, "b")
    handoff = fetch(app.url(f"/{face}/retry?trip={trip}&failures=1"))
    assert 302 == handoff.status
    world.reached(trip, "b")
    return handoff


def _params(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_it_answers_when_the_run_ends(
    world: World, face: str, record_property: Callable[[str, object], None]
) -> None:
    """At once: it is not held any longer. The least of five, from the end of the last function."""
    app = world.start()
    delays = []
    for number in range(5):
        trip = f"T{number}"
        client = world.background(_handoff(world, app, face, trip).location)
        until_held(app)
        world.open_gate(trip, "b")
        assert 201 == client.result().status
        delays.append(client.result().at - world.reached(trip, "b", "end").at)
    shown = ", ".join(f"{delay * 1000:.1f}" for delay in delays)
    print(f"from a run's end to the answer, {face}: {shown} ms")
    record_property("answer_ms", shown)
    assert min(delays) < 2


def test_many_clients_ask_before_and_after_the_end(world: World, face: str) -> None:
    """Twenty wait at once, twenty more come later: all get the same response."""
    app = world.start()
    handoff = _handoff(world, app, face, "T")
    early = [world.background(handoff.location) for _ in range(20)]
    until_held(app, 20)
    world.open_gate("T", "b")
    late = [world.background(handoff.location) for _ in range(20)]
    replies = [client.result() for client in (*early, *late)]
    assert {(201, b'{"trip":"T","parts":[2]}')} == {(each.status, each.body) for each in replies}
    assert {"a": 1, "flaky": 2, "b": 1} == world.ledger.begun("T")


def test_it_holds_hops_and_gives_up(world: World, face: str) -> None:
    """Held, then sent on to itself five times with fresh tokens, then told to come back later."""
    app = world.start(hold=0.2)
    url = _handoff(world, app, face, "T").location
    tokens = [_params(url)["durable-token"]]
    for hop in range(1, 6):
        began = time.monotonic()
        reply = fetch(url)
        assert 0.2 <= reply.at - began
        assert (303, b"") == (reply.status, reply.body)
        assert_private(reply)
        url = reply.location
        assert str(hop) == _params(url)["durable-hop"]
        tokens.append(_params(url)["durable-token"])
    later = fetch(url)
    assert (202, "running") == (later.status, json.loads(later.body)["status"])
    assert later.all("retry-after")[0].isdigit()
    assert_private(later)
    tokens.append(_params(later.location)["durable-token"])
    assert len(tokens) == len(set(tokens))
    world.open_gate("T", "b")
    assert 201 == fetch(later.location, follow=True).status


def assert_private(reply: Reply) -> None:
    """What carries a token is kept by nobody, and refers to the endpoint's own URL."""
    assert (["no-store"], ["no-referrer"]) == (
        reply.all("cache-control"),
        reply.all("referrer-policy"),
    )
    [location] = reply.all("location")
    assert location.startswith("?durable-run=")


@pytest.mark.parametrize(("method", "status"), [("GET", 302), ("POST", 303)])
def test_the_redirect(world: World, face: str, method: str, status: int) -> None:
    """302 for GET, 303 for POST; relative, so that it holds behind any proxy."""
    app = world.start()
    reply = fetch(app.url(f"/{face}/exact?kind=T"), method)
    assert (status, b"") == (reply.status, reply.body)
    assert_private(reply)
    assert world.store.only_run() == _params(reply.location)["durable-run"]


def test_a_bad_token_opens_nothing_and_tells_nothing(world: World, face: str) -> None:
    """The answer is the same whether or not the run exists, and whether or not it has ended."""
    app = world.start()
    mine = _params(_handoff(world, app, face, "T").location)
    ended = _params(fetch(app.url(f"/{face}/exact?kind=E")).location)
    until("one has ended", lambda: "completed" in world.store.runs().values())
    runs = (mine["durable-run"], ended["durable-run"], _NO_RUN, "x", "../" * 40)
    tokens = (
        "x",
        "d1.9999999999999.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        mine["durable-token"][:-1],
        mine["durable-token"] + "A",
        mine["durable-token"].replace("d1.", "d1.9"),
    )
    bad = {(run, token) for run in runs for token in tokens}
    bad |= {(run, mine["durable-token"]) for run in runs[1:]}
    bad |= {(runs[0], ended["durable-token"])}
    answers = {
        _answer(app, face, {"durable-run": run, "durable-token": token}) for run, token in bad
    }
    [(status, headers, body)] = answers
    assert 403 == status
    assert ("content-type", "application/problem+json") in headers
    assert 403 == json.loads(body)["status"]


def _answer(
    app: App, face: str, params: dict[str, str]
) -> tuple[int, frozenset[tuple[str, str]], str]:
    reply = fetch(app.url(f"/{face}/nap?{urlencode(params)}"))
    headers = {(name.lower(), value) for name, value in reply.headers if name.lower() != "date"}
    return reply.status, frozenset(headers), reply.text


def test_a_missing_parameter(world: World, face: str) -> None:
    """400, with or without such a run; neither starts one."""
    app = world.start()
    mine = _params(_handoff(world, app, face, "T").location)
    answers = {
        _answer(app, face, {"durable-run": mine["durable-run"]}),
        _answer(app, face, {"durable-run": _NO_RUN}),
        _answer(app, face, {"durable-token": mine["durable-token"]}),
        _answer(app, face, {"durable-run": "", "durable-token": mine["durable-token"]}),
        _answer(app, face, {"durable-run": mine["durable-run"], "durable-token": ""}),
    }
    [(status, headers, _)] = answers
    assert 400 == status
    assert ("content-type", "application/problem+json") in headers
    assert 1 == len(world.store.runs())


def test_a_token_expires(world: World, face: str) -> None:
    """After its time it is as wrong as any other, although the run has a result."""
    app = world.start(token_ttl=0.5)
    url = fetch(app.url(f"/{face}/exact?kind=T")).location
    until("the run has ended", world.store.all_ended)
    until("the token has expired", lambda: fetch(url).status == 403)
    wrong = fetch(app.url(f"/{face}/exact?durable-run={_NO_RUN}&durable-token=x"))
    assert (wrong.status, wrong.body) == (fetch(url).status, fetch(url).body)


def test_a_restart_does_not_invalidate_tokens(world: World, face: str) -> None:
    """The key is in the store."""
    app = world.start()
    url = fetch(app.url(f"/{face}/exact?kind=T")).location
    app.kill()
    world.start(port=app.port)
    assert 201 == fetch(url, follow=True).status


def test_too_large_a_body(world: World, face: str) -> None:
    """Beyond 1 MiB it is 413 and no run; 1 MiB is taken, and survives the handoff."""
    app = world.start()
    url = app.url(f"/{face}/exact?kind=T")
    reply = fetch(url, "POST", body=b"x" * (_MIB + 1))
    assert (413, ["application/problem+json"]) == (reply.status, reply.all("content-type"))
    assert {} == world.store.runs()
    assert 201 == fetch(url, "POST", body=b"x" * _MIB, follow=True).status


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"\xff", b"7", b'"x"', b"[]", b"[7]", b'{"data": {}}', b'{"name": 7}',
     b'{"name": ""}', b'{"name": "go", "data": 7}', b'{"name": "go", "data": {"x": NaN}}',
     b"[" * 100_000],
    ids=lambda body: body[:24].decode("latin-1") or "empty",
)  # fmt: skip
def test_broken_events(world: World, body: bytes) -> None:
    """400 problem JSON."""
    app = world.start()
    reply = fetch(app.url("/events"), "POST", body=body)
    assert (400, ["application/problem+json"]) == (reply.status, reply.all("content-type"))
    assert [] == app.errors()


# -- exact responses through the redirect ------------------------------------------------------


def _curl(url: str, folder: Path, *options: str) -> tuple[str, bytes]:
    """Return the last response's head and the body as ``curl -L`` gets them."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    head, body = folder / "head", folder / "body"
    command = ("curl", "-sS", "-L", "-m", "60", "-D", str(head), "-o", str(body), *options, url)
    body.write_bytes(b"")
    subprocess.run(command, check=True)
    *_, last, empty = head.read_bytes().decode("latin-1").split("\r\n\r\n")
    assert empty == ""
    return last, body.read_bytes()


@pytest.mark.parametrize("client", ["curl", "urllib"])
def test_the_exact_response_after_the_redirect(
    world: World, face: str, client: str, tmp_path: Path
) -> None:
    """Status, header fields (repeated ones too) and body are the handler's, for plain clients."""
    app = world.start()

    def ask(kind: str) -> tuple[int, list[tuple[str, str]], bytes]:
        url = app.url(f"/{face}/exact?kind={kind}")
        return _by_curl(url, tmp_path) if client == "curl" else _by_urllib(url)

    status, headers, body = ask("T")
    cookies = [("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2; Path=/")]
    assert (201, b'{"trip":"T","parts":[]}') == (status, body)
    assert [("x-trip", "T"), *cookies] == [each for each in headers if each[0][:2] in ("x-", "se")]
    assert ("content-type", "application/json") in headers

    status, headers, body = ask("missing")
    assert (404, "no such trip") == (status, json.loads(body)["detail"])
    assert ("content-type", "application/problem+json") in headers

    status, headers, body = ask("empty")
    assert (204, b"") == (status, body)
    assert ("x-kind", "empty") in headers
    assert [] == [each for each in headers if each[0] in ("content-type", "content-length")]

    status, headers, body = ask("binary")
    assert (200, _BINARY) == (status, body)
    assert ("content-type", "application/octet-stream") in headers


def _by_curl(url: str, folder: Path) -> tuple[int, list[tuple[str, str]], bytes]:
    head, body = _curl(url, folder)
    status_line, *fields = head.split("\r\n")
    pairs = [field.split(": ", 1) for field in fields]
    return int(status_line.split()[1]), [(name.lower(), value) for name, value in pairs], body


def _by_urllib(url: str) -> tuple[int, list[tuple[str, str]], bytes]:
    opener = urllib.request.build_opener(_ErrorsAreAnswers)
    with opener.open(url, timeout=60) as answer:
        headers = [(name.lower(), value) for name, value in answer.headers.items()]
        return answer.status, headers, answer.read()


class _ErrorsAreAnswers(urllib.request.HTTPErrorProcessor):
    def http_response(
        self, request: urllib.request.Request, response: http.client.HTTPResponse
    ) -> http.client.HTTPResponse:
        """Let 4xx pass; redirects are handled as ever."""
        return response if response.status >= 400 else super().http_response(request, response)


def test_curl_follows_every_hop(world: World, face: str, tmp_path: Path) -> None:
    """``curl -L`` needs no options: it is held, hops, and has the response in the end."""
    app = world.start(hold=0.3)
    url = app.url(f"/{face}/nap?trip=T&seconds=0.8")
    began = time.monotonic()
    head, body = _curl(url, tmp_path)
    assert time.monotonic() - began >= 0.8
    assert head.split("\r\n")[0].split()[1] == "201"
    assert b'{"trip":"T","parts":["nap"]}' == body


def test_head_at_the_wait_url(world: World, face: str) -> None:
    """It is the response without its body."""
    app = world.start()
    url = fetch(app.url(f"/{face}/exact?kind=binary")).location
    reply = fetch(url, "HEAD", follow=True)
    assert (200, b"") == (reply.status, reply.body)
    assert [str(len(_BINARY))] == reply.all("content-length")
