"""The node of the process that asks: started once, left alone after a fork, stopped at exit."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable

from durable_core.runtime.environment import refuse_patched_threads
from durable_core.runtime.logs import logger
from durable_inngest._node import Node

__all__ = ["Life", "running_loop"]


class Life:
    """See the module.

    Args:
        make: makes the node.
    """

    def __init__(self, make: Callable[[], Node]) -> None:
        self._make = make
        self._node: Node | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._at_exit = False
        #: A stop is under way.
        self.stopping = False

    @property
    def node(self) -> Node | None:
        """The node of this process, if it was started."""
        node = self._node
        return node if node is not None and node.pid == os.getpid() else None

    def started(self) -> Node:
        """Return the node of this process, started now if it was not.

        Raises:
            ConfigurationError: the engine is set up wrongly, or threads do not work here.
        """
        node = self.node
        if node is not None:
            return node
        if self._pid != os.getpid():
            # A fork may have happened while a thread of the parent held the lock.
            self._lock, self._pid, self.stopping = threading.RLock(), os.getpid(), False
        with self._lock:
            node = self.node
            if node is None:
                refuse_patched_threads()
                node = self._node = self._make()
                how = ", for development: its calls are not verified" if node.config.is_dev else ""
                logger.info("%s started, with %s%s", node.env.app, node.config.api_url, how)
                if not self._at_exit:
                    self._at_exit = True
                    atexit.register(self._stop_at_exit)
            return node

    def stop(self, timeout: float) -> None:
        """Stop the node of this process, if there is one.

        Raises:
            RuntimeError: called on the event loop that its runs need.
        """
        node = self.node
        if node is None:
            return
        if running_loop() is not None and node.has_tasks_on(running_loop()):
            raise RuntimeError(
                "stop() would block the event loop that its runs need; use 'await stop_async()'"
            )
        with self._lock:
            if self._node is not node:
                return
            self.stopping = True
            try:
                node.stop(timeout)
            finally:
                self._node = None
                self.stopping = False

    def _stop_at_exit(self) -> None:
        try:
            self.stop(10.0)
        except Exception:
            logger.exception("could not stop in good order")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of this thread, if one runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
