"""What an event must be to end a wait, in the server's language, CEL.

The event is ``async`` there; ``event`` is the request that began the run, and is not used: what
``match`` takes from the request stands in the expression as a literal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from durable_core.machine.matching import WaitRule

__all__ = ["literal", "needs_loaded_events", "wait_expression"]

#: Names that can follow a dot; CEL reserves some, which are few and written as an index, too.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = frozenset(
    {
        *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import"),
        *("in", "let", "loop", "namespace", "null", "package", "return", "true", "var", "void"),
        "while",
    }
)
_NUMBER_OR_BOOL = re.compile(r"true|false|-?(0|[1-9][0-9]{0,14})(\.[0-9]*[1-9])?")


def wait_expression(rule: WaitRule) -> str:
    """Return the expression of a wait, "" where every event of the name ends it."""
    terms = [f"{_path(path)} == {literal(json.loads(text))}" for path, text in rule.conditions]
    if rule.match is not None:
        terms.append(_match(rule.match.path, rule.match.key))
    return " && ".join(terms)


def needs_loaded_events(expression: str) -> bool:
    """Tell whether the server looks into the run's events for this expression.

    It searches the text for ``event.``, in strings too, and cannot do that at a checkpoint.
    """
    return "event." in expression


def literal(value: object) -> str:
    """Return a JSON value as CEL; the text of a string cannot end the literal it is in."""
    if isinstance(value, str):
        # JSON escapes what must be escaped in a way that CEL knows, as long as text stays text:
        # escaped surrogates are JSON alone.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        members = (f"{literal(key)}: {literal(item)}" for key, item in value.items())
        return f"{{{', '.join(members)}}}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        value = float(value)  # beyond the integers of CEL; events have only doubles anyway
    return json.dumps(value)


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
    return "async" + "".join(map(_member, names))


def _member(name: str) -> str:
    if _NAME.fullmatch(name) is not None and name not in _RESERVED:
        return f".{name}"
    return f"[{literal(name)}]"
