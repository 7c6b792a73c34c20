"""Ops: what the server is told of the steps of a run, as JSON text.

The value of a step is JSON already, so an op is put together from text, not encoded again.
"""

from __future__ import annotations

import json
import re
import traceback
from base64 import b64encode
from collections.abc import Mapping, Sequence

from durable_core import Event
from durable_core.engines.remote import (
    MAX_DURATION_MS,
    Failed,
    Failure,
    FunctionCall,
    GatewayCall,
    ReportedStep,
    SignalWait,
    Value,
    WaitRule,
    dump_error_response,
    hash_step_id,
    load_step_error,
)
from durable_core.errors import StepError

__all__ = [
    "counted_failure",
    "counted_failure_id",
    "discovery",
    "dump_event",
    "dump_value",
    "error_of",
    "failed",
    "finished",
    "format_duration",
    "gateway",
    "handler_retry",
    "invoke_function",
    "literal",
    "load_event_memo",
    "load_failure",
    "load_outcome",
    "load_signal_memo",
    "load_value",
    "marker",
    "needs_reentry",
    "order",
    "order_id",
    "pause",
    "pause_id",
    "planned",
    "retry_sleep",
    "run_complete",
    "send_finished",
    "signal_finished",
    "sleep",
    "step_failure",
    "wait",
    "wait_expression",
    "wait_for_signal",
]


# --- durations ------------------------------------------------------------------------------------
#
# Durations as the server reads them.

_UNITS = (
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
)
#: Text as long as this may be a date to the server, which tries that first.
_DATE = 10


def format_duration(ms: int) -> str:
    """Return a duration as text such as ``"1h30m"``: the largest unit first, none of them zero.

    Where that has 10 characters or more, it is in one unit: milliseconds, else seconds.

    Args:
        ms: milliseconds, from 1 to those of 366 days, which is the most that the server allows. It
            is never made shorter; beyond two hours it may be made longer, by less than a second.
    """
    if not 1 <= ms <= MAX_DURATION_MS:
        raise ValueError(f"a duration for the server must be 1 ms to 366 days, not {ms} ms")
    text = _in_units(ms)
    if len(text) >= _DATE:
        text = f"{ms}ms"
    if len(text) >= _DATE:
        text = _in_units(-(-ms // 1000) * 1000)
    return text if len(text) < _DATE else f"{-(-ms // 1000)}s"


def _in_units(ms: int) -> str:
    parts = []
    for unit, length in _UNITS:
        number, ms = divmod(ms, length)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts)


# --- expressions ----------------------------------------------------------------------------------
#
# What an event must be to end a wait, in the server's language, CEL.
#
# The event is ``async`` there; ``event`` is the request that began the run, and is not used: what
# ``match`` takes from the request stands in the expression as a literal.
#
# The server takes literals out of an expression before it parses that, and it takes the text
# between the quotes as it stands: an escape means itself, a backslash before the last quote makes
# it crash, and so does ``vars.``, its name for what it has taken out. It indexes expressions, too:
# only a plain path that is compared with a plain literal, and anything under a function call, are
# safe there.

#: Names that can follow a dot.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = frozenset(
    {
        *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import"),
        *("in", "let", "loop", "namespace", "null", "package", "return", "true", "var", "void"),
        "while",
    }
)
_NUMBER_OR_BOOL = re.compile(r"true|false|-?(0|[1-9][0-9]{0,14})(\.[0-9]*[1-9])?")
#: Text that means itself between quotes, wherever the server looks at it.
_PLAIN = re.compile(r'[^"\\\x00-\x1f\x7f\ud800-\udfff]*')
_SEARCHED_FOR = ("vars.", "event.")


def wait_expression(rule: WaitRule) -> str:
    """Return the expression of a wait, "" where every event of the name ends it."""
    terms = [f"{_path(path)} == {literal(json.loads(text))}" for path, text in rule.conditions]
    if rule.match is not None:
        terms.append(_match(rule.match.path, rule.match.key))
    return " && ".join(terms)


def needs_reentry(rule: WaitRule) -> bool:
    """Tell whether the server looks into the run's events for a wait.

    It searches the expression for ``event.``, and cannot do that at a checkpoint.
    """
    return "event." in wait_expression(rule)


