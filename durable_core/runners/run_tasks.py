"""The tasks that run the code of one handler, and what each of them waits for.

A handler is suspended when each of its tasks waits for a parked step. What a task waits for is seen
by public means only. A coroutine yields the future that it waits for to its task: the coroutines of
a run are wrapped, so that this future is seen on its way. The task factory of the loop wraps the
coroutines of the tasks that a handler starts, and ``call_at`` of the loop shows its time-outs.
``docs/explanation/replay-and-determinism.md`` states the rules.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from contextvars import ContextVar
from types import (
    CodeType,
    CoroutineType,
    FrameType,
    GeneratorType,
    MappingProxyType,
    coroutine,
)
from typing import Any, TypeVar
from weakref import WeakSet

from durable_core.flow.scope import current_run
from durable_core.platform import logger
from durable_core.runners.begun_call import BegunCall, LateTask

__all__ = [
    "ParkedFuture",
    "RunTask",
    "RunTasks",
    "context_outside_run",
    "coordinates_steps",
    "enter_run",
    "watch_loop",
]

T = TypeVar("T")

_NOTHING: Mapping[str, ParkedFuture] = MappingProxyType({})
#: Of a handler that starts no tasks. It is never changed.
_NO_TASKS: dict[asyncio.Future[Any], Any] = {}

#: The packages whose coroutines wait for steps and for each other, and for nothing else.
_COORDINATING: set[str] = set()
#: Packages through which they do.
_PRIMITIVES = frozenset({"anyio", "asyncio", "contextlib"})

#: Ticks of the loop in which no task of a run goes on, after which none is about to. The end of a
#: task reaches the task that awaits it in 2 ticks, and in 2 more through each ``gather`` between.
_TICKS_TO_SETTLE = 16
#: Ticks of the loop in which a time-out that has fired reaches what it cancels, through groups.
_TICKS_TO_CANCEL = 16

#: The run that the current code is no part of, though it may see it: it is that of a framework.
_OUTSIDE: ContextVar[object] = ContextVar("durable_outside", default=None)


class ParkedFuture(asyncio.Future[None]):
    """What a parked step waits for.

    Attributes:
        due: when the step is due, on the clock of the loop; None if only an engine's server knows.
        timer: wakes the step then.
    """

    due: float | None = None
    timer: asyncio.TimerHandle | None = None


def _never() -> bool:
    """Suspend no run."""
    return False


class RunTasks:
    """The tasks of one run. Everything happens on its loop.

    Args:
        loop: the loop.
        step_code: of the coroutine of a step, by which one is known.

    Attributes:
        parked: the parked steps, by op id.
        handler: the task of the handler itself.
        live: the tasks whose code runs or waits.
        running: the one that runs now.
        resumptions: how often any of them has gone on.
        others: the tasks that the handler has started and that have not ended, with the coroutines
            that they run.
    """

    parked: Mapping[str, ParkedFuture] = _NOTHING
    resumptions = 0
    _cancelled_steps = 0  # in tasks that ended before they began
    _is_looking = False
    _may_suspend: Callable[[], bool] = staticmethod(_never)
    _suspend: Callable[[], object] = staticmethod(_never)

    def __init__(self, loop: asyncio.AbstractEventLoop, step_code: CodeType) -> None:
        self.handler = RunTask()
        self.running: RunTask | None = None
        self.live: set[RunTask] = set()
        self._loop = loop
        self._step_code = step_code
        self.others = _NO_TASKS

    def join_run(
        self,
        parked: Mapping[str, ParkedFuture],
        may_suspend: Callable[[], bool],
        suspend: Callable[[], object],
    ) -> None:
        """Note that the handler has a run now, and so may have steps.

        Args:
            parked: the parked steps, by op id.
            may_suspend: tells whether steps are parked and no other call of a step is in progress.
            suspend: called when, besides, every task waits for parked steps; maybe more than once.
        """
        self.parked = parked
        self._may_suspend = may_suspend
        self._suspend = suspend

    def close(self) -> None:
        """Never suspend the run from now on: its handler has ended."""
        # The run refers to this object. If this one kept referring to the run, the memory of each
        # run would wait for Python's collector of cycles, which is slow.
        self._may_suspend = _never
        self._suspend = _never

    @coroutine
    def watch(self, code: Coroutine[Any, Any, T], task: RunTask) -> Generator[Any, Any, T]:
        """Await a coroutine of the run, and note in ``task`` what it waits for meanwhile."""
        task.code = code
        self.live.add(task)
        error: BaseException | None = None
        value: Any = None
        try:
            while True:
                self.resumptions += 1
                before, self.running = self.running, task
                try:
                    task.awaited = code.send(value) if error is None else code.throw(error)
                finally:
                    self.running = before
                if self.parked:
                    self.look_soon()
                try:
                    value = yield task.awaited
                except GeneratorExit:
                    code.close()  # a no-op if the garbage collector has closed it first
                    raise
                except BaseException as raised:
                    error, task.resumed_wait_for = raised, None
                else:
                    error = None
                    if len(self.live) > 1:  # wait_for() in Python 3.11 makes a task
                        task.resumed_wait_for = task.wait_for
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            self.live.discard(task)
            task.time_outs = ()  # their timers refer to this object by their context: a cycle
            if self.parked:
                self.look_soon()

    def add(self, task: asyncio.Future[Any], code: Coroutine[Any, Any, Any]) -> None:
        """Note a task that the run has started, and the coroutine that it was started with."""
        self.others = self.others or {}
        self.others[task] = code

        def ended(task: asyncio.Future[Any]) -> None:
            self._cancelled_steps += self._is_new_step(code)
            del self.others[task]
            code.close()  # if it was cancelled before it began

        task.add_done_callback(ended, context=contextvars.Context())

    # -- steps that nobody waits for --------------------------------------------------------

    def unneeded_steps(self) -> int:
        """Return how many steps of tasks have not begun, and need not.

        Their tasks were cancelled, which was the handler's decision, or would do nothing but wait.
        """
        unneeded = (
            self._is_new_step(code) and (_is_over(task) or _only_waits(code))
            for task, code in self.others.items()
        )
        return self._cancelled_steps + sum(unneeded)

    def steps_in_progress(self) -> list[str]:
        """Return the steps that are in progress in tasks, such as ``step.run('a')``.

        Those of tasks that have been cancelled, or that do nothing but wait, do not count.
        """
        return [
            each.__qualname__
            for run_task in self.live
            if run_task.task is not None and not _is_over(run_task.task)
            for each in _await_chain(run_task.code)
            if each.cr_code is self._step_code and not _only_waits(run_task.code)
        ]

    def _is_new_step(self, code: Any) -> bool:
        """Tell whether a coroutine is that of a step, and has not begun and not ended."""
        is_step = getattr(code, "cr_code", None) is self._step_code
        return is_step and inspect.getcoroutinestate(code) == inspect.CORO_CREATED

    @property
    def are_one_task(self) -> bool:
        """Whether the handler's own task runs now, and the handler has no other one."""
        return len(self.live) == 1 and not self.others and self.running is not None

    @property
    def others_go_on(self) -> bool:
        """Whether a task besides the one that runs now may go on without the end of a step."""
        others = (each for each in self.live if each is not self.running)
        return not all(map(self._waits_for_steps, others)) or len(self.live) <= len(self.others)

    # -- are all waiting for steps? ---------------------------------------------------------

    @property
    def has_pending_time_out(self) -> bool:
        """Whether the handler has put a time-out around what it waits for."""
        return any(each.has_pending_time_out for each in self.live)

    def look_soon(self) -> None:
        """Suspend the run if all of its tasks wait for steps once none is about to go on."""
        if not self._is_looking and self._may_suspend():
            self._is_looking = True
            self._call_soon(self._look, self.resumptions, 0)

    def _look(self, resumptions: int, ticks: int) -> None:
        if resumptions != self.resumptions:
            ticks = 0
        if ticks < _TICKS_TO_SETTLE and len(self.live) > 1:
            self._call_soon(self._look, self.resumptions, ticks + 1)
            return
        self._is_looking = False
        if self._may_suspend() and self.all_wait_for_steps:
            self._suspend()

    @property
    def all_wait_for_steps(self) -> bool:
        """Whether all tasks wait for steps or for each other, without a time-out around it."""
        return not self.has_pending_time_out and all(map(self._waits_for_steps, self.live))

    def _waits_for_steps(self, task: RunTask) -> bool:
        """Tell whether a task waits for steps or for tasks of the run, and for nothing else."""
        awaited = task.awaited
        if not isinstance(awaited, asyncio.Future) or awaited.done():
            return False
        if isinstance(awaited, asyncio.Task):
            return awaited in self.others
        if type(awaited) is not asyncio.Future:
            return True  # a parked step, or gather(): asyncio has no other class of futures
        return any(
            self._waits_for_tasks(each) for each in _await_chain(task.code)
        ) or _is_coordinated(task)

    def _waits_for_tasks(self, code: CoroutineType[Any, Any, Any]) -> bool:
        """Tell whether it is the end of a task group, or ``asyncio.wait``."""
        if code.cr_code.co_name == "__aexit__":
            return isinstance(inspect.getcoroutinelocals(code).get("self"), _task_groups())
        if code.cr_code is asyncio.wait.__code__:
            local = inspect.getcoroutinelocals(code)
            return local["timeout"] is None and all(each in self.others for each in local["fs"])
        return False

    def _call_soon(self, call: Callable[..., None], *args: object) -> None:
        self._loop.call_soon(call, *args, context=contextvars.Context())  # not the handler's

    # -- time-outs --------------------------------------------------------------------------

    @property
    def are_timed_out(self) -> bool:
        """Whether a time-out of the handler's has just cancelled the task that runs now."""
        task = self.running
        while task is not None:
            if task.is_timed_out:
                return True
            task = task.parent
        return False

    def step_in_long_time_out(self) -> str | None:
        """Return the op id of a parked step around which a time-out will end before it is due."""
        op_ids = {future: op_id for op_id, future in self.parked.items()}
        for task in self.live:
            future = task.awaited
            if not isinstance(future, ParkedFuture) or future.due is None or future.done():
                continue
            if _deadline_around(task) < future.due:
                return op_ids[future]
        return None

    def time_out_fires(self, owner: RunTask) -> None:
        """Note that a time-out fires in a task."""
        owner.fired += 1
        self._call_soon(self._forget_time_out, owner, _TICKS_TO_CANCEL)

    def _forget_time_out(self, owner: RunTask, ticks: int) -> None:
        if ticks:
            self._call_soon(self._forget_time_out, owner, ticks - 1)
        else:
            owner.fired -= 1


