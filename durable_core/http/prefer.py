"""Preferences of a client: the header ``Prefer`` (RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from durable_core.http.headers import Headers

__all__ = ["APPLIED", "Preferences", "parse_prefer"]

#: The response header that names the preferences which the server has followed.
APPLIED = "preference-applied"

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_VALUE = rf"(?:[ \t]*=[ \t]*(?:({_TOKEN})|({_QUOTED}))?)?"
_PREFERENCE = re.compile(rf"({_TOKEN}){_VALUE}[ \t]*(?:;.*)?", re.DOTALL)
#: One member of the list: commas in quotes are part of it.
_MEMBER = re.compile(rf"(?:{_QUOTED}|[^,])+")
#: A number with more digits is longer than any time that a server waits.
_SECONDS = re.compile(r"[0-9]{1,9}")
#: Longer headers are ignored: matching takes time that grows with the square of the length.
_LONGEST = 1_000


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a client prefers, as far as this library knows it.

    Attributes:
        respond_async: it would rather not wait for the response.
        wait: for how long it waits, seconds; None if it says nothing.
    """

    respond_async: bool = False
    wait: int | None = None


def parse_prefer(headers: Headers) -> Preferences:
    """Return the preferences ``respond-async`` and ``wait`` of a request.

    Others, and parameters, are ignored, and so is what is malformed. Of a preference that is there
    several times only the first one counts (RFC 7240 section 2).
    """
    known = dict[str, str]()
    for name, value in _members(",".join(headers.get_all("prefer"))):
        known.setdefault(name, value)
    wait = known.get("wait", "")
    return Preferences(
        respond_async=known.get("respond-async") == "",
        wait=int(wait) if _SECONDS.fullmatch(wait) else None,
    )


def _members(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of each preference; the value is "" if there is none."""
    if len(text) > _LONGEST:
        return
    for member in _MEMBER.findall(text):
        found = _PREFERENCE.fullmatch(member.strip(" \t"))
        if found is not None:
            name, token, quoted = found.groups()
            yield name.lower(), token or re.sub(r"\\(.)", r"\1", quoted[1:-1] if quoted else "")
