"""The requests to the server's API, and what its answers mean."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from durable_core.engines.remote import Answered
from durable_core.errors import ConfigurationError
from durable_inngest._config import Config, hashed_key
from durable_inngest._http import Call, Timeouts

__all__ = [
    "MOST_BYTES",
    "NO_RUN",
    "SDK",
    "Begun",
    "Calls",
    "begun",
    "ids_of",
    "nothing",
    "receiver_of",
]


# --- api ------------------------------------------------------------------------------------------

#: The server takes a checkpoint of 4 MiB; so much of that is for the event and the ops.
MOST_BYTES = 4 * 1024 * 1024 - 4 * 1024

#: The id of no run: what is asked about to see whether the server answers.
NO_RUN = "00000000000000000000000000"

#: How we call ourselves, as the protocol wants it: a name, a colon, "v" and a version.
SDK = "durable-inngest:v0.1.0"

_QUICK = Timeouts(connect=5.0, idle=15.0, whole=30.0)
#: Of a post that lasts as long as its steps push: time that they let pass is not the server's.
_STREAMED = Timeouts(connect=5.0, idle=60.0)


@dataclass(frozen=True, slots=True)
class Begun:
    """What the server says of a run that it has taken up.

    Attributes:
        fn_id, app_id: what it calls the function and its application.
        token: opens the run's output for an hour; "" if it gives none.
        realtime_token: opens the run's stream; "" if it gives none.
    """

    fn_id: str
    app_id: str
    token: str
    realtime_token: str


class Calls:
    """Makes requests.

    Args:
        config: where to, and with which keys.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        #: What may stand in the Authorization header, the first to be tried first.
        self.bearers = tuple(hashed_key(key) for key in config.signing_keys) or ("",)
        #: Made once: every call has them.
        self._fields = {bearer: self._headers(bearer) for bearer in self.bearers}

    def begin(
        self, bearer: str, *, run_id: str, event: str, ops: Sequence[str], ts: int, retries: int
    ) -> Call:
        """Return the request that begins a run with an event (as JSON), and with its first ops."""
        head = f'{{"run_id":{json.dumps(run_id)},"event":{event}'
        tail = f'"ts":{ts},"request_version":2,"retries":{retries}}}'
        body = f'{head},"steps":[{",".join(ops)}],{tail}'
        # Not sent again unseen: what a second one is answered depends on the first.
        return self._post(bearer, "/v1/checkpoint", body, repeatable=False)

    def go_on(self, bearer: str, *, run_id: str, begun: Begun, ops: Sequence[str], ts: int) -> Call:
        """Return the request with further ops of a run."""
        ids = {"fn_id": begun.fn_id, "app_id": begun.app_id, "run_id": run_id}
        body = f'{json.dumps(ids)[:-1]},"steps":[{",".join(ops)}],"ts":{ts}}}'
        path = f"/v1/checkpoint/{quote(run_id, safe='')}/steps"
        return self._post(bearer, path, body, repeatable=True)  # the first of two equal ones counts

    def state(self, bearer: str, run_id: str, part: str) -> Call:
        """Return the request for the ``batch`` of events or the ``actions`` of a run."""
        url = f"{self._config.api_url}/v0/runs/{quote(run_id, safe='')}/{part}"
        return Call(url=url, headers=self._fields[bearer], timeouts=_QUICK)

    def output(self, run_id: str, token: str, seconds: float) -> Call:
        """Return the request that waits for a run's output, for so long. The token is all."""
        timeouts = Timeouts(connect=5.0, idle=None, whole=max(seconds, 0.01))
        return Call(url=self.output_url(run_id, token), timeouts=timeouts)

    def output_url(self, run_id: str, token: str) -> str:
        """Return where the server itself gives the output of a run."""
        query = urlencode({"token": token})
        return f"{self._config.api_url}/v1/http/runs/{quote(run_id, safe='')}/output?{query}"

    def events(self, events: object, seed: str) -> Call:
        """Return the request that sends events; with the same seed they are taken once.

        Raises:
            ConfigurationError: there is no event key, and the server is none for development.
        """
        if self._config.event_key is None and not self._config.is_dev:
            raise ConfigurationError(
                "events cannot be sent to the Inngest server without an event key: set "
                "INNGEST_EVENT_KEY or InngestEngine(event_key=)"
            )
        key = quote(self._config.event_key or "NO_EVENT_KEY_SET", safe="")
        headers = {
            "content-type": "application/json",
            "x-inngest-sdk": SDK,
            "x-inngest-sdk-handled": "true",
            "x-inngest-event-id-seed": seed,
        }
        return Call(
            method="POST",
            url=f"{self._config.event_url}/e/{key}",
            headers={**headers, **self._environment()},
            body=json.dumps(events, ensure_ascii=False, separators=(",", ":")).encode("utf-8"),
            timeouts=_QUICK,
        )

    def signal(self, bearer: str, name: str, data: object) -> Call:
        """Return the request that sends a signal. It is answered with 404 if no run waits."""
        body = json.dumps({"signal": name, "data": data}, ensure_ascii=False, separators=(",", ":"))
        # The server knows no ids of signals: a second one might reach the next wait.
        return self._post(bearer, "/v1/signals", body, repeatable=False)

    def tee(self, bearer: str, run_id: str, body: AsyncIterable[bytes]) -> Call:
        """Return the request that passes on a part of a run's stream, as it comes."""
        return Call(
            method="POST",
            url=f"{self._config.api_url}/v1/realtime/publish/tee?{urlencode({'channel': run_id})}",
            headers={**self._fields[bearer], "content-type": "application/octet-stream"},
            body=body,
            timeouts=_STREAMED,
            repeatable=False,
        )

    def stream_url(self, realtime_token: str) -> str:
        """Return where the server passes the stream of a run on."""
        query = urlencode({"token": realtime_token})
        return f"{self._config.api_url}/v1/realtime/sse?{query}"

    def probe(self, bearer: str) -> Call:
        """Return a request that any server which is there answers somehow, a wrong key with 401."""
        # As long as a checkpoint has to connect: a lost packet is no server that is away.
        timeouts = Timeouts(connect=5.0, idle=5.0, whole=5.0)
        url = f"{self._config.api_url}/v0/runs/{NO_RUN}/actions"
        return Call(url=url, headers=self._fields[bearer], timeouts=timeouts)

    def _post(self, bearer: str, path: str, body: str, *, repeatable: bool) -> Call:
        return Call(
            method="POST",
            url=self._config.api_url + path,
            headers=self._fields[bearer],
            body=body.encode("utf-8"),
            timeouts=_QUICK,
            repeatable=repeatable,
        )

    def _headers(self, bearer: str) -> dict[str, str]:
        return {
            "content-type": "application/json",
            "x-inngest-sdk": SDK,
            "authorization": f"Bearer {bearer}".rstrip(),  # there may be no key
            **self._environment(),
        }

    def _environment(self) -> dict[str, str]:
        name = self._config.environment
        return {"x-inngest-env": name} if name else {}