class RunTask:
    """What is known of one task of a run.

    Attributes:
        parent: the task that has started it; None for the handler's own.
        task: the task itself; None for the handler's own.
        code: the coroutine that it runs.
        is_of_coordinator: a package that coordinates steps has started it.
        awaited: the future that this has last waited for.
        time_outs: the timers of the time-outs that are set around what it does now.
        fired: how many of its time-outs have fired in the last ticks.
        resumed_wait_for: the call of ``asyncio.wait_for`` that has last gone on in it.
    """

    parent: RunTask | None = None
    task: asyncio.Future[Any] | None = None
    code: object = None
    is_of_coordinator = False
    awaited: object = None
    time_outs: tuple[asyncio.TimerHandle, ...] = ()
    fired = 0
    resumed_wait_for: object = None

    @property
    def has_pending_time_out(self) -> bool:
        """Whether it is in a time-out that has not fired."""
        return any(not each.cancelled() for each in self.time_outs)

    @property
    def deadline(self) -> float:
        """When the first of its time-outs will fire, on the clock of the loop; else infinity."""
        timers = [*self.time_outs]
        if isinstance(self.wait_for, CoroutineType):
            timer = inspect.getcoroutinelocals(self.wait_for).get("timeout_handle")
            if timer is not None:  # there is none without a time-out
                timers.append(timer)
        return min((each.when() for each in timers if not each.cancelled()), default=math.inf)

    @property
    def is_timed_out(self) -> bool:
        """Whether one of its time-outs has fired and cancels what it waits for."""
        if self.fired:
            return True
        # In Python 3.11 wait_for() has a timer of its own, goes on when that fires, and waits for
        # the end of what it cancels.
        wait_for = self.resumed_wait_for
        return wait_for is not None and wait_for is self.wait_for

    @property
    def wait_for(self) -> object:
        """The call of ``asyncio.wait_for`` that it is in, if that keeps its own time."""
        if sys.version_info >= (3, 12):
            return None
        for each in _await_chain(self.code):
            if each.cr_code is asyncio.wait_for.__code__:
                return each
        return None


