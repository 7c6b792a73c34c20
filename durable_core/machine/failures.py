"""What an exception of user code means for the run."""

from __future__ import annotations

from collections.abc import Iterator

from durable_core.errors import HTTPError, NonRetriableError, RetryAfterError, StepError
from durable_core.machine.retry import retry_after_delay_ms
from durable_core.model.inputs import Failure
from durable_core.wire.codec import JSONCodec

__all__ = ["failure_of_handler", "failure_of_step"]

_CODEC = JSONCodec()


def failure_of_step(error: BaseException, now: int) -> Failure:
    """Describe an error that a step's function raised.

    A StepError inside a step (from a nested helper, say) is an ordinary error; only
    ``NonRetriableError`` and ``HTTPError`` are final, only ``RetryAfterError`` chooses its delay.
    """
    final = isinstance(error, (NonRetriableError, HTTPError))
    return _describe(error, now, final=final)


def failure_of_handler(error: BaseException, now: int) -> Failure:
    """Describe an error that left the handler.

    Final are ``NonRetriableError`` and a StepError that was not caught, be it the error itself,
    among its causes, or in an exception group; a group of nothing but final errors is final too.
    """
    return _describe(error, now, final=_is_final(error))


def _describe(error: BaseException, now: int, *, final: bool) -> Failure:
    return Failure(
        name=type(error).__name__,
        message=_text(error),
        data=_data(error),
        reason=_utf8(error.message) if isinstance(error, StepError) else "",
        http=_http(error) if isinstance(error, HTTPError) else None,
        final=final,
        retry_after=retry_after_delay_ms(error, now)
        if isinstance(error, RetryAfterError)
        else None,
    )


def _is_final(error: BaseException) -> bool:
    if any(isinstance(each, StepError) for each in _family(error)):
        return True
    if isinstance(error, BaseExceptionGroup):
        return all(_is_final(each) for each in error.exceptions)
    return isinstance(error, NonRetriableError)


def _family(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its explicit causes, and the members of groups among them."""
    todo, seen = [error], set[int]()
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if each.__cause__ is not None:
            todo.append(each.__cause__)
        if isinstance(each, BaseExceptionGroup):
            todo.extend(each.exceptions)


def _text(error: BaseException) -> str:
    """Return the error's message; one that cannot be made must not hide the error."""
    try:
        text = str(error)
    except Exception as broken:
        text = f"<no message: {type(broken).__name__} in __str__>"
    return _utf8(text)


def _http(error: HTTPError) -> tuple[int, str, tuple[tuple[str, str], ...]]:
    headers = ((_utf8(name), _utf8(value)) for name, value in error.headers.items())
    return error.status, _utf8(error.detail), tuple(headers)


def _utf8(text: str) -> str:
    """Return the text without lone surrogates, which JSON can bring and stores refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _data(error: BaseException) -> str:
    """Return the JSON text of the error's ``data`` attribute; what JSON cannot hold is left out."""
    data = getattr(error, "data", None)
    if data is None:
        return ""
    try:
        return _CODEC.encode(data)
    except TypeError:
        return ""
