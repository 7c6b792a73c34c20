"""HTTP header fields as one immutable value (RFC 9110, section 5), and what some of them say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias, TypeVar

from durable_core.errors import HeaderNotStoredError

__all__ = [
    "APPLIED",
    "IDENTIFYING_HEADERS",
    "SENSITIVE_HEADERS",
    "TOKEN",
    "HeaderFields",
    "Headers",
    "Preferences",
    "accepts_event_stream",
    "http_date",
    "is_traceparent",
    "parse_prefer",
    "trace_id_of",
    "traceparent_of",
]

# --- headers --------------------------------------------------------------------------------------

_T = TypeVar("_T")

#: A method or field name: RFC 9110, section 5.6.2.
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: Characters that a field value may not contain: controls except tab, and non-Latin-1 characters.
_NOT_A_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
#: Request headers that say who the client is: those of HTTP, the keys and tokens that services ask
#: for, and what proxies add after a login. ``docs/reference/options.md`` has the same list.
IDENTIFYING_HEADERS = frozenset(
    {
        *("authorization", "cookie", "proxy-authorization"),
        *("api-key", "apikey", "x-api-key", "x-apikey", "x-api-token", "x-api-secret"),
        *("x-auth-key", "x-auth-token", "x-access-token", "x-session-token", "x-refresh-token"),
        *("x-id-token", "x-token", "x-client-secret"),
        *("x-amz-security-token", "x-goog-api-key", "x-functions-key"),
        *("ocp-apim-subscription-key", "x-rapidapi-key", "dd-api-key", "dd-application-key"),
        *("private-token", "job-token", "x-gitlab-token", "x-vault-token", "x-consul-token"),
        *("x-shopify-access-token", "x-hasura-admin-secret", "x-telegram-bot-api-secret-token"),
        *("x-forwarded-authorization", "x-original-authorization", "x-forwarded-access-token"),
        *("x-forwarded-id-token", "x-amzn-oidc-accesstoken", "x-amzn-oidc-data"),
        *("x-goog-iap-jwt-assertion", "cf-access-jwt-assertion", "cf-access-client-secret"),
        *("x-ms-token-aad-access-token", "x-ms-token-aad-id-token", "x-ms-client-principal"),
    }
)
#: Request headers with credentials; they are stored with a run only if an option names them. The
#: tokens against forged requests are of one page, so they do not tell one client from another.
SENSITIVE_HEADERS = IDENTIFYING_HEADERS | {
    *("csrf-token", "x-csrf-token", "x-csrftoken", "x-xsrf-token"),
}
_NOT_PRINTED = SENSITIVE_HEADERS | {"set-cookie"}
#: Python makes a new set for each ``frozenset()``.
_NO_NAMES: frozenset[str] = frozenset()
#: Names that most fields have. To check a name takes longer than to find it here.
_COMMON_NAMES = frozenset(
    {
        *("accept", "accept-encoding", "accept-language", "authorization", "cache-control"),
        *("connection", "content-encoding", "content-length", "content-type", "cookie", "date"),
        *("etag", "expect", "forwarded", "host", "idempotency-key", "if-none-match", "location"),
        *("origin", "pragma", "prefer", "priority", "referer", "retry-after", "sec-ch-ua"),
        *("sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode"),
        *("sec-fetch-site", "sec-fetch-user", "server", "set-cookie", "te", "traceparent"),
        *("tracestate", "transfer-encoding", "upgrade-insecure-requests", "user-agent", "vary"),
        *("via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto"),
        *("x-real-ip", "x-request-id"),
    }
)


class Headers:
    """Header fields: names are case-insensitive, repeated fields are kept, order is kept.

    Args:
        fields: a mapping, an iterable of ``(name, value)`` pairs, or other ``Headers``.
        withheld: lower-case names of fields that the request had but that are not stored with
            its run. Looking one up raises ``HeaderNotStoredError``: it must never look absent.
            Iteration and ``items()`` cannot show them.

    Raises:
        ValueError: a name that is no RFC 9110 token, or a value with control characters
            (tab is allowed) or characters outside Latin-1. Whitespace around a value is dropped.
        TypeError: a name or value that is not a ``str``.
    """

    __slots__ = ("_index", "_on_sensitive", "_raw", "_withheld")

    _raw: tuple[tuple[str, str], ...]
    #: By lower-case name: the value, or all of a field that is repeated.
    _index: dict[str, str | tuple[str, ...]] | None
    _withheld: frozenset[str]
    #: Called with the name when a sensitive field that is there is looked up.
    _on_sensitive: Callable[[str], object] | None

    def __init__(self, fields: HeaderFields = (), *, withheld: Iterable[str] = ()) -> None:
        self._index = self._on_sensitive = None
        self._withheld = frozenset(withheld) if withheld else _NO_NAMES
        if isinstance(fields, Headers):
            self._raw = fields._raw
            self._withheld |= fields._withheld
            return
        # An abstract class takes longer to tell what it is, so it is asked last.
        if isinstance(fields, (tuple, list)) or not isinstance(fields, Mapping):
            self._raw = _check_fields(fields)
        else:
            self._raw = _check_fields(fields.items())

    @classmethod
    def _trusted(
        cls, pairs: Iterable[tuple[str, str]], withheld: frozenset[str] = frozenset()
    ) -> Headers:
        """Make headers from fields that a server has parsed, without checking them again."""
        self = object.__new__(cls)
        self._raw = tuple(pairs)
        self._index = self._on_sensitive = None
        self._withheld = withheld
        return self

    @property
    def raw(self) -> tuple[tuple[str, str], ...]:
        """Every field in order, with the name spelt as it was given."""
        return self._raw

    @property
    def withheld(self) -> frozenset[str]:
        """Lower-case names of the fields that were present but are not stored."""
        return self._withheld

    def _by_name(self) -> dict[str, str | tuple[str, ...]]:
        index = self._index
        if index is None:
            index = {name.lower(): value for name, value in self._raw}
            if len(index) < len(self._raw):
                # Clients may repeat a name thousands of times, so values are collected in lists.
                lists: dict[str, list[str]] = {}
                for name, value in self._raw:
                    lists.setdefault(name.lower(), []).append(value)
                index |= {name: tuple(values) for name, values in lists.items() if len(values) > 1}
            self._index = index
        return index

    def _values(self, name: str) -> tuple[str, ...]:
        key = name.lower()
        if key in self._withheld:
            raise HeaderNotStoredError(
                f"header {key!r} was on the request but is not stored with the run; "
                f"name it in store_headers= to have it on replay"
            )
        index = self._index
        found = (self._by_name() if index is None else index).get(key, ())
        values = found if isinstance(found, tuple) else (found,)
        if self._on_sensitive is not None and values and key in SENSITIVE_HEADERS:
            self._on_sensitive(key)
        return values

    def __getitem__(self, name: str) -> str:
        """Return the first value of the field; ``KeyError`` when it is absent."""
        values = self._values(name)
        if not values:
            raise KeyError(name)
        return values[0]

    def get(self, name: str, default: _T | None = None) -> str | _T | None:
        """Return the first value of the field, or ``default`` when it is absent."""
        values = self._values(name)
        return values[0] if values else default

    def get_all(self, name: str) -> tuple[str, ...]:
        """Return every value of the field in order; empty when it is absent."""
        return self._values(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._values(name))

    def has_any(self, names: frozenset[str]) -> bool:
        """Tell whether a field of one of these names, in lower case, is there and stored."""
        index = self._index
        return not names.isdisjoint(self._by_name() if index is None else index)

    def identity(self) -> bytes:
        """Return the fields that say who the client is (``IDENTIFYING_HEADERS``), to compare.

        Raises:
            HeaderNotStoredError: one of them is withheld.
        """
        names = sorted(IDENTIFYING_HEADERS.intersection((*self._by_name(), *self._withheld)))
        found = ["\n".join((name, *self._values(name))) for name in names]
        return "\0".join(found).encode("utf-8", "surrogatepass")

    def keys(self) -> tuple[str, ...]:
        """Return the distinct names, in lower case, in order of first appearance."""
        return tuple(self._by_name())

    def items(self) -> tuple[tuple[str, str], ...]:
        """Return every field in order, repeated ones too, with names in lower case."""
        return tuple((name.lower(), value) for name, value in self._raw)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name())

    def __len__(self) -> int:
        return len(self._by_name())

    def with_set(self, name: str, value: str) -> Headers:
        """Return headers in which ``name`` has this one value, as the last field."""
        kept = self.without((_check_name(name),))
        field = (name, _check_value(name, value))
        return Headers._trusted((*kept._raw, field), kept._withheld)

    def without(self, names: Iterable[str]) -> Headers:
        """Return the headers without the fields of these names."""
        gone = {name.lower() for name in names}
        kept = [pair for pair in self._raw if pair[0].lower() not in gone]
        return Headers._trusted(kept, self._withheld - gone)

    def _withhold(self, names: frozenset[str]) -> Headers:
        """Return the headers with the fields of these names, in lower case, withheld."""
        index = self._by_name()
        if names.isdisjoint(index):
            return self
        found = names.intersection(index)
        kept = [pair for pair in self._raw if pair[0].lower() not in found]
        return Headers._trusted(kept, self._withheld | found)

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same values under the same names, ignoring case."""
        if not isinstance(other, Headers):
            return NotImplemented
        return self._by_name() == other._by_name() and self._withheld == other._withheld

    def __hash__(self) -> int:
        return hash(frozenset(self._by_name().items()))

    def __repr__(self) -> str:
        """Show the fields; the values of those that carry credentials are hidden."""
        shown = [(n, "..." if n.lower() in _NOT_PRINTED else v) for n, v in self._raw]
        return f"Headers({shown!r})"


