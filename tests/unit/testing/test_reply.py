"""What a client of a test gets."""

from __future__ import annotations

import pytest

from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.testing.client import Reply

RUN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def reply(response: Response, run_id: str | None = None, url: str = "http://t/") -> Reply:
    assert isinstance(response.body, bytes)
    asked = Request(method="GET", url=url)
    return Reply(asked, response, response.body, run_id, lambda same: same)


def test_plain_reply() -> None:
    """It has the parts of the response, and is its own result."""
    plain = reply(Response.json({"a": "ü"}, 201, {"x": "1"}), RUN)

    assert (201, "1", {"a": "ü"}, '{"a":"ü"}') == (
        plain.status,
        plain.headers["x"],
        plain.json(),
        plain.text,
    )
    assert (False, RUN) == (plain.is_handoff, plain.run_id)
    assert plain is plain.result()
    assert "<Reply 201, 10 bytes>" == repr(plain)


@pytest.mark.parametrize(
    ("response", "run_id", "expected"),
    [
        (Response.redirect(f"?durable-run={RUN}&durable-token=x"), RUN, True),
        (Response.redirect(f"/wait?runId={RUN}&token=x", 303), RUN, True),
        (Response.redirect(f"https://other/{RUN}"), RUN, True),
        (Response.json({"run_id": RUN, "token": "x"}), RUN, True),
        (Response.redirect("/elsewhere"), RUN, False),
        (Response.redirect("/elsewhere"), None, False),
        (Response.json({"run_id": RUN}), RUN, False),
        (Response.text("{"), RUN, False),
        (Response.json({"run_id": RUN, "token": "x"}), None, False),
    ],
)
def test_is_handoff(response: Response, run_id: str | None, expected: bool) -> None:
    """A handoff names the run; a redirect or an object of the handler's own does not."""
    assert expected is reply(response, run_id).is_handoff


@pytest.mark.parametrize("name", ["durable-run", "runId"])
def test_reply_of_a_wait_url(name: str) -> None:
    """Who asks a wait URL asks for its run."""
    waiting = reply(Response.redirect(f"?{name}={RUN}", 303), url=f"http://t/?{name}={RUN}")

    assert (RUN, True) == (waiting.run_id, waiting.is_handoff)
    assert f"<Reply 303, handoff of run {RUN}>" == repr(waiting)
