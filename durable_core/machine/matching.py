"""Which events end a wait.

``match="data.x"`` compares one value of the run's own request with one of the event. Both are
turned into *keys*, so that a store can find the waits of an event by an index:

- ``t:<text>`` for text, as path parameters and query values are;
- ``j:<canonical JSON>`` for a JSON value.

A scalar in an event has both keys, an object or array has only the second, and a value that is
missing or null has none.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from durable_core.codec.json import canonical_json, check_json
from durable_core.errors import BadRequest, MatchError
from durable_core.http.request import Request
from durable_core.model.event import Event, StoredEvent
from durable_core.model.step import Memo, OpKind, Pending

__all__ = [
    "Condition",
    "MatchRule",
    "WaitRule",
    "dump_rule",
    "event_keys",
    "load_rule",
    "match_keys",
    "matches",
    "resolve_match",
    "scalar_text",
    "validate_if",
    "validate_rule",
    "wait_matches",
    "with_event_seq",
]


# --- matching -------------------------------------------------------------------------------------

#: A path into an event, and the canonical JSON of the value required there.
Condition = tuple[tuple[str, ...], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchRule:
    """The event's value at ``path`` must have the key ``key``.

    Attributes:
        path: names into the event, beginning with ``"data"``.
        key: ``t:`` or ``j:`` and the canonical text of the request's value.
    """

    path: tuple[str, ...]
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitRule:
    """The conditions for an event to end a wait.

    Attributes:
        event: the name of the event.
        match: the value that must be equal to one of the request, or None.
        conditions: values that the event must have.
    """

    event: str
    match: MatchRule | None = None
    conditions: tuple[Condition, ...] = ()


def resolve_match(expression: str, request: Request) -> MatchRule:
    """Return the rule of ``match="data.<x>"`` for this request.

    ``<x>`` is looked up in the path parameters, then in the query (its first value), then in the
    JSON body, where each dot leads one object deeper.

    Raises:
        TypeError, ValueError: the expression is not of that form.
        MatchError: the request has no such value, or it is null.
    """
    path = _parse_path("match", expression)
    name = expression.partition(".")[2]
    if name in request.path_params:
        return MatchRule(path=path, key=f"t:{request.path_params[name]}")
    text = request.query.get(name)
    if text is not None:
        return MatchRule(path=path, key=f"t:{text}")
    value = _look_up(_json_or_none(request), path[1:])
    if value is None:
        raise MatchError(
            f"match={expression!r}: the request has no {name!r} among its path parameters, its "
            "query or its JSON body, or it is null"
        )
    try:
        check_json(value)
    except TypeError as error:
        raise MatchError(f"match={expression!r} cannot be compared: {error}") from None
    return MatchRule(path=path, key=f"j:{canonical_json(value)}")


def event_keys(event: Event, path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys of the event's value at the path.

    Args:
        event: one whose data ``check_json`` accepts.
        path: names into the event, beginning with ``"data"``.
    """
    value = _look_up(event.data, path[1:])
    if value is None:
        return ()
    canonical = canonical_json(value)
    if isinstance(value, (dict, list)):
        return (f"j:{canonical}",)
    return (f"t:{scalar_text(value)}", f"j:{canonical}")


def validate_if(required: Mapping[str, object]) -> tuple[Condition, ...]:
    """Return the conditions of ``if_={"data.amount": 10}``.

    Values are compared as JSON: 1 equals 1.0, but neither True nor "1".

    Raises:
        TypeError: not a mapping, a path that is not a ``str``, or a value that is not JSON.
        ValueError: no conditions, a path of another form, or None (a null never matches).
    """
    if not isinstance(required, Mapping):
        raise TypeError(
            "if_ must be a mapping of paths such as 'data.amount' to values, "
            f"not {type(required).__name__}"
        )
    if not required:
        raise ValueError("if_ must have at least one condition")
    return tuple(_condition(path, value) for path, value in required.items())


def matches(rule: WaitRule, event: Event) -> bool:
    """Return whether the event ends a wait with this rule."""
    if event.name != rule.event:
        return False
    if rule.match is not None and rule.match.key not in event_keys(event, rule.match.path):
        return False
    return all(_holds(condition, event) for condition in rule.conditions)