def literal(value: object) -> str:
    """Return a JSON value as CEL that means the same to every part of the server."""
    if isinstance(value, (list, dict)):
        return f"dyn({_inner(value)})"
    return _inner(value)


def _inner(value: object) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_inner, value))}]"
    if isinstance(value, dict):
        members = (f"{_string(str(key))}: {_inner(item)}" for key, item in value.items())
        return f"{{{', '.join(members)}}}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        value = float(value)  # beyond the integers of CEL; events have only doubles anyway
    return json.dumps(value)


def _string(text: str) -> str:
    if _PLAIN.fullmatch(text) and not any(each in text for each in _SEARCHED_FOR):
        return f'"{text}"'
    return f'b64decode("{b64encode(text.encode("utf-8", "surrogatepass")).decode("ascii")}")'


def _match(path: Sequence[str], key: str) -> str:
    """Compare with a value of the request: text from its URL, or JSON from its body."""
    kind, _, text = key.partition(":")
    where = _path(path)
    if kind == "j":
        return f"{where} == {literal(json.loads(text))}"
    as_text = f"{where} == {literal(text)}"
    if _NUMBER_OR_BOOL.fullmatch(text) is None or text == "-0":
        return as_text
    # In a URL a number is text; in an event it may be either.
    return f"({as_text} || {where} == {text})"


def _path(names: Sequence[str]) -> str:
    """Return a path into the event; from a name that cannot follow a dot on, as indexes."""
    dotted = 0
    while dotted < len(names) and _follows_dot(names, dotted):
        dotted += 1
    plain = ".".join(("async", *names[:dotted]))
    if dotted == len(names):
        return plain
    return f"dyn({plain}{''.join(f'[{_string(name)}]' for name in names[dotted:])})"


def _follows_dot(names: Sequence[str], at: int) -> bool:
    name, is_last = names[at], at + 1 == len(names)
    if _NAME.fullmatch(name) is None or name in _RESERVED:
        return False
    return is_last or not name.endswith("vars")


# --- values ---------------------------------------------------------------------------------------
#
# JSON as the server keeps it. What it hands over has gone through double precision numbers and maps
# with sorted keys: 2**60 comes back as another number, 1.0 as 1, and an object in another order. A
# JSON string comes back as it was, so a value that would not is sent as the text of its JSON.

#: The name under which we send what is ours among what is the user's.
_MARK = "durable"
_SURROGATE = re.compile("[\ud800-\udfff]")
#: Text without any of these has neither a number nor an object.
_CHANGES = re.compile(r"[0-9{\\\ud800-\udfff]")


