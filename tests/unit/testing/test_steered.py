"""A node that does nothing by itself."""

from __future__ import annotations

from durable_core.engine.embedded import embedded
from durable_core.flow.scope import HandlerKind
from durable_core.testing.harnesses import harness
from durable_core.testing.worker import ManualWorker
from support.harness_sample import sample


def test_nothing_happens_by_itself() -> None:
    """There is no keeper's thread; what is due waits for the test."""
    app = sample("def")
    with harness(app.durable) as t:
        reply = t.client(app.order).get("/order?id=7")
        t.clock.move_to(t.clock.now() + 86_400_000)

        assert app.durable.health()["scheduler"] is False
        assert not t.steps(reply)[2].done
        t.advance(0)
        assert t.steps(reply)[2].done


def test_one_run_at_a_time() -> None:
    """There is room for a run of either kind only while none is live."""
    app = sample("def")
    with harness(app.durable):
        node = embedded(app.durable.engine).worker
        assert isinstance(node, ManualWorker)
        assert [1, 1] == [node.runs.capacity.free(kind) for kind in HandlerKind]


def test_a_crash_takes_a_new_name() -> None:
    """The process goes on as another one; the dead one is not among those that share the store."""
    app = sample("def")
    with harness(app.durable):
        node = embedded(app.durable.engine).worker
        assert isinstance(node, ManualWorker)
        before = node.owner
        node.crash()

        assert before != node.owner
        assert [node.owner] == [peer.id for peer in node.store.workers()]
