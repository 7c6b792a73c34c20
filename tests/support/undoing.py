"""A handler whose steps can be undone, and a ledger of what was: for tests of undoing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from durable_core.api.step import step, sync_step
from durable_core.errors import NonRetriableError
from durable_core.http.request import Request
from durable_core.http.response import Response
from support.harness import Ledger

__all__ = ["RELEASED", "RESERVED", "Shop", "SlowShop", "decoded"]


def decoded(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


class Shop:
    """Steps that reserve, and what undoes them."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.end: Callable[[], object] = lambda: None

    def reserve(self, name: str) -> str:
        """Reserve something."""
        return self.ledger.did(f"reserve {name}", f"r-{name}")

    def release(self, reservation: str) -> None:
        """Release it."""
        self.ledger.did(f"release {reservation}", None)

    def handler(self, asynchronous: bool, nap: float | None = None) -> Callable[[Request], Any]:
        """Return a handler that reserves a, b and c, sleeps, and comes to its end."""

        def sync(request: Request) -> object:
            for name in "abc":
                sync_step.options(undo=self.release).run(name, self.reserve, name)
            if nap is not None:
                sync_step.sleep("nap", nap)
            return self.end()

        async def async_(request: Request) -> object:
            for name in "abc":
                await step.options(undo=self.release).run(name, self.reserve, name)
            if nap is not None:
                await step.sleep("nap", nap)
            return self.end()

        return async_ if asynchronous else sync

    def fails(self) -> None:
        """Fail for good."""
        raise NonRetriableError("no money", public="the card is refused")


class SlowShop(Shop):
    """To reserve b takes until it may go on.

    Attributes:
        inside: step b has begun.
        go_on: lets it end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()

    def reserve(self, name: str) -> str:
        """Reserve something."""
        if name == "b":
            self.inside.set()
            assert self.go_on.wait(20)
        return super().reserve(name)


RESERVED = {f"reserve {name}": 1 for name in "abc"}
RELEASED = {f"release r-{name}": 1 for name in "abc"}