def _await_chain(code: object) -> Iterator[CoroutineType[Any, Any, Any]]:
    """Yield a suspended coroutine, the one it awaits, and so on."""
    while True:
        if isinstance(code, CoroutineType):
            yield code
            code = code.cr_await
        elif isinstance(code, BegunCall):
            code = code.code
        elif isinstance(code, GeneratorType):  # of an ``__await__``
            code = code.gi_yieldfrom
        else:
            return


def _is_coordinated(task: RunTask) -> bool:
    """Tell whether what a task waits for was made by a package that coordinates steps."""
    if not _COORDINATING:
        return False
    packages = (
        _package_of(each.cr_frame) for each in _await_chain(task.code) if each.cr_frame is not None
    )
    innermost = ""
    for package in packages:
        if package not in _PRIMITIVES:
            innermost = package
    # A task of a primitive alone, such as ``create_task(event.wait())``, is its maker's.
    return innermost in _COORDINATING or (not innermost and task.is_of_coordinator)


def _is_called_by_coordinator() -> bool:
    """Tell whether a package that coordinates steps, and not its user, starts a task now."""
    frame: FrameType | None = sys._getframe(1) if _COORDINATING else None
    while frame is not None and (frame.f_globals is globals() or _package_of(frame) in _PRIMITIVES):
        frame = frame.f_back
    return frame is not None and _package_of(frame) in _COORDINATING


