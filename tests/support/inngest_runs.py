"""Runs as an Inngest server keeps them: ops in, calls of the endpoint out."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from support.inngest_cel import holds

__all__ = ["Answer", "Call", "Run", "Runs"]

_UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": 0.001}


@dataclass
class Call:
    """A call of the endpoint: one item of the server's queue.

    ``race`` and ``group`` are those of the op that it comes from; ``generation`` counts its
    attempts, ``attempt`` may begin later than 0.
    """

    run: Run
    target: str = ""
    attempt: int = 0
    generation: int = 0
    race: bool = False
    group: str = ""
    #: Whether the run had to plan when the call was made: what the server knows while it lasts.
    force_plan: bool = False


@dataclass
class Answer:
    """What the endpoint answers to a call."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Run:
    """A run. ``history`` is what was done to it, for tests."""

    id: str
    event: dict[str, Any]
    retries: int
    memos: OrderedDict[str, object] = field(default_factory=OrderedDict)
    status: str = "Running"
    output: bytes | None = None
    ended_at: float = 0.0
    force_plan: bool = False
    #: Ops of one answer that are not done: while there are any, only ops that race make a call.
    pending: set[str] = field(default_factory=set)
    #: Names of all items that were ever queued: none is queued twice.
    jobs: set[str] = field(default_factory=set)
    waits: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.status != "Running"