def _as_kept(value: object) -> object:
    """Return a JSON value as the server hands it over."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_as_kept(key): _as_kept(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_as_kept(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    try:
        double = float(value)
    except OverflowError:
        return None  # beyond any double
    return int(double) if double.is_integer() and abs(double) < 1e21 else double


def dump_value(text: str) -> str:
    """Return the JSON text that stands for a value, given as JSON text, at the server.

    Raises:
        ValueError: it is no JSON.
    """
    if _CHANGES.search(text) is None:
        return text
    value = json.loads(text)
    is_ours = isinstance(value, dict) and set(value) == {_MARK}
    if not is_ours and _text(_as_kept(value)) == _text(value):
        return text
    return f'{{"{_MARK}":{{"json":{json.dumps(text)}}}}}'


def load_value(value: object) -> object:
    """Return the value that something from the server stands for; see :func:`dump_value`."""
    own = value.get(_MARK) if isinstance(value, dict) and set(value) == {_MARK} else None
    text = own.get("json") if isinstance(own, dict) and set(own) == {"json"} else None
    return json.loads(text) if isinstance(text, str) else value


def dump_event(event: Event, now: int) -> dict[str, object]:
    """Return an event as the server takes it; ``now`` is its time if it has none."""
    data = dict(event.data)
    sent: dict[str, object] = {
        "name": event.name,
        "data": data,
        "ts": now if event.ts is None else event.ts,
    }
    if event.id is not None:
        sent["id"] = event.id
    text = _text(data)
    if _text(_as_kept(data)) != text:
        sent["user"] = {_MARK: text}
    return sent


# --- memos ----------------------------------------------------------------------------------------
#
# The state of a run as the server hands it over: the outcomes of its steps by hashed id.

_TYPED = ("data", "error", "input")


def load_outcome(memo: object) -> Value | Failed | None:
    """Return what a memo says; None if the step is still to be run.

    An object with nothing but ``data``, ``error`` or ``input`` (and a ``type`` that says which) is
    that; anything else is itself the value.
    """
    if isinstance(memo, dict):
        keys = set(memo)
        for kind in _TYPED:
            if keys == {kind} or (keys == {kind, "type"} and memo["type"] == kind):
                return _typed(kind, memo[kind])
    return Value(memo)


def load_failure(step_name: str, error: Mapping[str, object], *, debug: bool = False) -> StepError:
    """Return what the handler sees of a failed step.

    Args:
        step_name: the step, with its index.
        error: the error as the server keeps it, whoever wrote it.
        debug: let a note of it show the stack trace.
    """
    fields: dict[str, object] = {
        "name": _message_of(error.get("name")) or "Error",
        "message": _message_of(error.get("message"))
        or _message_of(error.get("error"))
        or "Unknown error",
    }
    data = error.get("data")
    own = data.get(_MARK) if isinstance(data, dict) and set(data) == {_MARK} else None
    if isinstance(own, dict):
        data = load_value(own.get("data"))
        if own.get("cancelled") is True:
            fields["cancelled"] = True
        if isinstance(own.get("result"), str):
            fields["result"] = own["result"]
        if isinstance(own.get("http"), list):
            fields["http"] = own["http"]
        if isinstance(own.get("response"), list):
            fields["response"] = own["response"]
    if data is not None:
        fields["data"] = data
    if debug and isinstance(error.get("stack"), str):
        fields["trace"] = error["stack"]
    return load_step_error(step_name, json.dumps(fields))


def load_event_memo(value: object) -> Event | None:
    """Return the event that ended a wait; None if its time ran out.

    Raises:
        ValueError: it is no event.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("what ended the wait is no event")
    data, id, ts = _data_of(value), value.get("id"), value.get("ts")
    return Event(
        value["name"],
        data,
        id if isinstance(id, str) and id else None,
        ts if isinstance(ts, int) and ts >= 0 else None,
    )


def _data_of(event: Mapping[str, object]) -> Mapping[str, object]:
    """Return the data of an event as it was sent, if what was sent with it says so."""
    data, user = event.get("data"), event.get("user")
    data = data if isinstance(data, dict) else {}
    text = user.get(_MARK) if isinstance(user, dict) else None
    if isinstance(text, str):
        try:
            sent = json.loads(text)
        except (ValueError, RecursionError):
            return data
        # Whoever sends an event may claim anything here: what was matched is the data.
        if isinstance(sent, dict) and _as_kept(sent) == _as_kept(data):
            return sent
    return data


def _typed(kind: str, inner: object) -> Value | Failed | None:
    if kind == "data":
        return Value(load_value(inner))
    if kind == "input":
        return None
    return Failed(inner if isinstance(inner, dict) else {"message": _message_of(inner)})


def _message_of(value: object) -> str:
    return value if isinstance(value, str) else ""


# --- protocol -------------------------------------------------------------------------------------

#: The id of the end of a run.
_COMPLETE = hash_step_id("complete")
#: Stands in the names of ops of our own; no text of a user's makes the same hashed id.
_OWN = "\x1f"
#: The id of :func:`marker`.
_MARKER = hash_step_id(f"{_OWN}marker")
#: What the server calls the forms of requests to models.
_MODEL_FORMATS = {"openai": "openai-chat", "anthropic": "anthropic"}
_LONGEST_NAME = 120
_LONGEST_STACK = 64 * 1024


def finished(step: ReportedStep, value: str) -> str:
    """Return the op of a function that has returned; ``value`` is JSON as :func:`dump_value`."""
    return _op(step, "StepRun", f',"data":{value}{_timing(step)}')


def send_finished(step: ReportedStep, ids: list[str]) -> str:
    """Return the op of events that were sent."""
    data = _text({"ids": ids})
    rest = f',"data":{data}{_timing(step)}'
    return _op(step, "StepRun", rest, name="sendEvent", opts={"type": "step.sendEvent"})


def failed(step: ReportedStep, error: Mapping[str, object]) -> str:
    """Return the op of a function that has raised and is to be tried again by the server."""
    return _op(step, "StepError", f',"error":{_text(error)}{_timing(step)}')


