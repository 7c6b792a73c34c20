"""Which key signs tokens, which verify, and how other processes learn of a new one."""

from __future__ import annotations

import pytest

from durable_core.api.step import sync_step
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.engine.secrets import new_secret, signing_order
from durable_core.errors import ConfigurationError
from durable_core.http.request import Request
from durable_core.ports import StoredSecret
from durable_core.stores.memory import MemoryStore
from support.harness import FakeClock, Lab, lab, request, until

NEW, OLD, OLDEST = (
    StoredSecret(value=value, created_at=created_at)
    for value, created_at in ((b"new", 20_000), (b"old", 10_000), (b"oldest", 0))
)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (24_999, (b"old", b"new", b"oldest")),
        (25_000, (b"new", b"old", b"oldest")),
        (14_999, (b"oldest", b"new", b"old")),
        (0, (b"oldest", b"new", b"old")),
    ],
)
def test_a_secret_signs_when_all_processes_know_it(now: int, expected: tuple[bytes, ...]) -> None:
    """It verifies at once."""
    assert expected == signing_order([NEW, OLD, OLDEST], now)


def test_the_only_secret_signs_at_once() -> None:
    """As after a revocation."""
    assert (b"new",) == signing_order([NEW], 20_000)


def test_what_is_removed() -> None:
    """Secrets that verify nothing any more; all older ones on revocation. Values are random."""
    rotated, revoked = new_secret(9_000, 5_000, revoke=False), new_secret(9_000, 5_000, revoke=True)

    assert (4_000, 9_001) == (rotated.replaced_before, revoked.replaced_before)
    assert rotated.secret != revoked.secret
    assert 32 == len(rotated.secret)
    assert "secret" not in repr(rotated).replace("RotateSecret", "")


def nap(request: Request) -> str:
    sync_step.sleep("nap", "1h")
    return "done"


def engine_of(process: Lab) -> EmbeddedEngine:
    engine = process.durable.engine
    assert isinstance(engine, EmbeddedEngine)
    return engine


@pytest.mark.parametrize("revoke", [False, True])
def test_another_process_takes_a_new_secret_without_a_restart(revoke: bool) -> None:
    """Tokens stay valid until they are revoked, everywhere."""
    store, clock = MemoryStore(), FakeClock()
    with lab(store=store, clock=clock) as one, lab(store=store, clock=clock) as other:
        location = one.endpoint(nap).handle(request()).headers["location"]
        endpoint = other.endpoint(nap)
        one.durable.runs.cancel(one.records.list()[0].run.id)  # so that no answer is waited for
        engine_of(one).rotate_secrets(revoke=revoke)
        changed = sorted(engine_of(one).env.secrets())
        until(lambda: sorted(engine_of(other).env.secrets()) == changed)
        answer = endpoint.handle(request(f"/it{location}"))

    assert (1 if revoke else 2) == len(changed)
    assert (403 if revoke else 410) == answer.status


def test_given_secrets_are_the_users_own() -> None:
    """The engine cannot change them, and says where to."""
    with lab(secrets=["s" * 16]) as process, pytest.raises(ConfigurationError, match="secrets="):
        engine_of(process).rotate_secrets()
