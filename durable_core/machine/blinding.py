"""Waits and events whose values a store compares without knowing them.

A wait requires values at paths of an event's data. A store finds out whether they are equal, and
needs nothing else. So each value is replaced by a keyed hash of its canonical JSON, in the rule of
the wait and in a mirror of the event's data: hashes of equal values are equal. Names are replaced,
too.

A scalar in an event matches a JSON value, and a text as it would be in a URL (see
``machine/matching``). So the mirror has it twice, under a hash of its name for each of the two.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import replace

from durable_core.codec.json import canonical_json
from durable_core.machine.matching import MatchRule, WaitRule, dump_rule, load_rule, scalar_text
from durable_core.model.step import Pending

__all__ = ["MIRROR", "Blinder"]

#: The name under which the data of a stored event has the mirror of the real data.
MIRROR = "m"
#: Bytes of a hash that are kept: two values of one store do not have the same by chance.
_BYTES = 16


class Blinder:
    """Replaces values by hashes.

    Args:
        key: the secret; the hashes of two keys have nothing in common.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def text(self, text: str) -> str:
        """Return the hash of a text: 22 letters, digits, ``-`` and ``_``."""
        digest = hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return urlsafe_b64encode(digest[:_BYTES]).decode("ascii").rstrip("=")

    def wait(self, pending: Pending) -> Pending:
        """Return a wait that matches the mirrors of those events that it matched before."""
        if not pending.rule:
            return pending
        rule = load_rule(pending.rule)
        match = None if rule.match is None else self._match(rule.match)
        conditions = tuple(
            (self._path(path, "j"), canonical_json(self._mirror(json.loads(required))))
            for path, required in rule.conditions
        )
        blinded = WaitRule(event=rule.event, match=match, conditions=conditions)
        return replace(
            pending,
            rule=dump_rule(blinded),
            match_path="" if match is None else ".".join(match.path),
            match_key="" if match is None else match.key,
        )

    def data(self, data: Mapping[str, object]) -> object:
        """Return the mirror of an event's data."""
        return self._mirror(data)

    def _match(self, match: MatchRule) -> MatchRule:
        kind, _, text = match.key.partition(":")
        key = self.text(f"t:{text}") if kind == "t" else None
        if key is None:
            key = canonical_json(self._mirror(json.loads(text)))
        return MatchRule(path=self._path(match.path, kind), key=f"{kind}:{key}")

    def _path(self, path: tuple[str, ...], kind: str) -> tuple[str, ...]:
        data, *names, last = path
        return (data, MIRROR, *(self._name(name, "j") for name in names), self._name(last, kind))

    def _name(self, name: str, kind: str) -> str:
        return self.text(f"name {kind}:{name}")

    def _mirror(self, value: object) -> object:
        if isinstance(value, Mapping):
            return dict(self._members(value))
        if isinstance(value, list):
            return [self._mirror(each) for each in value]
        return None if value is None else self.text(f"j:{canonical_json(value)}")

    def _members(self, value: Mapping[str, object]) -> Iterator[tuple[str, object]]:
        for name, member in value.items():
            yield self._name(name, "j"), self._mirror(member)
            if member is not None and not isinstance(member, (Mapping, list)):
                yield self._name(name, "t"), self.text(f"t:{scalar_text(member)}")