def step_failure(step: ReportedStep, error: Mapping[str, object]) -> str:
    """Return the op of a step that has failed for good."""
    shown = {name: error[name] for name in ("name", "message")}
    data = _text({"__serialized": True, **shown, "stack": ""})
    return _op(step, "StepFailed", f',"error":{_text(error)},"data":{data}{_timing(step)}')


def planned(step: ReportedStep) -> str:
    """Return the op of a function that is to be called in a request of its own."""
    return _op(step, "StepPlanned")


def sleep(step: ReportedStep, length: int) -> str:
    """Return the op of a sleep, of so many milliseconds."""
    return _op(step, "Sleep", name=format_duration(length))


def wait(step: ReportedStep, rule: WaitRule, timeout: int) -> str:
    """Return the op of a wait for an event, of so many milliseconds at most."""
    opts, expression = {"timeout": format_duration(timeout)}, wait_expression(rule)
    if expression:
        opts["if"] = expression
    return _op(step, "WaitForEvent", name=rule.event, opts=opts)


def wait_for_signal(step: ReportedStep, wait: SignalWait) -> str:
    """Return the op of a wait for a signal."""
    conflict = "replace" if wait.replaces else "fail"
    timeout = format_duration(wait.timeout)
    opts = {"signal": wait.name, "timeout": timeout, "conflict": conflict}
    return _op(step, "WaitForSignal", name=wait.name, opts=opts)


def signal_finished(step: ReportedStep, value: str, signal: str) -> str:
    """Return the op of a signal that was sent; ``value`` is JSON text."""
    opts = {"type": "step.sendSignal", "signal": signal}
    return _op(step, "StepRun", f',"data":{value}{_timing(step)}', name="sendSignal", opts=opts)


def invoke_function(step: ReportedStep, call: FunctionCall) -> str:
    """Return the op of a call of a function at the server."""
    opts: dict[str, object] = {"function_id": call.function_id, "payload": {"data": call.data}}
    if call.timeout is not None:
        opts["timeout"] = format_duration(call.timeout)
    return _op(step, "InvokeFunction", opts=opts)


def gateway(step: ReportedStep, call: GatewayCall) -> str:
    """Return the op of a request that the server is to send."""
    if call.model_format is None:
        opts = {"url": call.url, "method": call.method, "body": call.body}
        return _op(step, "Gateway", opts={**opts, "headers": call.headers})
    model = {
        "type": "step.ai.infer",
        "url": call.url,
        # The server adds the type and the key.
        "headers": {k: v for k, v in call.headers.items() if k != "content-type"},
        "auth_key": call.key() or "",
        "format": _MODEL_FORMATS[call.model_format],
        "body": json.loads(call.body),
    }
    return _op(step, "AIGateway", opts=model)


