"""Options of endpoints and adapters."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from durable_core.codec.typed import ValueType
from durable_core.flow import completion as completion_module
from durable_core.flow import limits as limits_module
from durable_core.flow import options as options_module
from durable_core.flow.execution import run_label
from durable_core.flow.options import (
    EndpointOptions,
    ResolvedOptions,
    merge_options,
    needs_run_at_once,
    resolve_options,
)
from durable_core.http.request import Request


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"retries": 21}, ValueError),
        ({"retries": True}, ValueError),
        ({"async_response": "never"}, ValueError),
        ({"function_id": ""}, ValueError),
        ({"function_id": 7}, TypeError),
        ({"name": "x" * 256}, ValueError),
        ({"async_redirect_url": ""}, ValueError),
        ({"async_redirect_url": "/a b"}, ValueError),
        ({"async_redirect_url": "/\r\nx"}, ValueError),
        ({"async_redirect_url": "/\N{SNOWMAN}"}, ValueError),
        ({"async_redirect_url": 7}, TypeError),
        ({"methods": "GET"}, ValueError),
        ({"methods": ()}, ValueError),
        ({"methods": ("get",)}, ValueError),
        ({"methods": ("GE T",)}, ValueError),
        ({"record": "never"}, ValueError),
        ({"record_arguments": 1}, TypeError),
        ({"version": ""}, ValueError),
        ({"labels": ["a"]}, TypeError),
        ({"labels": {"a": 1}}, TypeError),
        ({"labels": {1: "a"}}, TypeError),
        ({"labels": {"": "a"}}, ValueError),
        ({"labels": {"a": "x" * 256}}, ValueError),
        ({"labels": {"a": "\udc80"}}, ValueError),
        ({"labels": {str(number): "x" for number in range(17)}}, ValueError),
    ],
)
def test_out_of_range(options: dict[str, Any], error: type[Exception]) -> None:
    """An option that cannot be is refused when it is given, by its name."""
    [name] = options
    with pytest.raises(error, match=name):
        merge_options({}, options)  # type: ignore[arg-type] # what is tested


def test_an_option_that_there_is_not() -> None:
    """Also where no type checker has seen it."""
    with pytest.raises(TypeError, match=r"has no option retry; did you mean retries\?"):
        merge_options({}, {"retry": 5})  # type: ignore[typeddict-unknown-key] # what is tested


def test_an_option_that_is_like_no_other() -> None:
    """The error names all that there are."""
    with pytest.raises(TypeError, match="has no option zz; there are allow_cancel, async_redirect"):
        merge_options({}, {"zz": 5})  # type: ignore[typeddict-unknown-key] # what is tested


def test_merged() -> None:
    """What the later options set goes before; what they leave open, or None, stays."""
    below = EndpointOptions(retries=1, function_id="below", methods=("GET",))
    over = EndpointOptions(retries=0, async_response="token", function_id=None)
    expected = {
        "retries": 0,
        "function_id": "below",
        "methods": ("GET",),
        "async_response": "token",
    }
    assert expected == merge_options(below, over)
    assert below == merge_options(below, {})


def test_options_are_declared_alike() -> None:
    """What can be given is what the flows read: the same names, and the same types but None."""
    names = {
        **vars(options_module),
        **vars(limits_module),
        **vars(completion_module),
        "ValueType": ValueType,
    }
    given = get_type_hints(EndpointOptions, localns=names)
    read = get_type_hints(ResolvedOptions, localns=names)
    # The key is the endpoint's there; that of a request is derived. A duration is milliseconds.
    limits = {"concurrency", "queue_limit", "rate_limit", "singleton"}
    internal = {"derive_key", "limits", "result", "handoff_headers"}
    durations = "idempotency_ttl", "run_timeout", "max_sync_runtime"
    assert internal == read.keys() - given.keys()
    for name in ("key", "store_headers", *durations, *limits, *internal):
        given.pop(name, None)
        read.pop(name, None)

    assert given == {name: hint | None for name, hint in read.items()}


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ("authorization", "must be a tuple of header names, not 'authorization'"),
        (("authorisation",), "'authorisation' is no credential header; all other"),
        ((7,), "7 is no credential header"),
    ],
)
def test_headers_to_store_are_checked(names: Any, error: str) -> None:
    """A name that means nothing is a mistake in spelling: the header would be missing."""
    with pytest.raises((TypeError, ValueError), match=error):
        merge_options({}, {"store_headers": names})


@pytest.mark.parametrize("name", ["authorize", "exception_to_response", "key"])
def test_functions_are_called_later(name: str) -> None:
    """What could not be called then is refused at definition, and not for each client."""
    options: Any = {name: True}
    with pytest.raises(TypeError, match=f"{name} must be a function of the .*, not True"):
        merge_options({}, options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"retries": 1, "function_id": "x", "async_response": "token"}, False),
        ({"idempotency": "off"}, False),
        ({"idempotency": "required"}, True),
        ({"labels": {"a": "b"}}, False),
        ({"labels": lambda request: {}}, True),
        ({"record": "always"}, True),
        ({"key": lambda request: "k"}, True),
        ({"authorize": lambda request: None}, True),
        ({"run_timeout": "1h"}, True),
        ({"omit_request_body": True}, True),
    ],
)
def test_options_for_which_a_run_is_made_at_once(options: Any, expected: bool) -> None:
    """What acts before the first step, or for a handler without steps, is one of them."""
    assert expected is needs_run_at_once(resolve_options(options, "key"))


def test_methods_become_a_tuple() -> None:
    """Any collection of methods will do."""
    methods: Any = ["GET", "HEAD"]
    assert {"methods": ("GET", "HEAD")} == merge_options({}, {"methods": methods})


@pytest.mark.parametrize(
    ("options", "key", "shown"),
    [
        ({}, "m:f", "GET /users/{id}"),
        ({"function_id": "book"}, "book", "book"),
        ({"name": "Book a trip"}, "m:f", "Book a trip"),
        ({"function_id": "book", "name": "Book a trip"}, "book", "Book a trip"),
    ],
)
def test_identity_and_name(options: EndpointOptions, key: str, shown: str) -> None:
    """``function_id`` is the identity; ``name`` is for people alone."""
    resolved = resolve_options(options, "m:f")
    assert key == resolved.key
    asked = Request(method="GET", url="http://x/users/7")
    assert shown == run_label(resolved, asked, "/users/{id}")


@pytest.mark.parametrize(
    "asked",
    [
        Request(method="GET", url="http://x/" + "a" * 60_000),
        Request(method="M" * 60_000, url="http://x/"),
        Request(method="GET", url="http://x/" + "%E2%98%83" * 20_000),
    ],
    ids=["path", "method", "not ASCII"],
)
def test_a_client_cannot_make_a_label_long(asked: Request) -> None:
    """What a client sends is cut before it is stored; what the code says is as long as it is."""
    label = run_label(resolve_options({}, "m:f"), asked, None)

    assert 255 == len(label)
    assert f"{asked.method} {asked.path}".startswith(label)
    assert "n" * 255 == run_label(resolve_options({"name": "n" * 255}, "m:f"), asked, None)


@pytest.mark.parametrize("option", ["function_id", "name"])
def test_a_name_that_no_store_can_hold_is_refused(option: str) -> None:
    """At definition, not at the first request."""
    options: dict[str, Any] = {option: "a\udc80"}
    with pytest.raises(ValueError, match=f"{option} must not contain lone surrogates"):
        merge_options({}, options)  # type: ignore[arg-type] # what is tested
