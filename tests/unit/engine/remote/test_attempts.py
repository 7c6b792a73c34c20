"""How often the server is called, how far apart, with which key, and when it is asked for first."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from durable_core.engine.remote import attempts as _attempts
from durable_core.engine.remote.attempts import Answered, Attempts
from durable_core.errors import ConnectFailedError, EngineUnavailableError
from durable_core.testing.clock import FakeIds

KEYS = ["the first key", "the other key"]


@dataclass
class Call:
    """A call: its method, and what proves who we are."""

    method: str
    bearer: str


class Ids(FakeIds):
    """Randomness of a given outcome."""

    def __init__(self, random: float) -> None:
        super().__init__()
        self._random = random

    def uniform(self) -> float:
        return self._random


class Time:
    """The clock of ``Attempts``."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Server(Attempts[Call]):
    """Attempts at a server that answers what is given: statuses, or no answer at all.

    Args:
        answers: one for each call.
        random: what randomness is.
    """

    def __init__(self, answers: list[int | None], random: float = 0.0) -> None:
        super().__init__("the server", KEYS, Ids(random))
        self._answers = iter(answers)
        self.asked: list[Call] = []

    def probe_call(self, bearer: str) -> Call:
        return Call("GET", bearer)

    async def exchange(self, call: Call) -> Answered:
        self.asked.append(call)
        await asyncio.sleep(0)  # others have their turn meanwhile
        status = next(self._answers)
        if status is None:
            raise ConnectFailedError("refused")
        return Answered(status, {}, b"said")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was slept, without doing so."""
    slept: list[float] = []
    real, here = asyncio.sleep, threading.get_ident()

    async def sleep(seconds: float, result: object = None) -> object:
        if threading.get_ident() == here and seconds:
            slept.append(seconds)
            seconds = 0
        return await real(seconds, result)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return slept


def insist(server: Server) -> bytes:
    def make(bearer: str) -> Call:
        return Call("POST", bearer)

    return asyncio.run(server.retry(make, lambda answer: answer.body))


@pytest.mark.parametrize("random", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("answer", [500, 503, 429, 408, None])
def test_five_attempts(pauses: list[float], random: float, answer: int | None) -> None:
    """The pause between them doubles, and has up to a tenth of a second at random."""
    server = Server([answer] * 5, random)

    with pytest.raises(EngineUnavailableError):
        insist(server)

    assert 5 == len(server.asked)
    assert [0.1 * (double + random) for double in (1, 2, 4, 8)] == pauses
    assert server.is_down


def test_the_last_attempt(pauses: list[float]) -> None:
    """Four failures are made good by one answer."""
    server = Server([500, None, 429, 503, 200])

    assert b"said" == insist(server)
    assert not server.is_down


@pytest.mark.parametrize("status", [400, 404, 409, 413])
def test_a_refusal(pauses: list[float], status: int) -> None:
    """What would be refused again is not tried again, and the server is no less there."""
    server = Server([status])

    with pytest.raises(EngineUnavailableError, match=f"{status} said"):
        insist(server)

    assert ([], 1, False) == (pauses, len(server.asked), server.is_down)


@pytest.mark.parametrize("status", [401, 403])
def test_the_other_key(pauses: list[float], status: int) -> None:
    """A key that is refused is followed by its fallback at once; refused as well, that is all."""
    server = Server([status, 200, status, status])

    assert b"said" == insist(server)
    with pytest.raises(EngineUnavailableError, match=str(status)):
        insist(server)

    assert KEYS * 2 == [request.bearer for request in server.asked]
    assert [] == pauses


# -- whether the server is there ---------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(_attempts, "time", made)
    return made


def methods(server: Server) -> list[str]:
    return [request.method for request in server.asked]


def test_many_ask_at_a_time(clock: Time) -> None:
    """One exchange tells all of them, and nobody else for the next ten seconds."""

    async def clients(server: Server) -> None:
        await asyncio.gather(*(server.probe() for _ in range(20)))
        clock.now += 9.9
        await asyncio.gather(*(server.probe() for _ in range(20)))
        assert ["GET"] == methods(server)
        clock.now += 0.2
        await asyncio.gather(*(server.probe() for _ in range(20)))

    server = Server([404, 404])
    asyncio.run(clients(server))
    assert ["GET"] * 2 == methods(server)


def test_many_are_told_why_not(clock: Time) -> None:
    """Each of those who have asked at a time; the next one asks again."""

    async def clients(server: Server) -> list[Any]:
        told = await asyncio.gather(*(server.probe() for _ in range(5)), return_exceptions=True)
        await server.probe()
        return told

    server = Server([None, 200])
    told = asyncio.run(clients(server))

    assert {"the server cannot be used: it does not answer: refused"} == set(map(str, told))
    assert [EngineUnavailableError] * 5 == list(map(type, told))
    assert 2 == len(server.asked)


def test_a_client_that_leaves_while_it_is_asked(clock: Time) -> None:
    """The others are told all the same."""

    async def clients(server: Server) -> None:
        asking = [asyncio.ensure_future(server.probe()) for _ in range(2)]
        await asyncio.sleep(0)
        asking[0].cancel()
        await asking[1]
        assert asking[0].cancelled()

    server = Server([200])
    asyncio.run(clients(server))
    assert ["GET"] == methods(server)


@pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 405, 410, 429, 500, 501])
def test_any_answer_of_its_own_will_do(clock: Time, status: int) -> None:
    """Servers and proxies answer as they like."""
    asyncio.run(Server([status]).probe())


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_the_server_does_not_take(clock: Time, status: int) -> None:
    """Nobody may begin a step: its result could not be reported; as long as that is so."""

    async def clients(server: Server) -> None:
        for _ in range(2):
            with pytest.raises(EngineUnavailableError, match="does not take the signing key"):
                await server.probe()
        await server.probe()

    server = Server([*[status] * 4, 200])  # it has two keys, and tries both
    asyncio.run(clients(server))
    assert 5 == len(server.asked)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_stands_before_a_server_that_is_away(clock: Time, status: int) -> None:
    """It says so; and as long as it does, everybody asks."""

    async def clients(server: Server) -> None:
        for _ in range(2):
            with pytest.raises(EngineUnavailableError, match=f"answers {status}"):
                await server.probe()
        await server.probe()

    server = Server([status, status, 200])
    asyncio.run(clients(server))
    assert 3 == len(server.asked)


def test_a_server_that_was_down_a_moment_ago(clock: Time, pauses: list[float]) -> None:
    """It is asked even though it has answered lately: the last thing it did was not to."""
    server = Server([200, *[500] * 5, 200])
    insist(server)
    assert server.is_reachable
    with pytest.raises(EngineUnavailableError):
        insist(server)

    assert not server.is_reachable
    asyncio.run(server.probe())
    assert "GET" == methods(server)[-1]
    assert server.is_reachable
