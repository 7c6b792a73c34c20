"""A coroutine that has begun in the midst of another task, and is to go on in its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import CoroutineType, FunctionType
from typing import Any, NoReturn

__all__ = ["HAS_PYTHON_TASKS", "BegunCall", "LateCoroutine", "LateTask", "is_made"]

#: Tasks are those in Python, as of nest_asyncio. They ask themselves for their state at their end.
HAS_PYTHON_TASKS = isinstance(asyncio.Task.__init__, FunctionType)

#: Held while the task of asyncio in a :class:`LateTask` is made.
_MAKING = threading.RLock()


class LateCoroutine(Coroutine[Any, Any, None]):
    """The coroutine of a task that is told later what it does, or does nothing.

    If the task is cancelled meanwhile, what it does is begun all the same, and cancelled then.

    Attributes:
        rest: what it does; None until it is known.
        has_begun: it does that.
    """

    rest: Coroutine[Any, Any, None] | None = None
    has_begun = False

    def send(self, value: Any, /) -> Any:
        """Go on."""
        if self.rest is None:
            raise StopIteration
        self.has_begun = True
        return self.rest.send(value)

    def throw(self, *error: Any) -> Any:
        """Go on with an error."""
        if self.rest is None:
            raise StopIteration
        if not self.has_begun:
            self.send(None)
        return self.rest.throw(*error)

    def close(self) -> None:
        """End what the task does."""
        if self.rest is not None:
            self.rest.close()

    def __await__(self) -> NoReturn:
        """Refuse: this is for one task."""
        raise TypeError("the coroutine of a task is not awaited")

    def __getattr__(self, name: str) -> Any:
        """Show the frame, the name and so on of what the task does: debuggers ask for them."""
        return getattr(self.rest, name)


class LateTask(asyncio.Task[None]):
    """A task that is made when it begins, or when somebody asks it for anything.

    Until then it is only there to be the current task of code that may never ask for that. It costs
    a tenth of what a task of asyncio does, which takes a turn of the event loop, too. Any thread
    may ask, as it may ask a task of asyncio; but in debug mode a loop lets no other thread make
    one, so there the task is to be made at once; also if tasks are in Python, which report an end
    before they have run.

    Args:
        loop, context: of the task.

    Attributes:
        code: what it runs. Asking for this begins the task, as asking for anything does.
    """

    __slots__ = ("_unmade", "code")

    code: LateCoroutine
    _unmade: Any

    def __init__(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        self._unmade = (loop, context)  # that is all, until somebody asks

    def __getattribute__(self, name: str) -> Any:
        """Make the task first."""
        get = super().__getattribute__
        if get("_unmade") is not None:
            get("_make")()
        return get(name)

    def _make(self) -> None:
        with _MAKING:
            get = super().__getattribute__
            unmade = get("_unmade")
            if not unmade:
                return  # another thread has made it, or making it asks it for something
            self._unmade = ()
            self.code = code = LateCoroutine()
            loop, context = unmade
            try:
                super().__init__(code, loop=loop, context=context)
            except RuntimeError:
                if not loop.is_closed():
                    self._unmade = unmade
                    raise
                # Somebody has kept it for longer than the loop. It is shown as pending.
                self._log_destroy_pending = False
            self._unmade = None

    # Python looks these up in the class.

    def __repr__(self) -> str:
        """Show the task."""
        self.done()
        return super().__repr__()

    def __await__(self) -> Generator[Any, None, None]:
        """Wait for its end."""
        self.done()
        return super().__await__()


_unmade_of = LateTask._unmade.__get__


def is_made(task: LateTask) -> bool:
    """Tell whether somebody has asked the task for anything. This is not to ask it."""
    return _unmade_of(task) is None


class BegunCall(Generator[Any, Any, Any]):
    """A call of an ``async def`` function whose first part has run.

    The first part ends where the function waits for something, or returns or raises. Awaited, the
    call goes on, and gives its result.

    Args:
        call: calls the function.
        task: a task that has not begun, in which this will be awaited. It is the current task of
            the first part, which runs in its context.
        loop: of the task.

    Attributes:
        code: the coroutine; None if the call gave none.
        has_ended: the function did not wait for anything.
        has_returned: it has returned, too.
        is_cut_short: it has ended by what is no Exception, such as a cancellation.
    """

    code: Coroutine[Any, Any, Any] | None = None
    _is_waiting = False  # what the first part waits for has not been awaited yet
    _awaited: Any = None
    _value: object = None

    def __init__(
        self,
        call: Callable[[], Awaitable[Any]],
        task: asyncio.Task[Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        # Python 3.11 is slow to read an attribute that only the class has.
        self.has_ended = self.has_returned = self.is_cut_short = False
        self._error: BaseException | None = None
        # So asyncio's eager tasks of Python 3.12 begin, too. It documents these functions for other
        # implementations of tasks.
        outer = asyncio.current_task(loop)
        if outer is not None:  # a server may drive its requests without tasks
            asyncio._leave_task(loop, outer)
        asyncio._enter_task(loop, task)
        try:
            code: Any = call()
            if type(code) is not CoroutineType:
                code = _await_value(code)
            self.code = code
            self._awaited = code.send(None)
            self._is_waiting = True
        except StopIteration as end:
            self.has_ended = self.has_returned = True
            self._value = end.value
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.has_ended, self._error = True, error
            self.is_cut_short = not isinstance(error, Exception)
        finally:
            asyncio._leave_task(loop, task)
            if outer is not None:
                asyncio._enter_task(loop, outer)

    def result(self) -> Any:
        """Return what the function has returned, once it has ended; or raise its error."""
        if self._error is not None:
            raise self._error
        return self._value

    # -- as what a coroutine awaits ---------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, Any]:
        """Return what goes on with the call."""
        return self

    def __next__(self) -> Any:
        """Go on. It is what a task asks for, and ``send`` would be a call more each time."""
        if self.has_ended or self._is_waiting:
            return self.send(None)
        assert self.code is not None
        return self.code.send(None)

    def send(self, value: Any, /) -> Any:
        """Go on. What the first part waits for comes first."""
        if self.has_ended:
            raise StopIteration(self.result())
        assert self.code is not None
        if self._is_waiting:
            self._is_waiting = False
            awaited, self._awaited = self._awaited, None
            return awaited
        return self.code.send(value)

    def throw(self, *error: Any) -> Any:
        """Go on with an error."""
        assert self.code is not None
        self._is_waiting, self._awaited = False, None
        return self.code.throw(*error)

    def close(self) -> None:
        """End the function where it is."""
        if self.code is not None:
            self.code.close()


async def _await_value(value: Awaitable[Any]) -> Any:
    return await value
