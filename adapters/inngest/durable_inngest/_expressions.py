"""What an event must be to end a wait, in the server's language, CEL.

The event is ``async`` there; ``event`` is the request that began the run, and is not used: what
``match`` takes from the request stands in the expression as a literal.

The server takes literals out of an expression before it parses that, and it takes the text between
the quotes as it stands: an escape means itself, a backslash before the last quote makes it crash,
and so does ``vars.``, its name for what it has taken out. It indexes expressions, too: only a plain
path that is compared with a plain literal, and anything under a function call, are safe there.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Sequence

from durable_core.machine.matching import WaitRule

__all__ = ["literal", "needs_loaded_events", "wait_expression"]

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


def needs_loaded_events(expression: str) -> bool:
    """Tell whether the server looks into the run's events for this expression.

    It searches the text for ``event.``, and cannot do that at a checkpoint.
    """
    return "event." in expression


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
