"""What live runs need of their node."""

from __future__ import annotations

from durable_core.runners.host import RunHost
from support.harness import lab


def test_a_node_is_a_host() -> None:
    """A node has everything that the protocol names."""
    names = {name for name in vars(RunHost) if not name.startswith("_")}
    with lab() as process:
        process.durable.start()
        node = process.engine.worker
        assert {"queue", "run_on_background_loop"} <= names
        assert [] == [name for name in names if not hasattr(node, name)]
