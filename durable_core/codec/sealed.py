"""Values that a store keeps encrypted: which key has sealed one is in front of it, in clear text.

``durable:sealed:<key id>:<ciphertext>``. Where a text is needed, a ciphertext that is no printable
ASCII is in base64: ``durable:sealed64:<key id>:<base64>``.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

__all__ = ["is_sealed", "pack", "pack_text", "unpack", "unpack_text"]

_SEALED, _SEALED64 = "durable:sealed:", "durable:sealed64:"


def is_sealed(text: str) -> bool:
    """Tell whether a text that was stored is encrypted."""
    return text.startswith((_SEALED, _SEALED64))


def pack(key_id: str, ciphertext: bytes) -> bytes:
    """Return what is stored in place of bytes."""
    return f"{_SEALED}{key_id}:".encode("ascii") + ciphertext


def pack_text(key_id: str, ciphertext: bytes) -> str:
    """Return what is stored in place of a text; it has no line end."""
    if ciphertext.isascii() and (text := ciphertext.decode("ascii")).isprintable():
        return f"{_SEALED}{key_id}:{text}"
    return f"{_SEALED64}{key_id}:{b64encode(ciphertext).decode('ascii')}"


def unpack(value: bytes) -> tuple[str, bytes]:
    """Return the id of the key, and the ciphertext.

    Raises:
        ValueError: the value is not encrypted.
    """
    prefix = _SEALED.encode("ascii")
    key_id, colon, ciphertext = value.removeprefix(prefix).partition(b":")
    if not value.startswith(prefix) or not colon:
        raise ValueError("it is not encrypted")
    return key_id.decode("ascii", "replace"), ciphertext


def unpack_text(value: str) -> tuple[str, bytes]:
    """As :func:`unpack`, for a text."""
    if value.startswith(_SEALED64):
        key_id, _, text = value.removeprefix(_SEALED64).partition(":")
        return key_id, b64decode(text)
    return unpack(value.encode("utf-8", "replace"))
