"""Errors of user code, stored and seen again."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from durable_core.codec.records import dump_error, load_step_error
from durable_core.errors import (
    HTTPError,
    StepCancelled,
    StepError,
    StepResultError,
    StepResultTooLargeError,
)
from durable_core.model.decision import Failure

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
HTTP = st.tuples(
    st.integers(min_value=400, max_value=599),
    st.text(),
    st.dictionaries(st.text(), st.text()).map(lambda headers: tuple(headers.items())),
)
RESULT_ERRORS = {"unstorable": StepResultError, "too-large": StepResultTooLargeError}
FAILURES = st.builds(
    Failure,
    name=st.text(),
    message=st.text(),
    data=st.just("") | JSON.map(json.dumps),
    retriable=st.booleans(),
    retry_after=st.none() | st.integers(min_value=0),
    cancelled=st.booleans(),
    result=st.sampled_from(("", "unstorable", "too-large")),
    http=st.none() | HTTP,
)


@given(FAILURES)
def test_round_trip(failure: Failure) -> None:
    """The handler sees the name, message and data of the error, and what kind it was."""
    error = load_step_error("book", dump_error(failure))

    cancelled = StepCancelled if failure.cancelled else StepError
    assert RESULT_ERRORS.get(failure.result, cancelled) is type(error)
    assert ("book", failure.name, failure.message) == (error.step_id, error.name, error.message)
    assert (json.loads(failure.data) if failure.data else None) == error.data
    if failure.http is None:
        assert error.__cause__ is None
    else:
        cause = error.__cause__
        assert isinstance(cause, HTTPError)
        assert failure.http == (cause.status, cause.detail, tuple(cause.headers.items()))


def test_only_what_is_there_is_stored() -> None:
    """An error without extras is stored as name and message alone, non-ASCII text as it is."""
    failure = Failure(name="ValueError", message="né", retriable=False, retry_after=5)

    assert '{"name":"ValueError","message":"né"}' == dump_error(failure)
