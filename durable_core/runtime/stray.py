"""Handlers that go on asking for steps after they were put away.

``while True: try: ... except: continue`` swallows whatever a refused step raises, and asks for the
next one at once. Nothing can end such code from outside; but it need not keep a processor busy,
nor an event loop, nor its run.
"""

from __future__ import annotations

import itertools

from durable_core.flow.execution import Execution
from durable_core.runtime.logs import run_logger

__all__ = ["PAUSE", "Stray"]

#: So many steps are refused at once; ``finally`` blocks ask for a few.
_MOST = 100
#: Each one after that takes so long, seconds.
PAUSE = 1.0


class Stray:
    """Counts the refused steps of one execution.

    Args:
        ex: the execution.
    """

    def __init__(self, ex: Execution) -> None:
        self._ex = ex
        self._numbers = itertools.count(1 - _MOST)  # several threads may count

    def refused(self) -> int:
        """Count one more, and return how many that is too many; the first such is logged."""
        too_many = next(self._numbers)
        if too_many == 1:
            run = self._ex.run
            run_logger(run.id, run.function_id).error(
                "%s goes on asking for steps after it was put away: it swallows what they raise, "
                "perhaps in a bare 'except:' in a loop; the run goes on without it",
                run.function_id,
            )
        return too_many
