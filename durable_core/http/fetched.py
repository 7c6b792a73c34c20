"""The response of another server, whole, as a step keeps it."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from durable_core.http.headers import Headers

__all__ = ["FetchedResponse"]

_CHARSET = re.compile(r""";\s*charset\s*=\s*"?([^\s;"]+)""", re.IGNORECASE)
#: What is about the connection or the coding, which are gone, or is a credential.
_NOT_KEPT = frozenset(
    {
        *("connection", "content-encoding", "content-length", "keep-alive", "set-cookie"),
        *("trailer", "transfer-encoding", "upgrade"),
    }
)


@dataclass(frozen=True, slots=True)
class FetchedResponse:
    """What a server has answered to ``step.fetch``.

    Attributes:
        status: the HTTP status; no 429 and no 5xx, which are errors.
        headers: the header fields, without those about the connection, and without cookies.
        body: the whole body.
    """

    status: int
    headers: Headers
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is 200 to 299."""
        return 200 <= self.status <= 299

    def text(self) -> str:
        """Return the body as text, in the charset that it names, or UTF-8.

        Raises:
            LookupError, UnicodeDecodeError: the charset is unknown, or the body is not in it.
        """
        found = _CHARSET.search(self.headers.get("content-type") or "")
        return self.body.decode(found[1] if found else "utf-8")

    def json(self) -> Any:
        """Return the value of a JSON body.

        Raises:
            ValueError: the body is not JSON.
        """
        return json.loads(self.body)

    def dump(self) -> dict[str, object]:
        """Return it as JSON values: the body as ``text`` if it is UTF-8, else as ``base64``."""
        fields: dict[str, object] = {
            "status": self.status,
            "headers": [
                [name, value] for name, value in self.headers.raw if name.lower() not in _NOT_KEPT
            ],
        }
        try:
            fields["text"] = self.body.decode("utf-8")
        except UnicodeDecodeError:
            fields["base64"] = b64encode(self.body).decode("ascii")
        return fields

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> FetchedResponse:
        """Return the response of :meth:`dump`."""
        text = fields.get("text")
        body = b64decode(fields["base64"]) if text is None else text.encode("utf-8")
        headers = Headers([(name, value) for name, value in fields["headers"]])
        return cls(fields["status"], headers, body)
