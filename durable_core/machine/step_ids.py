"""The identity of steps: hashed ids, and an index for ids that repeat."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from durable_core.errors import DuplicateStepIdError, StepArgumentError
from durable_core.model.step import Op, OpKind

__all__ = ["StepIds", "hash_step_id", "op_named"]

_LONGEST = 255
#: In the Inngest protocol, the hash of this id means the end of the run.
_RESERVED = "complete"
#: So begin the names of the engine's own steps, which undo others.
_OWN = ("(failed)", "(undo) ")


def hash_step_id(id: str) -> str:
    """Return the lower-case hexadecimal SHA-1 of the id in UTF-8, as in the Inngest protocol."""
    return hashlib.sha1(id.encode("utf-8"), usedforsecurity=False).hexdigest()


@lru_cache(maxsize=4096)
def op_named(name: str, kind: OpKind) -> Op:
    """Return the op of that name. Ops are cached, because most names repeat."""
    return Op(id=hash_step_id(name), name=name, kind=kind)


@lru_cache(maxsize=4096)
def _op_called(id: str, kind: OpKind) -> Op:
    """Return the op of the first step with an id of the user's, once that is checked."""
    return op_named(_check_id(id), kind)


class StepIds:
    """Gives each step of one execution its own id, the same in every replay.

    The first step called ``a`` is ``a``, the next ones ``a:1``, ``a:2``, and so on; an id that is
    already in use is skipped. Replay gives the same ids only if the calls come in the same order,
    so all steps with the same id must be called from one branch (task or thread).

    Several threads may call it at once.
    """

    __slots__ = ("_failed_at", "_indexes", "_owners")

    def __init__(self) -> None:
        self._owners: dict[str, object] = {}  # in the order of the calls
        self._indexes: dict[str, int] = {}
        self._failed_at: dict[str, int] = {}

    def next_op(self, id: str, kind: OpKind, branch: object) -> Op:
        """Return the op of the next step called ``id``; its name is the indexed id.

        Args:
            id: the user's id for the step; 1 to 255 characters.
            kind: the kind of step.
            branch: the calling task or thread; compared by identity, and kept alive.

        Raises:
            DuplicateStepIdError: another branch has this id.
            TypeError: the id is not a ``str``.
            ValueError: the id is empty, too long, reserved, or has lone surrogates.
        """
        op = _op_called(id, kind) if type(id) is str else op_named(_check_id(id), kind)
        id = op.name
        if id not in self._owners:
            # One atomic call decides between threads.
            if self._owners.setdefault(id, branch) is not branch:
                raise _duplicate(id)
            return op
        # The index is read before the owner: another thread's index then comes with its name.
        index = self._indexes.get(id, 1)
        if self._owners.get(id, branch) is not branch:
            raise _duplicate(id)
        text = f"{id}:{index}"
        while not self._claim(text, id, branch):
            index += 1
            text = f"{id}:{index}"
        self._indexes[id] = index + 1
        return op_named(text, kind)

    @property
    def has_one_branch(self) -> bool:
        """Whether all ids belong to one branch."""
        return len({id(branch) for branch in self._owners.values()}) <= 1

    def note_failure(self, name: str) -> None:
        """Note that the handler now learns that a step has failed."""
        self._failed_at.setdefault(name, len(self._owners))

    def called_after_failure(self, name: str, handler: object) -> list[str]:
        """Return the steps that code which knows that a step has failed called from then on.

        Args:
            name: the indexed id of the step that failed.
            handler: the branch of the handler itself. It and the branch of that step may know.
        """
        if name not in self._failed_at:
            return []
        owner = self._owners.get(name)
        later = list(self._owners.items())[self._failed_at[name] :]
        return [text for text, branch in later if branch is owner or branch is handler]

    def _claim(self, text: str, id: str, branch: object) -> bool:
        """Make the branch the owner of the indexed id; False if it already is."""
        if self._owners.get(text, _NOBODY) is branch:
            return False
        if self._owners.setdefault(text, branch) is not branch:
            raise _duplicate(id)
        return True


_NOBODY = object()


def _duplicate(id: str) -> DuplicateStepIdError:
    return DuplicateStepIdError(
        f"step id {id!r} is used by two tasks or threads of one run, so a replay could "
        "swap their results; give each its own id, such as one with the item's key"
    )


def _check_id(id: object) -> str:
    if not isinstance(id, str):
        raise StepArgumentError(f"a step id must be a str, not {type(id).__name__}")
    if type(id) is not str:
        # A member of a str enumeration formats as its name on some versions; its value counts.
        id = str.__str__(id)
    if not 1 <= len(id) <= _LONGEST:
        raise StepArgumentError(f"a step id must have 1 to {_LONGEST} characters, not {len(id)}")
    if not id.isascii():
        try:
            id.encode("utf-8")
        except UnicodeEncodeError:
            raise StepArgumentError("a step id must not contain lone surrogates") from None
    if id == _RESERVED:
        raise StepArgumentError(f"the step id {_RESERVED!r} is reserved for the end of the run")
    if id.startswith(_OWN):
        raise StepArgumentError(
            f"step id {id!r}: ids that begin with {_OWN[0]!r} or {_OWN[1]!r} are reserved for "
            "undoing"
        )
    return id
