"""Running an execution for a client that waits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterable
from contextvars import ContextVar

import pytest

from durable_core import Request, Response
from durable_core.api.step import step, sync_step
from durable_core.engine.runs import ClientAnswer, RunExecutor
from durable_core.engine.worker import Worker
from durable_core.flow.effects import CallHandler, Flow
from durable_core.flow.execution import StoredExecution
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.scope import HandlerKind
from durable_core.model.decision import HandoffReason
from durable_core.model.run import Phase, Run
from durable_core.runners.settings import RegisteredEndpoint
from support.harness import Lab, lab, request, until_async


def execution(node: Worker) -> StoredExecution:
    run = Run(
        id="r1",
        app="lab",
        endpoint_key="it",
        function_id="it",
        phase=Phase.SYNC,
        retries=0,
        created_at=0,
    )
    return StoredExecution(node.env, ResolvedOptions(key="it"), run, request(), owner=node.owner)


def unanswered(ex: StoredExecution) -> Response:
    return Response.text(f"nothing of {ex.run.id}", 599)


def test_a_plain_handler_answers_in_this_thread() -> None:
    """What the handler returns is what the caller gets."""
    with lab() as process:
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        runs = RunExecutor(node, unanswered)
        endpoint = RegisteredEndpoint(
            lambda request: {"method": request.method}, HandlerKind.DEF, ResolvedOptions(key="it")
        )
        response = runs.start_for_client(endpoint, execution(node))

    assert b'{"method":"GET"}' == response.body


def test_an_execution_without_an_answer() -> None:
    """One that is closed before it has answered is answered by the one who asked for it."""

    async def handler(asked: Request) -> None:
        raise AssertionError("it is closed before it begins")

    async def asked(node: Worker) -> tuple[Response, Response]:
        runs = RunExecutor(node, unanswered)
        async_face = RegisteredEndpoint(handler, HandlerKind.ASYNC_DEF, ResolvedOptions(key="it"))
        plain = RegisteredEndpoint(lambda request: None, HandlerKind.DEF, ResolvedOptions(key="it"))
        answers = []
        for endpoint in (async_face, plain):
            ex = execution(node)
            ex.stored = True
            ex.close(SystemError("gone"))
            answers.append(await runs.start_for_client_async(endpoint, ex))
        return answers[0], answers[1]

    with lab() as process:
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        answers = asyncio.run(asked(node))

    assert [b"nothing of r1"] * 2 == [each.body for each in answers]


def test_a_task_that_is_cancelled_before_it_begins() -> None:
    """Its run is over all the same: nothing waits for it, and its client is answered."""

    async def handler(asked: Request) -> None:
        raise AssertionError("its task is cancelled before it begins")

    async def main(node: Worker) -> tuple[bool, list[str], bool]:
        runs = RunExecutor(node, unanswered)
        ended: list[str] = []
        run = runs.task_run(node, execution(node), handler)
        flow = node.flows.execute(run.ex)
        task = runs.run_in_task(run, flow, lambda: ended.append("ended"))
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled(), ended + list(node.live), runs.has_tasks

    with lab() as process:
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        assert (True, ["ended"], False) == asyncio.run(main(node))


def test_a_run_that_ends_while_its_client_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client counts as gone, and its run is detached: it was given no answer."""
    detached: list[object] = []

    async def handler(asked: Request) -> None:
        raise AssertionError("its task is cancelled before it begins")

    async def main(node: Worker) -> None:
        runs = RunExecutor(node, unanswered)
        ex = execution(node)
        answer = ClientAnswer(runs, ex, asyncio.get_running_loop())
        answer.run = run = runs.task_run(node, ex, handler, answer.set)
        monkeypatch.setattr(run, "detach", detached.append)
        client = asyncio.create_task(answer.wait())
        await asyncio.sleep(0)
        task = runs.run_in_task(run, node.flows.execute(ex), answer.run_ended)
        task.cancel()
        client.cancel()
        await asyncio.wait([task, client])
        assert client.cancelled()
        assert answer.response is None

    with lab() as process:
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        asyncio.run(main(node))

    assert [HandoffReason.DISCONNECT] == detached


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), RuntimeError("broken")]
)
def test_a_task_that_breaks(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """Its run is over, and the error is logged once; what ends the event loop does."""

    async def handler(asked: Request) -> None:
        await asyncio.sleep(0)
        raise error

    def broken(ex: StoredExecution) -> Flow[None]:
        yield CallHandler()
        raise error

    async def begin(node: Worker, runs: RunExecutor[StoredExecution], ended: list[str]) -> None:
        run = runs.task_run(node, execution(node), handler)
        runs.run_in_task(run, broken(execution(node)), lambda: ended.append("ended"))

    with lab() as process, contextlib.closing(asyncio.new_event_loop()) as loop:
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        runs, ended = RunExecutor(node, unanswered), list[str]()
        loop.run_until_complete(begin(node, runs, ended))
        ends_loop = isinstance(error, KeyboardInterrupt | SystemExit)
        with pytest.raises(type(error)) if ends_loop else contextlib.nullcontext():
            loop.run_until_complete(until_async(lambda: ended))
        loop.run_until_complete(asyncio.sleep(0))
        error.__traceback__ = None  # which refers to the task
        gc.collect()

        assert (["ended"], [], False) == (ended, list(node.live), runs.has_tasks)
    broke = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert ["run r1: the execution broke"] == broke


@pytest.mark.parametrize("part", ["step", "handler"])
def test_a_client_is_answered_whose_run_ends_by_a_generator_exit(part: str) -> None:
    """User code may raise it; it is not mistaken for the end of an event loop."""

    async def fails() -> None:
        raise GeneratorExit

    async def handler(asked: Request) -> None:
        await (step.run("s", fails) if part == "step" else fails())

    with lab() as process:
        answer = asyncio.run(process.endpoint(handler).handle_async(request()))
        node = process.engine.worker
        assert node is not None
        assert (500, False) == (answer.status, node.runs.has_tasks)


def test_a_run_is_over_when_its_client_is_answered() -> None:
    """Its end takes no turn of the event loop after that of its client."""
    with lab() as process:
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        live = node.live
        seen: list[int] = []

        async def handler(asked: Request) -> None:
            seen.append(len(live))

        async def main() -> bool:
            await process.endpoint(handler).handle_async(request())
            seen.append(len(live))
            return node.runs.has_tasks

        has_tasks = asyncio.run(main())

    assert ([1, 0], False) == (seen, has_tasks)


_USER: ContextVar[str] = ContextVar("user", default="nobody")


@pytest.mark.parametrize("streamed", [False, True])
def test_context_of_a_request(streamed: bool) -> None:
    """What a middleware has put into the context is there in handlers and steps of both kinds."""
    seen: list[str] = []

    def note(where: str) -> None:
        seen.append(f"{where} {_USER.get()}")

    def sync(request: Request) -> str:
        note("def")
        sync_step.run("step", note, "step of def")
        return "end"

    async def async_(request: Request) -> str:
        note("async def")
        await step.run("step", note, "step of async def")
        return "end"

    async def main(process: Lab) -> None:
        _USER.set("ann")
        asked = request(accept="text/event-stream") if streamed else request()
        for handler in (sync, async_):
            endpoint = process.endpoint(handler, function_id=handler.__name__)
            response = await endpoint.handle_async(asked)
            if isinstance(response.body, AsyncIterable):
                async for _ in response.body:
                    pass

    with lab() as process:
        asyncio.run(main(process))
    assert ["def ann", "step of def ann", "async def ann", "step of async def ann"] == seen