def begun(answer: Answered) -> Begun:
    """Return what the answer to the first checkpoint says.

    Raises:
        ValueError: it is no such answer.
    """
    document = json.loads(answer.body)
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, dict):
        raise ValueError("the answer has no data")
    found = [data.get(name) or "" for name in ("fn_id", "app_id", "token", "realtime_token")]
    if not all(isinstance(text, str) for text in found) or not all(found[:2]):
        raise ValueError("the answer has no fn_id and app_id")
    return Begun(*found)


# --- reading --------------------------------------------------------------------------------------
#
# What the bodies of the server's answers say.


def nothing(answer: Answered) -> None:
    """Read an answer that says nothing but its status."""


def ids_of(answer: Answered) -> list[str]:
    """Return the ids that the server gives events; ValueError if there are none."""
    document = json.loads(answer.body)
    ids = document.get("ids") if isinstance(document, dict) else None
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ValueError("the answer has no ids of events")
    return ids


def receiver_of(answer: Answered) -> str | None:
    """Return the id of the run that got a signal; None if no run waited for it.

    Raises:
        ValueError: the answer says neither.
    """
    if answer.status == 404:
        return None
    document = json.loads(answer.body)
    data = document.get("data") if isinstance(document, dict) else None
    run_id = data.get("run_id") if isinstance(data, dict) else None
    if not isinstance(run_id, str):
        raise ValueError("the answer names no run")
    return run_id