def _package_of(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]


def coordinates_steps(*packages: str) -> None:
    """Note that the coroutines of packages wait for steps and for each other, and nothing else.

    For adapters of libraries that call steps from tasks of their own, which wait for each other by
    events and queues. A handler that waits in such a coroutine while a step is parked is suspended
    at once, and not as one that awaits something of its own.

    Args:
        packages: their top-level names.
    """
    _COORDINATING.update(packages)


def _deadline_around(task: RunTask | None) -> float:
    """Return when the first time-out fires of a task, or of one that has started it."""
    deadline = math.inf
    while task is not None:
        deadline, task = min(deadline, task.deadline), task.parent
    return deadline


def _only_waits(code: object) -> bool:
    """Tell whether the coroutine of a task is a step that waits, maybe for a limited time."""
    for each in _await_chain(code):
        if each.cr_code is not asyncio.wait_for.__code__:
            return each.__qualname__.startswith(("step.sleep", "step.wait_for_"))
    return False


def _is_over(task: asyncio.Future[Any]) -> bool:
    """Tell whether a task has ended, or has been cancelled and is about to."""
    return task.done() or (isinstance(task, asyncio.Task) and task.cancelling() > 0)


def _task_groups() -> tuple[type, ...]:
    """Return the classes of task groups that may be in use."""
    anyio = sys.modules.get("anyio.abc")
    return (asyncio.TaskGroup,) if anyio is None else (asyncio.TaskGroup, anyio.TaskGroup)


def _time_outs() -> tuple[type, ...]:
    """Return the classes of time-outs that may be in use."""
    anyio = sys.modules.get("anyio")
    return (asyncio.Timeout,) if anyio is None else (asyncio.Timeout, anyio.CancelScope)


# -- what a loop shows of its tasks and time-outs -----------------------------------------------

_WATCHED: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Have the runs on a loop know of the tasks and time-outs of their handlers.

    Code of other tasks on that loop is not affected. A task factory that the loop has stays in use.
    """
    if loop not in _WATCHED:
        _WATCHED.add(loop)
        _watch_tasks(loop)
        _watch_time_outs(loop)


def context_outside_run() -> contextvars.Context:
    """Return a copy of this context for a task of the framework: what it waits for does not count.

    A run is suspended although such a task waits for something of its own.
    """
    context = contextvars.copy_context()
    context.run(_OUTSIDE.set, current_run())
    return context


def enter_run(context: contextvars.Context) -> None:
    """Make a context one of this run's tasks, after it was that of a task of the framework."""
    context.run(_OUTSIDE.set, None)