def load_signal_memo(value: object) -> tuple[str, object] | None:
    """Return name and data of the signal that ended a wait; None if its time ran out.

    Raises:
        ValueError: it is no signal.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("signal"), str):
        raise ValueError("what ended the wait is no signal")
    return value["signal"], value.get("data")


def discovery(now: int) -> str:
    """Return the op that asks for a request at once."""
    return _text({"id": hash_step_id(f"discovery-request-{now}"), "op": "DiscoveryRequest"})


def run_complete(data: dict[str, object]) -> str:
    """Return the op that ends a run."""
    return _text({"id": _COMPLETE, "op": "RunComplete", "data": data})


# -- ops of our own: what replay must know, and the server does not say ------------------------


def counted_failure_id(name: str, number: int) -> str:
    """Return the id under which the n-th failure of a step (or of the handler, "") is counted."""
    return hash_step_id(f"{_OWN}failure{_OWN}{name}{_OWN}{number}")


def pause_id(name: str, number: int) -> str:
    """Return the id of the pause after the n-th failure of a step, where that is an op."""
    return hash_step_id(f"{_OWN}pause{_OWN}{name}{_OWN}{number}")


def order_id(number: int) -> str:
    """Return the id of the n-th part of the order in which steps have finished."""
    return hash_step_id(f"{_OWN}order{_OWN}{number}")


def handler_retry(
    number: int, error: Mapping[str, object], duration: str, *, races: bool = False
) -> str:
    """Return the sleep before the handler is called again after its n-th failure."""
    shown = f"retry {number} of the handler after {error['name']}: {error['message']}"
    return _own(counted_failure_id("", number), "Sleep", shown, duration, races=races)


def retry_sleep(step: ReportedStep, number: int, error: Mapping[str, object], duration: str) -> str:
    """Return the sleep before a step is tried again after its n-th failure, which it counts."""
    shown = f"retry {number} of {step.op.name} after {error['name']}: {error['message']}"
    id = counted_failure_id(step.op.name, number)
    return _own(id, "Sleep", shown, duration, races=step.races)


def pause(step: ReportedStep, number: int, duration: str) -> str:
    """Return the sleep before a step is tried again after its n-th failure, counted before."""
    shown = f"retry {number} of {step.op.name}"
    return _own(pause_id(step.op.name, number), "Sleep", shown, duration, races=step.races)


def counted_failure(
    step: ReportedStep, number: int, error: Mapping[str, object], *, final: bool, until: int
) -> str:
    """Return the op that keeps the n-th failure of a step for the next request.

    ``until``: when it may be tried again, epoch milliseconds.
    """
    shown = f"failure {number} of {step.op.name}"
    kept = {"error": error, "final": final, "until": until}
    id = counted_failure_id(step.op.name, number)
    return _own(id, "StepRun", shown, shown, f',"data":{_text(kept)}')


def marker() -> str:
    """Return an op that does nothing; that it was saved shows that the server took a checkpoint."""
    return _own(_MARKER, "StepRun", "checkpoint taken", "checkpoint taken", ',"data":null')


def order(number: int, op_ids: Sequence[str]) -> str:
    """Return the op that keeps the n-th part of the order in which steps have finished."""
    shown = f"order of steps {number}"
    rest = f',"data":{_text(list(op_ids))}'
    return _own(order_id(number), "StepRun", shown, shown, rest, races=True)


def error_of(failure: Failure, error: BaseException | None) -> dict[str, object]:
    """Return an error as the server shows it, and as replay needs it.

    What only we know goes into ``data``, the one field that the server keeps as it is.
    """
    stack = "".join(traceback.format_exception(error))[-_LONGEST_STACK:] if error else ""
    shown: dict[str, object] = {
        "name": failure.name,
        "message": failure.message,
        "stack": stack.encode("utf-8", "replace").decode() or f"{failure.name}: {failure.message}",
        "__serialized": True,
    }
    data = json.loads(dump_value(failure.data)) if failure.data else None
    # The user's data may have come from a client: it must not pass for ours.
    is_changed = isinstance(data, dict) and set(data) == {_MARK}
    own: dict[str, object] = {}
    if failure.http is not None:
        own["http"] = failure.http
    if failure.response is not None:
        own["response"] = dump_error_response(failure.response)
    if failure.cancelled:
        own["cancelled"] = True
    if failure.result:
        own["result"] = failure.result
    if own or is_changed:
        shown["data"] = {_MARK: {**own, "data": data}}
    elif data is not None:
        shown["data"] = data
    return shown


#: Makes the server call again when an op is done, though others of the run are not.
_RACES = {"parallelMode": "race"}


def _own(id: str, op: str, shown: str, name: str, rest: str = "", *, races: bool = False) -> str:
    shown = shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "…"
    opts = _RACES if races else {}
    fields = {"id": id, "op": op, "name": name, "displayName": shown, "opts": opts}
    return _text({**fields, "userland": {"id": shown}})[:-1] + rest + "}"


def _op(
    step: ReportedStep,
    op: str,
    rest: str = "",
    name: str | None = None,
    opts: Mapping[str, object] | None = None,
) -> str:
    id = _text(step.id)
    index = step.op.name[len(step.id) + 1 :]
    userland = f'{{"id":{id},"index":{index}}}' if index else f'{{"id":{id}}}'
    named = id if name is None else _text(name)
    shown = _text(step.name) if step.name else id
    every = {**(opts or {}), **(_RACES if step.races else {})}
    if step.arguments is not None:
        every["input"] = step.arguments
    return (
        f'{{"id":"{step.op.id}","op":"{op}","name":{named},"opts":{_text(every)},'
        f'"displayName":{shown},"userland":{userland}{rest}}}'
    )


def _timing(step: ReportedStep) -> str:
    return f',"timing":{{"a":{step.began * 1_000_000},"b":{step.took * 1_000_000}}}'


_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))


def _text(value: object) -> str:
    return _ENCODER.encode(value)
