"""What is said to the server, and what it says, as text."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core import Durable, Headers, HTTPError, Request, Response, endpoint_adapter
from durable_core.engines.remote import ANY_HOST, LOOPBACK_HOSTS, Failed, ReportedStep, Value
from durable_core.errors import ConfigurationError, HeaderNotStoredError, StepError
from durable_core.machine.advance import failure_of_step
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.run import Phase, Run
from durable_core.model.step import Op, OpKind
from durable_inngest import InngestEngine
from durable_inngest import _protocol as _ops
from durable_inngest._config import FRESH, hashed_key, resolve_config, sign, verify
from durable_inngest._envelope import (
    MARK,
    dump_request,
    dump_response,
    load_request,
    load_response,
    load_run,
    plain_response,
)
from durable_inngest._protocol import load_event_memo, load_failure, load_outcome

A_RUN = Run(
    id="r",
    app="shop",
    endpoint_key="k",
    function_id="f",
    phase=Phase.SYNC,
    retries=3,
    created_at=1,
    labels=(("of", "me"),),
    version="v7",
    principal="mé",
)
KEY = "signkey-test-0123456789abcdef0123456789abcdef"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# -- keys and signatures -----------------------------------------------------------------------


def test_the_two_derivations_of_a_key() -> None:
    """The bearer token hashes the bytes that the key spells; a signature is keyed by its text."""
    assert "signkey-prod-b2ed992186a5cb19f6668aade821f502c1d00970dfd0e35128d51bac4649916c" == (
        hashed_key("signkey-prod-12345678")
    )
    expected = hmac.digest(b"0123456789abcdef0123456789abcdef", b"body1", hashlib.sha256).hex()
    assert f"t=1&s={expected}" == sign(KEY, b"body", 1)


def test_a_recorded_signature() -> None:
    """What a real server has signed is verified: a call without a body."""
    key = "0123456789abcdef0123456789abcdef"
    header = "t=1795474467&s=740ef76b8eab6cb05872144a72ad2f4076af19c9a1f03a57a2baa482381f1c12"

    assert key == verify([key], header, b"", 1795474467)
    assert verify([key], header, b" ", 1795474467) is None


@given(st.binary(), st.integers(0, 2**31), st.integers(-FRESH, FRESH), st.booleans())
def test_what_is_signed_is_verified(body: bytes, at: int, late: int, first: bool) -> None:
    """By the key that has signed it, within five minutes of its time either way."""
    keys = [KEY, KEY[:-1] + "0"]
    key = keys[0 if first else 1]
    assert key == verify(keys, sign(key, body, at), body, at + late)
    assert verify(keys, sign(key, body, at), body, at + FRESH + 1) is None
    assert verify([KEY + "00"], sign(key, body, at), body, at) is None


@given(st.text(), st.binary())
def test_no_text_is_a_signature(header: str, body: bytes) -> None:
    """Whatever a client sends as one is refused, without an error."""
    assert verify([KEY], header, body, 1e9) is None


def test_canonical_json_is_taken_too() -> None:
    """A server that signs the canonical form of a JSON body is understood."""
    body = b'{ "b": 1.0, "a": [true] }'
    assert KEY == verify([KEY], sign(KEY, b'{"a":[true],"b":1}', 5), body, 5)


@pytest.mark.parametrize("key", ["signkey-prod-xyz", "signkey-prod-", "", "0"])
def test_a_key_that_is_none(key: str) -> None:
    """It is refused without being shown."""
    with pytest.raises(ConfigurationError) as caught:
        hashed_key(key)
    assert "xyz" not in str(caught.value)


# -- configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "is_dev", "api", "events"),
    [
        ({"INNGEST_DEV": "1"}, True, "http://127.0.0.1:8288", "http://127.0.0.1:8288"),
        ({"INNGEST_DEV": " TRUE "}, True, "http://127.0.0.1:8288", "http://127.0.0.1:8288"),
        ({"INNGEST_DEV": "box:9"}, True, "http://box:9", "http://box:9"),
        ({"INNGEST_DEV": "localhost"}, True, "http://localhost", "http://localhost"),
        ({"INNGEST_DEV": "box.example"}, True, "http://box.example", "http://box.example"),
        ({"INNGEST_DEV": "yes"}, True, "http://127.0.0.1:8288", "http://127.0.0.1:8288"),
        *(
            ({"INNGEST_DEV": word}, False, "https://api.inngest.com", "https://inn.gs")
            for word in ("0", "false", "Off", "no", "none", "N", "f", " ")
        ),
        ({}, False, "https://api.inngest.com", "https://inn.gs"),
        ({"INNGEST_BASE_URL": "https://own/"}, False, "https://own", "https://own"),
        (
            {"INNGEST_API_BASE_URL": "http://a", "INNGEST_EVENT_API_BASE_URL": "http://e"},
            False,
            "http://a",
            "http://e",
        ),
        (
            {"INNGEST_API_BASE_URL": "http://a", "INNGEST_BASE_URL": "http://b"},
            False,
            "http://a",
            "http://b",
        ),
        ({"INNGEST_DEV": "box:9", "INNGEST_BASE_URL": "http://b"}, True, "http://b", "http://b"),
        (
            {"INNGEST_DEV": "box:9", "INNGEST_EVENT_API_BASE_URL": "http://e"},
            True,
            "http://box:9",
            "http://e",
        ),
        ({"INNGEST_DEV": "https://box/in/"}, True, "https://box/in", "https://box/in"),
    ],
)
def test_where_the_server_is(environ: dict[str, str], is_dev: bool, api: str, events: str) -> None:
    """By the variables, in their order."""
    config = resolve_config(environ, signing_key=KEY, serve_origin="https://shop.example")
    assert (is_dev, api, events) == (config.is_dev, config.api_url, config.event_url)


def test_arguments_go_before_the_environment() -> None:
    """Each of them."""
    environ = {
        "INNGEST_DEV": "1",
        "INNGEST_BASE_URL": "http://env",
        "INNGEST_EVENT_KEY": "env",
        "INNGEST_SIGNING_KEY": KEY,
        "INNGEST_ENV": "env",
        "INNGEST_SERVE_ORIGIN": "http://env",
        "INNGEST_SERVE_PATH": "/env",
        "INNGEST_SIGNING_KEY_FALLBACK": KEY,
        "INNGEST_EVENT_API_BASE_URL": "http://env",
    }
    config = resolve_config(
        environ,
        is_dev=False,
        base_url="http://arg",
        event_key="arg",
        environment="arg",
        serve_origin="http://own",
        serve_path="/own",
        signing_key_fallback=KEY[:-1] + "0",
    )
    assert (False, "http://arg", "http://arg", "arg", "arg", "http://own", "/own") == (
        config.is_dev,
        config.api_url,
        config.event_url,
        config.event_key,
        config.environment,
        config.serve_origin,
        config.serve_path,
    )
    assert (KEY, KEY[:-1] + "0") == config.signing_keys


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "INNGEST_SIGNING_KEY"),
        ({"signing_key": "nothex"}, "hexadecimal"),
        ({"is_dev": True, "base_url": "ftp://x"}, "base_url"),
        ({"is_dev": True, "serve_origin": "shop"}, "serve_origin"),
        ({"is_dev": True, "serve_path": "api"}, "serve_path"),
        ({"is_dev": True, "base_url": "http://box:none"}, "base_url .*malformed"),
        ({"is_dev": True, "base_url": "http://box:99999"}, "base_url .*malformed"),
        ({"is_dev": True, "event_base_url": "http://[::1"}, "event_base_url .*malformed"),
        ({"is_dev": True, "base_url": "http://a box"}, "base_url .*host"),
        ({"is_dev": True, "base_url": "http://me:secret@box"}, "base_url .*credentials"),
        ({"is_dev": True, "base_url": "http://box?a=b"}, "base_url .*query"),
        ({"is_dev": True, "base_url": "http://box/a#"}, "base_url .*fragment"),
        ({"is_dev": True, "serve_origin": "http://box:none"}, "serve_origin .*malformed"),
        ({"is_dev": True, "environment": "a\nb"}, "environment"),
        ({"is_dev": True, "environment": "\u0416"}, "environment"),
        ({"signing_key": KEY}, "INNGEST_SERVE_ORIGIN"),
        ({"signing_key": KEY, "allowed_hosts": []}, "INNGEST_SERVE_ORIGIN"),
        ({"is_dev": True, "allowed_hosts": "shop.example"}, "several hosts"),
        ({"is_dev": True, "allowed_hosts": ["https://shop.example"]}, "allowed_hosts"),
    ],
)
def test_what_is_wrong_is_said(arguments: dict[str, object], match: str) -> None:
    """A configuration that cannot work is refused, naming what is wrong, and no secret."""
    with pytest.raises(ConfigurationError, match=match) as caught:
        resolve_config({}, **arguments)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["http://box:none", "box:none", "http://a box", "production", "2", "dev", "a b"]
)
def test_a_development_server_that_is_nowhere(text: str) -> None:
    """A URL in ``INNGEST_DEV`` is one, or is refused at start: a word turns no checks off."""
    with pytest.raises(ConfigurationError, match=r"URL"):
        resolve_config({"INNGEST_DEV": text}, signing_key=KEY, serve_origin="http://shop.example")


def test_a_key_in_development(caplog: pytest.LogCaptureFixture) -> None:
    """It is not used, so that nothing of it goes anywhere; the log says so."""
    config = resolve_config({"INNGEST_DEV": "1", "INNGEST_SIGNING_KEY": KEY})

    assert (True, ()) == (config.is_dev, config.signing_keys)
    assert "the signing key that is set is not used" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "hosts"),
    [
        ({"is_dev": True}, ANY_HOST),
        ({"is_dev": True, "allowed_hosts": ["a"]}, ("a",)),
        ({"signing_key": KEY, "serve_origin": "https://shop.example"}, ANY_HOST),
        ({"signing_key": KEY, "allowed_hosts": ["A.example"]}, ("a.example",)),
        ({"signing_key": KEY, "base_url": "http://127.0.0.1:8288"}, LOOPBACK_HOSTS),
        ({"signing_key": KEY, "base_url": "http://localhost:8288"}, LOOPBACK_HOSTS),
    ],
)
def test_what_is_taken_for_granted(arguments: dict[str, object], hosts: tuple[str, ...]) -> None:
    """All hosts where that is harmless, this machine for a server on it, else nothing."""
    assert hosts == resolve_config({}, **arguments).hosts  # type: ignore[arg-type]


# -- ops and memos -----------------------------------------------------------------------------


def a_step(id: str = "a", name: str | None = None) -> ReportedStep:
    name = id if name is None else name
    op = Op(id=hash_step_id(name), name=name, kind=OpKind.RUN)
    return ReportedStep(op=op, id=id, began=5, took=2)


@given(st.text(min_size=1, max_size=20), JSON)
def test_a_result_comes_back(id: str, value: object) -> None:
    """An op is sound JSON for every id and value, and the value is as it was."""
    op = json.loads(_ops.finished(a_step(id), json.dumps(value)))
    assert (hash_step_id(id), "StepRun", id, {"id": id}) == (
        op["id"],
        op["op"],
        op["displayName"],
        op["userland"],
    )
    assert Value(value) == load_outcome({"data": op["data"]})
    assert {"a": 5_000_000, "b": 2_000_000} == op["timing"]


def test_a_repeated_id() -> None:
    """Its index stands apart."""
    op = json.loads(_ops.planned(a_step("a", "a:12")))
    assert ({"id": "a", "index": 12}, "a") == (op["userland"], op["displayName"])


@given(st.text(), JSON)
def test_an_error_comes_back(message: str, data: object) -> None:
    """The handler sees what it would see under the embedded engine."""
    error = ValueError(message)
    error.data = data  # type: ignore[attr-defined]
    shown = _ops.error_of(failure_of_step(error, 0), error)
    kept = json.loads(json.dumps({k: v for k, v in shown.items() if k != "__serialized"}))
    seen = load_failure("a", kept)
    assert ("a", "ValueError", message, data) == (
        seen.step_id,
        seen.name,
        seen.message or "",
        seen.data,
    ) or not message


def test_an_http_error_comes_back() -> None:
    """It is the cause of what the handler sees."""
    error = HTTPError(404, "no tea", {"x-own": "1"})
    kept = json.loads(json.dumps(_ops.error_of(failure_of_step(error, 0), error)))
    cause = load_failure("a", kept).__cause__
    assert isinstance(cause, HTTPError)
    assert (404, "no tea", {"x-own": "1"}) == (cause.status, cause.detail, cause.headers)


@pytest.mark.parametrize(
    ("memo", "outcome"),
    [
        (None, Value(None)),
        ({"data": 1}, Value(1)),
        ({"data": 1, "type": "data"}, Value(1)),
        ({"data": 1, "more": 2}, Value({"data": 1, "more": 2})),
        ({"error": {"name": "E"}}, Failed({"name": "E"})),
        ({"error": "text"}, Failed({"message": "text"})),
        ({"input": [1]}, None),
        ([1], Value([1])),
    ],
)
def test_the_shapes_of_memos(memo: object, outcome: object) -> None:
    """Only an object with nothing else is unwrapped."""
    assert outcome == load_outcome(memo)


@given(JSON)
def test_any_error_can_be_read(error: object) -> None:
    """Whatever another library has stored as an error is a StepError."""
    assert isinstance(load_failure("a", {"message": error, "data": error}), StepError)


def test_events_as_memos() -> None:
    """The whole event; null when the time is over; anything else is refused."""
    event = load_event_memo({"name": "e", "data": {"x": 1}, "id": "i", "ts": 5, "user": {}})
    assert event is not None
    assert ("e", {"x": 1}, "i", 5) == (event.name, event.data, event.id, event.ts)
    assert load_event_memo(None) is None
    with pytest.raises(ValueError, match="no event"):
        load_event_memo({"data": 1})


# -- responses and requests --------------------------------------------------------------------

NAMES = st.sampled_from(["x-a", "x-b", "set-cookie", "vary", "content-type", "x-durable-response"])
FIELDS = st.lists(st.tuples(NAMES, st.text("abc é", max_size=5)), max_size=4)


@given(st.integers(200, 599), FIELDS, st.binary() | st.text().map(str.encode))
def test_responses_come_through(status: int, fields: list[tuple[str, str]], body: bytes) -> None:
    """As the server keeps and returns them: one value for each header, and a body of text."""
    response = Response(status=status, headers=Headers(fields), body=body)
    kept = json.loads(json.dumps(dump_response(response)))
    headers = {name.lower(): value.strip() for name, value in kept["headers"].items()}
    told = {**headers, "date": "now", "vary": "Origin", "x-inngest-server-kind": "dev"}
    back = load_response(kept["status"], told, kept["body"].encode())
    assert back is not None
    assert (status, response.headers.raw, body) == (back.status, back.headers.raw, back.body)


def test_what_was_sent_already_is_shown_as_it_was() -> None:
    """No mark, and the true status, headers and body."""
    response = Response.json({"a": 1}, 201)
    assert {
        "status": 201,
        "headers": {"content-type": "application/json"},
        "body": '{"a":1}',
        "version": 2,
    } == plain_response(response)
    assert MARK not in plain_response(response)["headers"]  # type: ignore[operator]


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"status": 1, "headers": [], "body": ""}'])
def test_a_damaged_envelope(body: bytes) -> None:
    """It is an error, not a response."""
    headers = {MARK: "1", "content-type": "application/vnd.durable.response+json"}
    with pytest.raises(ValueError, match=r"."):
        load_response(200, headers, body)


@given(st.binary(), st.sampled_from(["", "a=1&b=%20"]))
def test_requests_come_back(body: bytes, query: str) -> None:
    """Method, URL, body and content type; other headers are missed aloud."""
    url = "https://shop.example/a/%2Fb" + (f"?{query}" if query else "")
    fields = {"Content-Type": "text/x", "X-User": "me", "X-Forwarded-For": "1.2.3.4, 5.6.7.8"}
    sent = Request(method="PUT", url=url, headers=fields, body=body)
    config = resolve_config({}, is_dev=True)
    event = json.loads(json.dumps(dump_request(sent, config, A_RUN, "fn")))
    back = load_request([event], Request(method="PUT", url=url, path_params={"id": "1"}))

    assert back is not None
    assert ("PUT", url, body) == (back.method, back.url, back.body)
    assert ("text/x", {"id": "1"}) == (back.headers["content-type"], back.path_params)
    elsewhere = Request(method="PUT", url="https://shop.example/b")
    assert load_request([event], elsewhere) is None
    assert load_request([event], elsewhere, any_path=True) is not None
    assert "1.2.3.4, 5.6.7.8" == event["data"]["ip"]
    bare = replace(A_RUN, labels=(), version=None, principal=None)
    assert A_RUN == load_run([event], bare)
    with pytest.raises(HeaderNotStoredError, match="x-user"):
        back.headers.get("x-user")


@pytest.mark.parametrize("text", [None, "", "1.0", "{", "[]", '{"durable":[]}', '{"durable":1}'])
def test_an_event_of_another_library(text: str | None) -> None:
    """Whatever its version says, the run has nothing of it."""
    bare = replace(A_RUN, labels=(), version=None, principal=None)
    assert bare == load_run([{"v": text}], bare)


def test_ui_messages_are_refused() -> None:
    """Its server knows nothing of chats."""
    durable = Durable(
        id="shop", engine=InngestEngine(is_dev=True), endpoint_adapter=endpoint_adapter
    )
    with pytest.raises(ConfigurationError, match="ui_messages= needs the embedded engine"):
        durable.endpoint(ui_messages="live")(lambda request: "x")
    with pytest.raises(
        ConfigurationError, match=r"ui_messages_endpoint\(\) needs the embedded engine"
    ):
        durable.ui_messages_endpoint(public=True)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_the_status_of_a_run_is_not_supported(method: str) -> None:
    """The answer names the engine, and does not tell whether there is such a run."""
    durable = Durable(
        id="shop", engine=InngestEngine(is_dev=True), endpoint_adapter=endpoint_adapter
    )
    endpoint = durable.endpoint(lambda request: "x")
    url = "http://localhost/?durable-run=r&durable-token=t&durable-status"
    answer = endpoint.handle(Request(method=method, url=url))
    assert 501 == answer.status
    assert isinstance(answer.body, bytes)
    assert b"keeps its runs on a server" in answer.body