def dump_rule(rule: WaitRule) -> str:
    """Return the rule as JSON text, for the store."""
    match = None if rule.match is None else (rule.match.path, rule.match.key)
    return json.dumps([rule.event, match, rule.conditions], separators=(",", ":"))


def load_rule(text: str) -> WaitRule:
    """Return the rule that ``dump_rule`` was given."""
    event, match, conditions = json.loads(text)
    return WaitRule(
        event=event,
        match=None if match is None else MatchRule(path=tuple(match[0]), key=match[1]),
        conditions=tuple((tuple(path), value) for path, value in conditions),
    )


def _condition(path: str, value: object) -> Condition:
    names = _parse_path("a path of if_", path)
    if value is None:
        raise ValueError(f"if_: {path!r} cannot be required to be None, as a null never matches")
    try:
        check_json(value)
    except TypeError as error:
        raise TypeError(f"if_: the value for {path!r}: {error}") from None
    return names, canonical_json(value)


def _holds(condition: Condition, event: Event) -> bool:
    path, required = condition
    value = _look_up(event.data, path[1:])
    return value is not None and canonical_json(value) == required


def _parse_path(what: str, text: object) -> tuple[str, ...]:
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__}")
    names = tuple(text.split("."))
    if len(names) < 2 or names[0] != "data" or "" in names:
        raise ValueError(f"{what} must be 'data.' and names with dots between, not {text!r:.80}")
    return names


def _look_up(value: object, names: tuple[str, ...]) -> object:
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _json_or_none(request: Request) -> object:
    try:
        return request.json() if request.body else None
    except BadRequest:
        return None


def scalar_text(value: object) -> str:
    """Return the text of the value in a URL."""
    if isinstance(value, str):
        return value
    text = canonical_json(value)
    mantissa, exponent, power = text.partition("e-")
    if not exponent:
        return text
    # Only small numbers have an exponent here: an integral float has become an int.
    sign = "-" if mantissa.startswith("-") else ""
    digits = mantissa.removeprefix("-").replace(".", "")
    return f"{sign}0.{'0' * (int(power) - 1)}{digits}"


# --- waits ----------------------------------------------------------------------------------------
#
# Whether a stored event ends a pending wait: the part that every store shares.

_load_rule = lru_cache(maxsize=1024)(load_rule)


def match_keys(event: Event, match_path: str) -> tuple[str, ...]:
    """Return the values of ``Pending.match_key`` that match the event's value at that path.

    Args:
        event: an event with the name of the wait.
        match_path: as in ``Pending``: names joined by dots, or "" for waits without ``match``.
    """
    return event_keys(event, tuple(match_path.split("."))) if match_path else ("",)


def wait_matches(stored: StoredEvent, *, rule: str, mark: int, seen: Collection[int]) -> bool:
    """Return whether the event ends a wait with these values of ``Pending``.

    Args:
        stored: the event.
        rule: ``Pending.rule``.
        mark: ``Pending.event_seq``.
        seen: ``Pending.consumed_seqs``.
    """
    if stored.seq <= mark or stored.seq in seen:
        return False
    return matches(_load_rule(rule), stored.event)


def validate_rule(pending: Pending) -> None:
    """Raise an exception of any kind if the op is a wait whose rule cannot be read."""
    if pending.event:
        _load_rule(pending.rule)


def with_event_seq(memos: Sequence[Memo], sent: Sequence[tuple[str, int]]) -> Sequence[Memo]:
    """Return the memos of a write; those of SEND get the number of the last event that it sends.

    So a wait after ``step.send_event`` does not match the events that the step itself sent.

    Args:
        memos: the memos of one ``Checkpoint``.
        sent: id and sequence number of each event of the checkpoint.
    """
    if not sent:
        return memos
    last = max(seq for _, seq in sent)
    return [
        replace(memo, event_seq=max(memo.event_seq, last)) if memo.op.kind is OpKind.SEND else memo
        for memo in memos
    ]
