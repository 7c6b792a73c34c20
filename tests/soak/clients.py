"""The clients of the soak: they ask for runs, follow what they are told, and write it down."""

from __future__ import annotations

import heapq
import http.client
import json
import socket
import threading
import time
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

from durable_client import Collector, fetch_with_stream
from durable_core.errors import (
    ClientError,
    ConnectFailedError,
    ConnectionLostError,
    RequestTimeoutError,
)
from soak.journal import Journal, Line
from soak.programs import Program, Sequence, Wait, Work, dump, leaves, random_program
from support.processes import Reply, fetch

__all__ = ["Clients", "Trip"]

#: No answer may take longer than this, seconds: a wait URL holds its clients for 25.
PATIENCE = 60.0
#: A client that was led on for so long comes back when the soak ends.
_PARKED_AFTER = 30.0
#: Seconds between two requests of a client for the same thing.
_PAUSE = 0.3
_THREE_STEPS = Sequence((Work(0), Work(0), Work(0)))


@dataclass(slots=True)
class Trip:
    """One request for a run.

    Attributes:
        name: names it in the journal.
        program: what the run does.
        kind: "sync" or "async".
        streamed: the client reads the event stream.
        end: how the run ends, see ``soak.application``.
        url: of the endpoint, and later the wait URL.
    """

    name: str
    program: Program
    kind: str
    streamed: bool
    end: str
    url: str

    @property
    def body(self) -> bytes:
        """The request's body."""
        return json.dumps(dump(self.program)).encode()


@dataclass(order=True, slots=True)
class _Event:
    due: float
    trip: str = field(compare=False)
    path: str = field(compare=False)
    execution: str = field(compare=False)

    @property
    def token(self) -> str:
        """What the wait gives; the event's id, too."""
        return f"{self.trip}/{self.path}/{self.execution}"