HeaderFields: TypeAlias = Headers | Mapping[str, str] | Iterable[tuple[str, str]]


def _check_fields(fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the fields to keep. Nearly all are plain and need no regular expression."""
    checked = []
    for field in fields:
        try:
            name, value = field
        except ValueError:
            # It is not shown: it may be a credential.
            raise TypeError("headers are a mapping, or pairs of a name and a value") from None
        if type(name) is str and type(value) is str:
            kept = value.strip(" \t")
            is_token = name in _COMMON_NAMES or (name.isascii() and name.replace("-", "").isalnum())
            if is_token and kept.isascii() and kept.isprintable():
                checked.append(field if kept is value and type(field) is tuple else (name, kept))
                continue
        checked.append((_check_name(name), _check_value(name, value)))
    return tuple(checked)


def _check_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a header name must be a str, not {type(name).__name__}")
    if TOKEN.fullmatch(name) is None:
        raise ValueError(f"a header name must be an RFC 9110 token, not {name!r}")
    return name


def _check_value(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the value of header {name!r} must be a str, not {type(value).__name__}")
    value = value.strip(" \t")
    if _NOT_A_VALUE.search(value) is not None:
        raise ValueError(
            f"the value of header {name!r} may hold only tabs and printable Latin-1 characters"
        )
    return value


# --- accept ---------------------------------------------------------------------------------------
#
# The media types that a client accepts.

_EVENT_STREAM = "text/event-stream"
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def accepts_event_stream(headers: Headers) -> bool:
    """Return whether the client prefers an event stream to any other media type.

    ``Accept`` must name ``text/event-stream``, and no other media type with a higher weight, or
    with the same weight before it (RFC 9110 section 12.5.1). Wildcards do not count. A media
    type whose weight is malformed is ignored.
    """
    values = headers._values("accept")
    for value in values:  # nearly no request passes this, and a generator takes 0.5 us more
        if _EVENT_STREAM in value.lower():
            break
    else:
        return False
    best, best_weight = "", 0.0
    for media_range in ",".join(values).lower().split(","):
        name, *parameters = (part.strip() for part in media_range.split(";"))
        weight = _weight(parameters)
        if name and "*" not in name and weight > best_weight:
            best, best_weight = name, weight
    return best == _EVENT_STREAM


def _weight(parameters: Sequence[str]) -> float:
    """Return the weight among the parameters of a media type; 0 if it is malformed."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if _WEIGHT.fullmatch(value) else 0.0
    return 1.0


# --- prefer ---------------------------------------------------------------------------------------
#
# The preferences of a client: the header Prefer (RFC 7240).

#: The response header that names the preferences which the server has followed.
APPLIED = "preference-applied"

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_VALUE = rf"(?:[ \t]*=[ \t]*(?:({TOKEN.pattern})|({_QUOTED}))?)?"
_PREFERENCE = re.compile(rf"({TOKEN.pattern}){_VALUE}[ \t]*(?:;.*)?", re.DOTALL)
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


# --- traceparent ----------------------------------------------------------------------------------
#
# The trace context of a request, by W3C Trace Context:
# https://www.w3.org/TR/trace-context/#traceparent-header

#: Version, trace id, parent id, flags. Ids of zeros are invalid, and so is the version ff.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def is_traceparent(value: object) -> bool:
    """Tell whether a value is a trace context that may be kept."""
    return isinstance(value, str) and _TRACEPARENT.fullmatch(value) is not None


def traceparent_of(headers: Headers) -> str | None:
    """Return the trace context of a request; None if it has none, several, or an invalid one.

    A context of a later version may have more fields: the four that are known are kept.
    """
    # Not by ``get``, which is an error in the replays of an engine that keeps no headers.
    found = [value for name, value in headers.raw if name.lower() == "traceparent"]
    if len(found) != 1:
        return None
    value = found[0].strip(" \t")
    if value[:2] != "00" and value[55:56] == "-":
        value = value[:55]
    return value if is_traceparent(value) else None


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace id, 32 hexadecimal digits, of a trace context."""
    return None if traceparent is None else traceparent[3:35]


# --- dates ----------------------------------------------------------------------------------------
#
# Times in header fields.

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def http_date(ms: int) -> str:
    """Return a moment (epoch milliseconds) as an HTTP-date (RFC 9110 section 5.6.7).

    The names are English, whatever the locale of the process.
    """
    at = datetime.fromtimestamp(ms // 1000, UTC)
    day, month = _DAYS[at.weekday()], _MONTHS[at.month - 1]
    return f"{day}, {at.day:02} {month} {at.year:04} {at:%H:%M:%S} GMT"