def _current_run(context: contextvars.Context | None = None) -> RunTasks | None:
    """Return the run whose handler the code in a context belongs to; None within its steps."""
    if context is not None:
        return context.run(_current_run)
    scope = current_run()
    return None if scope is None or scope is _OUTSIDE.get() else scope.tasks


def _watch_tasks(loop: asyncio.AbstractEventLoop) -> None:
    factory: Any = loop.get_task_factory()
    if sys.version_info >= (3, 12) and _is_eager(factory):
        # anyio knows an eager factory by its code and asks what is in its closure for the tasks of
        # its groups, which cannot begin at once. So this one is of that form, too.
        construct = _watching_constructor(factory.__closure__[0].cell_contents)
        factory = asyncio.create_eager_task_factory(construct)
    else:
        factory = _watching(factory or _make_task)
    loop.set_task_factory(factory)


def _is_eager(factory: Any) -> bool:
    """Tell whether ``asyncio.create_eager_task_factory`` has made a task factory."""
    eager = getattr(asyncio, "eager_task_factory", None)  # of Python 3.12
    return eager is not None and getattr(factory, "__code__", None) is eager.__code__


def _watching_constructor(construct: Callable[..., Any]) -> Callable[..., Any]:
    """Return a constructor of tasks that calls this one and notes the tasks of runs."""
    make_task = _watching(lambda loop, code, **options: construct(code, loop=loop, **options))
    return lambda code, *, loop, **options: make_task(loop, code, **options)


def _watching(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a task factory that calls this one and notes the tasks of runs."""

    def make_task(
        loop: asyncio.AbstractEventLoop,
        code: Any,
        *,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> Any:
        if context is not None:
            options["context"] = context
        elif not options and current_run() is None:
            return make(loop, code)  # as a server makes one for each request
        tasks = _current_run(context)
        if tasks is None:
            return make(loop, code, **options)
        current = asyncio.current_task(loop)
        if type(current) is LateTask:
            current.done()  # makes it: it has its first turn before the tasks of its handler
        run_task = RunTask()
        run_task.parent = tasks.running
        run_task.is_of_coordinator = _is_called_by_coordinator()
        watched = _in_task(tasks.watch(code, run_task))
        _copy_name(code, watched)
        task = make(loop, watched, **options)
        run_task.task = task
        tasks.add(task, code)
        return task

    return make_task


def _copy_name(source: Any, target: Any) -> None:
    """Let a coroutine be shown as the one that it runs."""
    for name in ("__name__", "__qualname__"):
        setattr(target, name, getattr(source, name, getattr(target, name)))


async def _in_task(watched: Awaitable[T]) -> T:
    return await watched


def _make_task(
    loop: asyncio.AbstractEventLoop, code: Coroutine[Any, Any, T], **options: Any
) -> asyncio.Task[T]:
    if options:
        return asyncio.Task(code, loop=loop, **options)
    return asyncio.Task(code, loop=loop)


def _watch_time_outs(loop: asyncio.AbstractEventLoop) -> None:
    call_at = loop.call_at

    def note_call_at(
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        is_plain = current_run() is None
        if is_plain or not isinstance(getattr(callback, "__self__", None), _time_outs()):
            return call_at(when, callback, *args, context=context)
        tasks = _current_run(context)
        owner = None if tasks is None else tasks.running
        if tasks is None or owner is None:
            return call_at(when, callback, *args, context=context)

        def fire() -> None:
            owner.time_outs = tuple(each for each in owner.time_outs if each is not timer)
            tasks.time_out_fires(owner)
            callback(*args)

        timer = call_at(when, fire, context=context)
        pending = (each for each in owner.time_outs if not each.cancelled())
        owner.time_outs = (*pending, timer)
        return timer

    # No loop has a public hook for this; asyncio and anyio look ``call_at`` up for each time-out.
    try:
        vars(loop)["call_at"] = note_call_at
    except TypeError:  # the loop takes no attributes: a time-out passes for the handler's decision
        logger.warning("time-outs around steps are not noticed on %s", type(loop).__name__)
