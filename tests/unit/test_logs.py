"""Logging."""

from __future__ import annotations

import logging

import pytest

from durable_core.platform import logger, run_logger


def test_run_id_in_every_record(caplog: pytest.LogCaptureFixture) -> None:
    """A run's records carry its id, in the text and as an attribute."""
    with caplog.at_level(logging.INFO, "durable"):
        run_logger("r1", "GET /x").info("it %s", "works", extra={"mine": 1})
    [record] = caplog.records
    assert "run r1: it works" == record.getMessage()
    assert ("r1", "GET /x", 1) == (
        getattr(record, "run_id", None),
        getattr(record, "function_id", None),
        getattr(record, "mine", None),
    )


def test_quiet_by_default() -> None:
    """The library's logger prints nothing unless the application sets logging up."""
    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
