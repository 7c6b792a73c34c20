"""Hooks for gunicorn, to be named in its configuration file.

::

    from durable_wsgi.gunicorn import post_worker_init, worker_exit

Each worker process then takes part in the work as soon as it is up, and not only after its first
request. When it is told to stop, it hands on the clients that wait; when it ends, it gives its runs
back. An application that is not of this package, such as one of Flask, says what is to be started
in an attribute: ``app.durables = [durable]``.
"""

from __future__ import annotations

import logging
from typing import Any

from durable_core.adapters import StopNotice
from durable_core.errors import StoreBusyError
from durable_wsgi._app import durables_of

__all__ = ["post_worker_init", "worker_exit"]

_logger = logging.getLogger("durable.wsgi")
#: Those of this process; gunicorn has one worker in each.
_notices: list[StopNotice] = []


def post_worker_init(worker: Any) -> None:
    """Start every ``Durable`` of the worker's application, after gunicorn has loaded it.

    gunicorn ends all of its workers when one cannot start. So one whose store is still locked after
    ``Settings.start_timeout`` serves: its first request starts it, or is answered with 503.

    Raises:
        StoreError: a store cannot be opened at all.
    """
    for durable in durables_of(worker.wsgi):
        try:
            durable.start(server_threads=worker.cfg.threads)
        except StoreBusyError as error:
            _logger.error("this worker starts with its first request: %s", error)
        _notices.append(StopNotice(durable.drain))


def worker_exit(server: Any, worker: Any) -> None:
    """Stop every ``Durable`` of the worker's application, which may never have been loaded."""
    while _notices:
        _notices.pop().close()
    for durable in durables_of(getattr(worker, "wsgi", None)):
        try:
            durable.stop(10.0)
        except Exception:
            _logger.exception("could not stop in good order")
