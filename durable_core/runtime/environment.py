"""Where the engine cannot work: servers whose threads are not threads."""

from __future__ import annotations

import sys

from durable_core.errors import ConfigurationError

__all__ = ["refuse_patched_threads"]


def refuse_patched_threads() -> None:
    """Refuse to start where threads are not threads.

    Raises:
        ConfigurationError: gevent or eventlet has patched them, or uWSGI runs without threads.
    """
    for library, patched in (("gevent", _gevent_patched), ("eventlet", _eventlet_patched)):
        if patched():
            raise ConfigurationError(
                f"{library} has patched the threading module; the engine needs real threads. "
                "Use a server with threads (gunicorn's gthread worker, waitress) instead"
            )
    if _uwsgi_without_threads():
        raise ConfigurationError("uWSGI runs without threads; start it with --enable-threads")


def _gevent_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _eventlet_patched() -> bool:
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and bool(patcher.is_monkey_patched("thread"))


def _uwsgi_without_threads() -> bool:
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None:
        return False
    options = getattr(uwsgi, "opt", {})
    return not (options.get("enable-threads") or options.get("threads"))
