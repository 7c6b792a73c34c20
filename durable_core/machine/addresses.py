"""The addresses at which ops wait for what is delivered to them; see ``ports.Delivery``.

Each sort has a prefix of its own, so that no address of one sort is one of another.
"""

from __future__ import annotations

__all__ = [
    "callback_address",
    "child_address",
    "child_of",
    "is_callback",
    "signal_address",
    "signal_of",
]

_SIGNAL = "signal:"
_CALLBACK = "callback:"


def signal_address(name: str) -> str:
    """Return the address of ``step.wait_for_signal``: a name that users give."""
    return _SIGNAL + name


def signal_of(address: str) -> str:
    """Return the name of the signal of an address; "" if the address is of another sort."""
    return address.removeprefix(_SIGNAL) if address.startswith(_SIGNAL) else ""


def callback_address(run_id: str, op_id: str) -> str:
    """Return the address of ``step.wait_for_callback``, which belongs to the run."""
    return f"{_CALLBACK}{run_id}:{op_id}"


def is_callback(address: str) -> bool:
    """Tell whether an address is one of :func:`callback_address`."""
    return address.startswith(_CALLBACK)


def child_address(run_id: str) -> str:
    """Return the address at which the end of a child run is delivered.

    It belongs to the parent: a delivery has the parent as its ``run_id``.

    Args:
        run_id: the child.
    """
    return f"child:{run_id}"


def child_of(address: str) -> str:
    """Return the child that :func:`child_address` was given."""
    return address.removeprefix("child:")