class Runs:
    """All runs of a server.

    Args:
        call: calls the endpoint.
        ask: makes a request; None if there is no whole answer.
        retry_interval: seconds before each further attempt; a ``retry-after`` goes before.
    """

    def __init__(
        self,
        call: Callable[[Call], Awaitable[Answer | None]],
        ask: Callable[[str, str, dict[str, str], bytes], Awaitable[Answer | None]],
        retry_interval: float,
    ) -> None:
        self._call = call
        self._retry_interval = retry_interval
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids = itertools.count(1)
        self._ask = ask
        self.runs: dict[str, Run] = {}
        #: What other applications have, by the server's names.
        self.functions: dict[str, Callable[[dict[str, Any]], Awaitable[object]]] = {}
        #: How many calls of endpoints are under way, or due now.
        self.busy = 0

    # -- the checkpoint API -----------------------------------------------------------------

    def begin(self, run_id: str, event: dict[str, Any], retries: int) -> Run:
        run = self.runs.get(run_id)
        if run is None:
            stored = {**event, "id": f"event-{next(self._ids)}", "ts": 1_700_000_000_000}
            run = self.runs[run_id] = Run(run_id, stored, retries)
        return run

    def checkpoint(self, run: Run, ops: list[dict[str, Any]]) -> None:
        """Take ops of a run whose client is attached."""
        for op in ops:
            if op["op"] == "WaitForEvent" and "event." in op["opts"].get("if", ""):
                raise RuntimeError("the events of the run are not loaded")
        if len(ops) > 1:
            run.force_plan = True
        completes = any(op["op"] == "RunComplete" for op in ops)
        for op in sorted(ops, key=lambda op: op["op"] != "WaitForEvent"):
            run.history.append(f"checkpoint {op['op']} {op.get('displayName', '')}".rstrip())
            match op["op"]:
                case "StepRun":
                    if not completes:
                        run.memos.setdefault(op["id"], {"data": op["data"]})
                case "StepError" if run.retries > 0:
                    retry = Call(run, attempt=1)
                    self._queue(retry, f"{op['id']}-sync-retry", self._retry_interval)
                case "RunComplete":
                    self._complete_attached(run, op["data"])
                case _:
                    self._take(run, op, Call(run, force_plan=run.force_plan), "")

    def _complete_attached(self, run: Run, data: dict[str, Any]) -> None:
        status = "Failed" if data["status"] >= 500 else "Completed"
        self.end(run, status, data.get("body", "").encode())

    def end(self, run: Run, status: str, output: bytes | None) -> None:
        """End a run; there is no output of one that is cancelled."""
        run.status, run.output = status, output
        run.ended_at = asyncio.get_running_loop().time()

    # -- calls of the endpoint --------------------------------------------------------------

    def later(self, delay: float, call: Call) -> None:
        """Call the endpoint again, as a server that does so twice, or late."""
        self._spawn(self._dispatch(delay, call))

    def _queue(self, call: Call, job: str, delay: float = 0) -> None:
        """Queue a call under a name, unless one was queued under it before."""
        if job not in call.run.jobs:
            call.run.jobs.add(job)
            self.later(delay, call)

    async def _dispatch(self, delay: float, call: Call) -> None:
        if delay:
            await asyncio.sleep(delay)
        if call.run.ended:
            return
        if len(call.run.memos) >= _MOST_MEMOS:
            self.end(call.run, "Failed", _TOO_MANY)
            return
        call.generation += 1
        call.force_plan = call.run.force_plan
        self.busy += 1
        try:
            answer = await self._call(call)
        finally:
            self.busy -= 1
        if answer is None:
            self._retry(call, {})
        elif not call.run.ended:
            self._read(call, answer)

    def _read(self, call: Call, answer: Answer) -> None:
        run = call.run
        run.history.append(f"answer {answer.status}")
        if "x-inngest-sdk" not in answer.headers:
            self._retry(call, answer.headers)
        elif answer.body.startswith(b"["):
            self._take_all(call, json.loads(answer.body), answer.headers)
        elif answer.status < 300:
            self.end(run, "Completed", answer.body)
            run.history.append("completed")
        elif answer.headers.get("x-inngest-no-retry") == "true":
            self.end(run, "Failed", answer.body)
            run.history.append("failed")
        else:
            self._retry(call, answer.headers)

    def _take_all(self, call: Call, ops: list[dict[str, Any]], headers: Mapping[str, str]) -> None:
        run, group = call.run, ""
        if not ops:
            self.later(0, Call(run))
        if len(ops) > 1:
            run.force_plan = True
            if any(op["op"] == "StepPlanned" for op in ops):
                ids = sorted(op["id"] for op in ops)
                group, run.pending = "-".join(ids), set(ids)
        for op in ops:
            name = op.get("displayName", "")
            run.history.append(f"op {op['op']} {name}".rstrip())
            if op["op"] == "StepError" and call.attempt + 1 <= run.retries:
                self._retry(call, headers)
            else:
                self._take(run, op, call, group)

    def _take(self, run: Run, op: dict[str, Any], call: Call, group: str) -> None:
        """Do what an op asks for; ``group`` is that of all ops of the answer."""
        race = op.get("opts", {}).get("parallelMode") == "race"
        follows = Call(run, race=race, group=group)
        match op["op"]:
            case "StepRun":
                self._save(run, op["id"], {"data": op["data"]})
                self._discover(call, op["id"], race=race)
            case "StepError" | "StepFailed":
                kept = {k: v for k, v in op["error"].items() if k in _KEPT}
                self._save(run, op["id"], {"error": kept})
                if not run.pending or call.race:
                    self._queue(Call(run), f"{op['id']}-failure")
            case "StepPlanned":
                self._queue(replace(follows, target=op["id"]), f"{op['id']}-plan")
            case "Sleep":
                if op["id"] not in run.jobs:
                    run.jobs.add(op["id"])
                    self._spawn(self._sleep(follows, op["id"], _seconds(op["name"])))
            case "WaitForEvent":
                if op["id"] not in run.jobs:
                    run.jobs.add(op["id"])
                    run.waits[op["id"]] = {**op, "group": group}
                    self._spawn(self._time_out(op, follows))
            case "WaitForSignal":
                if op["id"] not in run.jobs:
                    run.jobs.add(op["id"])
                    self._replace(op)
                    run.waits[op["id"]] = {**op, "group": group}
                    self._spawn(self._time_out(op, follows))
            case "InvokeFunction":
                if op["id"] not in run.jobs:
                    run.jobs.add(op["id"])
                    self._spawn(self._invoke(op, follows))
            case "Gateway" | "AIGateway":
                self._spawn(self._call_service(op, call))
            case "DiscoveryRequest":
                self._queue(Call(run), op["id"])
            case "None":
                pass  # the call has come to nothing
            case other:
                raise ValueError(f"unknown op {other}")

    def _save(self, run: Run, op_id: str, memo: object) -> None:
        """Save an outcome; the first one counts."""
        if op_id in run.memos:
            run.history.append("late")
        run.memos.setdefault(op_id, memo)
        run.pending.discard(op_id)

    def _discover(self, call: Call, op_id: str, *, race: bool, job: str = "") -> None:
        """Call the endpoint for what follows an op, unless the others are to be waited for."""
        run = call.run
        if run.pending and not race:
            return
        if call.force_plan:
            run.force_plan = False
        name = f"{call.group}-discover" if call.group and not race else job or op_id
        self._queue(Call(run), name)

    async def _sleep(self, call: Call, op_id: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if call.run.ended:
            return
        self._save(call.run, op_id, None)
        if not call.run.pending or call.race:
            call.run.force_plan = False
            self.later(0, call)

    async def _time_out(self, op: dict[str, Any], call: Call) -> None:
        await asyncio.sleep(_seconds(op["opts"]["timeout"]))
        self._resume(call, op["id"], None)

    def _resume(self, call: Call, op_id: str, value: object) -> None:
        """End a wait, once."""
        if call.run.waits.pop(op_id, None) is not None and not call.run.ended:
            self._save(call.run, op_id, value)
            call.force_plan = True
            self._discover(call, op_id, race=call.race, job=f"{op_id}-event")

    def _retry(self, call: Call, headers: Mapping[str, str]) -> None:
        if call.attempt + 1 > call.run.retries:
            call.run.history.append("dropped")  # and the run stays as it is
            return
        call.attempt += 1
        asked = headers.get("retry-after")
        self.later(min(float(asked or 0), 0.05) or self._retry_interval, call)

    # -- functions and services -------------------------------------------------------------

    async def _invoke(self, op: dict[str, Any], follows: Call) -> None:
        """Run a function, and end the wait for it; one that takes too long is not cancelled."""
        data = op["opts"]["payload"]["data"]
        assert isinstance(data, dict), "the server would crash"
        function = self.functions.get(op["opts"]["function_id"])
        if function is None:
            text = f"could not find function with ID: {op['opts']['function_id']}"
            memo: object = {"error": {"name": "Error", "message": text}}
        else:
            timeout = op["opts"].get("timeout")
            try:
                running = function({**data, "_inngest": {"fn_id": op["opts"]["function_id"]}})
                result = await asyncio.wait_for(running, _seconds(timeout) if timeout else None)
                memo = {"data": result}
            except TimeoutError:
                memo = {"error": {**_INVOKE_TIMEOUT, "error": "InngestInvokeTimeoutError: ..."}}
            except Exception as error:
                shown = {"name": type(error).__name__, "message": str(error)}
                memo = {"error": {**shown, "error": "NonRetriableError"}}
        if not follows.run.ended:
            self._save(follows.run, op["id"], memo)
            follows.force_plan = True
            self._discover(follows, op["id"], race=follows.race, job=f"{op['id']}-invoked")

    async def _call_service(self, op: dict[str, Any], call: Call) -> None:
        """Make a call: each time that the op comes. What fails is tried again with its item."""
        opts, is_model = op["opts"], op["op"] == "AIGateway"
        headers = dict(opts["headers"])
        body = opts.get("body", "")
        if is_model:
            headers["content-type"] = "application/json"
            key = opts["auth_key"]
            is_anthropic = opts["format"] == "anthropic"
            name, value = ("x-api-key", key) if is_anthropic else ("authorization", f"Bearer {key}")
            headers[name] = value
            body = json.dumps(body)
        answer = await self._ask(opts.get("method", "POST"), opts["url"], headers, body.encode())
        memo = _model_memo(answer) if is_model else _service_memo(opts["url"], answer)
        is_final = call.attempt + 1 > call.run.retries
        if "error" in memo and not is_final:
            self._retry(call, {})
            return
        self._save(call.run, op["id"], memo)
        race = opts.get("parallelMode") == "race"
        self._discover(call, op["id"], race=race)

    # -- events -----------------------------------------------------------------------------

    def send(self, event: dict[str, Any]) -> str:
        """Take an event, and end the waits that it answers."""
        event = {"user": {}, **event}
        event.setdefault("id", f"event-{next(self._ids)}")
        for run in list(self.runs.values()):
            for op_id, op in list(run.waits.items()):
                expression = op["opts"].get("if", "")
                if (
                    op["op"] == "WaitForEvent"
                    and op["name"] == event["name"]
                    and (not expression or holds(expression, event))
                ):
                    race = op["opts"].get("parallelMode") == "race"
                    self._resume(Call(run, race=race, group=op["group"]), op_id, event)
        return str(event["id"])

    # -- signals ----------------------------------------------------------------------------

    def signal(self, name: str, data: object) -> str | None:
        """Take a signal, and end the wait for it; return the id of its run."""
        for run in list(self.runs.values()):
            for op_id, op in list(run.waits.items()):
                if op["op"] == "WaitForSignal" and op["opts"]["signal"] == name:
                    value = {"data": {"signal": name, "data": data}}
                    self._resume(Call(run, group=op["group"]), op_id, value)
                    return run.id
        return None

    def _replace(self, op: dict[str, Any]) -> None:
        """Let the waits for the same signal wait for nothing but their time-out."""
        for run in self.runs.values():
            for other in run.waits.values():
                if other["op"] == "WaitForSignal" and other["name"] == op["name"]:
                    assert op["opts"]["conflict"] == "replace", "the server would fail this run"
                    other["opts"] = {**other["opts"], "signal": None}

    # -- tasks ------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # Until it has begun it counts as busy: what is due now is about to go on.
        self.busy += 1
        task = asyncio.get_running_loop().create_task(work)
        asyncio.get_running_loop().call_soon(self._begun)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _begun(self) -> None:
        self.busy -= 1

    async def stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


#: A run that has as many is not called for again; the error is encoded twice.
_MOST_MEMOS = 1_000
_TOO_MANY = json.dumps(
    json.dumps(
        {
            "error": {
                "error": "function has too many steps",
                "name": "InngestErrFunctionOverflowed",
                "message": "The function run exceeded the step limit of 1000 steps.",
            }
        }
    )
).encode()
_KEPT = frozenset({"name", "message", "stack", "data", "noRetry", "cause"})


_INVOKE_TIMEOUT = {
    "name": "InngestInvokeTimeoutError",
    "message": "Timed out waiting for invoked function to complete",
}


def _service_memo(url: str, answer: Answer | None) -> dict[str, Any]:
    """Return what is kept of an answer: as text, whatever it is and whatever its status."""
    if answer is None:
        text = "Error making gateway request: Unable to reach SDK URL"
        return {"error": {"name": "GatewayError", "message": text}}
    fields = {name.title(): value for name, value in answer.headers.items()}
    body = answer.body.decode("utf-8", "replace")
    data = {"url": url, "headers": fields, "body": body, "status_code": answer.status}
    return {"data": data}


def _model_memo(answer: Answer | None) -> dict[str, Any]:
    """Return what is kept of a model's answer; one that is no JSON leaves a failure empty."""
    if answer is not None and answer.status < 300:
        return {"data": json.loads(answer.body)}
    body = b'{"error":"Error making AI request"}' if answer is None else answer.body
    why = "Unable to reach SDK URL" if answer is None else f"status code: {answer.status}"
    try:
        data = json.loads(body)
    except ValueError:
        return {"error": None}
    text = f"Error making AI request: unsuccessful {why}"
    return {"error": {"name": "AIGatewayError", "message": text, "data": data}}


def _seconds(text: str) -> float:
    found = re.fullmatch("".join(rf"(?:(\d+){unit})?" for unit in _UNITS), text)
    if not text or found is None:
        raise ValueError(f"not a duration: {text!r}")
    return sum(int(n) * _UNITS[u] for n, u in zip(found.groups(), _UNITS, strict=True) if n)