class Clients:
    """Asks servers for runs of random programs, in threads.

    Args:
        seed: of the programs.
        urls: of the servers.
        journal: what clients were told goes there.
        count: the number of clients.
        program: of each run, instead of random ones.
    """

    def __init__(
        self,
        seed: int,
        urls: SequenceOf[str],
        journal: Journal,
        count: int,
        program: Program | None = None,
    ) -> None:
        self._seed = seed
        self._program = program
        self._urls = urls
        self._journal = journal
        self._leave = threading.Event()
        self._parked: list[Trip] = []
        self._waits: set[tuple[str, str]] = set()
        self._events: list[_Event] = []
        self._event_dice = Random(f"{seed}/events")
        self._lock = threading.Condition()
        self._threads = [
            threading.Thread(target=self._ask_for_runs, args=(number,), daemon=True)
            for number in range(count)
        ]
        self._sender = threading.Thread(target=self._send_events, daemon=True)
        self._closed = False

    def start(self) -> None:
        """Begin to ask."""
        for thread in (*self._threads, self._sender):
            thread.start()

    def stop_asking(self) -> None:
        """Begin no further run, and wait until each client has an answer or is parked."""
        self._leave.set()
        for thread in self._threads:
            thread.join()

    def finish(self) -> None:
        """Follow the parked clients to their answers, and stop."""
        threads = [
            threading.Thread(target=self._follow, args=(trip, float("inf")), daemon=True)
            for trip in self._parked
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._sender.join()

    def ask_for_steps(self, number: int) -> float:
        """Ask for a run of three steps, the same each time; return how long the answer took."""
        url = self._urls[number % len(self._urls)]
        kind = ("sync", "async")[number // len(self._urls) % 2]
        name = f"steps.{number}"
        trip = Trip(
            name, _THREE_STEPS, kind, streamed=False, end="", url=f"{url}/{kind}?trip={name}&end="
        )
        began = time.monotonic()
        self._ask(trip)
        return time.monotonic() - began

    def on_line(self, line: Line) -> None:
        """Send an event soon if this line of the journal says that a handler waits for one.

        Each execution that comes to the wait gets one of its own: if the process dies before the
        wait is durable, only events that come later count for the next one.
        """
        if line["what"] != "ask" or (line["trip"], line["path"]) not in self._waits:
            return
        due = time.monotonic() + self._event_dice.choice((0, 0, 0.05, 0.5, 2))
        with self._lock:
            event = _Event(due, line["trip"], line["path"], line["execution"])
            heapq.heappush(self._events, event)
            self._lock.notify_all()

    # -- runs -------------------------------------------------------------------------------

    def _ask_for_runs(self, client: int) -> None:
        dice = Random(f"{self._seed}/{client}")
        number = 0
        while not self._leave.is_set():
            trip = Trip(
                name=f"{client}.{number}",
                program=self._program or random_program(dice),
                kind=dice.choice(("sync", "async")),
                streamed=dice.random() < 0.35,
                end=dice.choices(("", "fail", "cancel"), (70, 15, 15))[0],
                url=self._choose_open_url(dice),
            )
            trip.url = f"{trip.url}/{trip.kind}?trip={trip.name}&end={trip.end}"
            self._waits.update(
                (trip.name, path)
                for path, leaf in leaves(trip.program)
                if isinstance(leaf, Wait) and leaf.answered
            )
            if trip.streamed:
                self._ask_for_stream(trip)
            else:
                self._ask(trip)
            number += 1
            self._leave.wait(dice.uniform(0, 0.1))

    def _choose_open_url(self, dice: Random) -> str:
        """Return the URL of a server that takes connections now."""
        while True:
            url = dice.choice(self._urls)
            try:
                socket.create_connection(("127.0.0.1", urlsplit(url).port), 5).close()
            except OSError:
                if self._leave.wait(_PAUSE):
                    return url
            else:
                return url

    def _ask(self, trip: Trip) -> None:
        """Ask for a run, and follow the redirects."""
        self._sent(trip)
        try:
            reply = fetch(trip.url, "POST", body=trip.body, timeout=PATIENCE)
        except (OSError, http.client.HTTPException) as error:
            self._journal.write("broken", trip=trip.name, error=repr(error))
            self._leave.wait(_PAUSE)
            return
        self._told(trip, reply)
        if reply.status == 503:
            self._leave.wait(_PAUSE)
        elif reply.status in (302, 303):
            trip.url = reply.location
            if trip.end == "cancel":
                self._cancel(trip)
            self._follow(trip, time.monotonic() + _PARKED_AFTER)

    def _cancel(self, trip: Trip) -> None:
        """Cancel the run, some time after it was handed off."""
        time.sleep(self._event_dice.choice((0, 0.05, 0.5, 1.5)))
        status = 0
        while status in (0, 503):
            self._journal.write("cancel", trip=trip.name)
            try:
                status = fetch(trip.url, "DELETE", timeout=PATIENCE).status
            except TimeoutError as error:
                self._journal.write("unanswered", trip=trip.name, error=repr(error))
                return
            except (OSError, http.client.HTTPException):
                time.sleep(_PAUSE)  # the process was killed
        self._journal.write("cancelled", trip=trip.name, status=status)

    def _follow(self, trip: Trip, until: float) -> None:
        """Ask for the result until it is there; at ``until``, park the client."""
        while time.monotonic() < until:
            if self._ask_for_result(trip):
                return
            time.sleep(_PAUSE)
        self._parked.append(trip)

    def _ask_for_result(self, trip: Trip) -> bool:
        """Ask once at the wait URL; return whether the client has its final answer."""
        try:
            reply = fetch(trip.url, timeout=PATIENCE)
        except TimeoutError as error:
            self._journal.write("unanswered", trip=trip.name, error=repr(error))
            return True
        except (OSError, http.client.HTTPException):
            return False  # the process was killed: the URL is good for the next one
        self._told(trip, reply)
        if reply.status in (202, 302, 303):
            trip.url = reply.location
        return reply.status not in (202, 302, 303, 503)

    def _ask_for_stream(self, trip: Trip) -> None:
        """Ask for a run, and read its stream to its end."""
        self._sent(trip)
        collected = Collector()
        try:
            answer = fetch_with_stream(
                trip.url,
                method="POST",
                body=trip.body,
                collect=collected,
                timeout=_PARKED_AFTER,
                max_reconnects=30,
            )
        except (ConnectFailedError, ConnectionLostError) as error:
            # The server had not named a URL to come back to.
            self._journal.write("broken", trip=trip.name, error=repr(error))
            self._leave.wait(_PAUSE)
            return
        except RequestTimeoutError:
            self._journal.write("left", trip=trip.name)
            return
        except ClientError as error:
            self._journal.write("cut", trip=trip.name, error=repr(error))
            return
        self._journal.write(
            "streamed",
            trip=trip.name,
            status=answer.status,
            body=answer.text(),
            items=list(collected.items),
        )

    def _sent(self, trip: Trip) -> None:
        self._journal.write(
            "sent",
            trip=trip.name,
            url=trip.url,
            kind=trip.kind,
            streamed=trip.streamed,
            end=trip.end,
            program=dump(trip.program),
        )

    def _told(self, trip: Trip, reply: Reply) -> None:
        final = reply.status not in (202, 302, 303, 503)
        body = reply.text if final else ""
        self._journal.write("told", trip=trip.name, status=reply.status, body=body)

    # -- events -----------------------------------------------------------------------------

    def _send_events(self) -> None:
        while True:
            with self._lock:
                while not self._closed and not self._events:
                    self._lock.wait()
                if self._closed:
                    return
                event = heapq.heappop(self._events)
            pause = event.due - time.monotonic()
            if pause > 0:
                time.sleep(min(pause, 0.02))
            elif not self._send(self._event_dice.choice(self._urls), event):
                event.due = time.monotonic() + _PAUSE
            else:
                continue
            with self._lock:
                heapq.heappush(self._events, event)

    def _send(self, url: str, event: _Event) -> bool:
        """Send an event; return whether it was taken. It may be sent again: it has an id."""
        data = {"trip": event.trip, "token": event.token}
        body = json.dumps({"name": event.path, "id": event.token, "data": data}).encode()
        try:
            reply = fetch(f"{url}/events", "POST", body=body, timeout=PATIENCE)
        except (OSError, http.client.HTTPException):
            return False
        if reply.status == 200:
            self._journal.write("event", trip=event.trip, path=event.path)
            return True
        return False
