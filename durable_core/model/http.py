"""HTTP values, independent of any server: one place to import them from."""

from __future__ import annotations

from durable_core.model.headers import SENSITIVE_HEADERS, HeaderFields, Headers
from durable_core.model.params import FormParams, QueryParams
from durable_core.model.request import Request
from durable_core.model.response import Body, Response

__all__ = [
    "SENSITIVE_HEADERS",
    "Body",
    "FormParams",
    "HeaderFields",
    "Headers",
    "QueryParams",
    "Request",
    "Response",
]
