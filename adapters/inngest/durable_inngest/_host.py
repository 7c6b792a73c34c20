"""One process's part in an application on the Inngest server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial

from durable_core import Request, Response, Settings
from durable_core.engines.remote import (
    AppConfig,
    Ended,
    EngineFlows,
    RemoteExecution,
    RemoteHost,
    ResolvedOptions,
    StreamForwarder,
    WaitRequest,
    call_through_server,
    handoff_response,
    invoke_function,
    new_run,
    problem,
    run_step,
    sending_signals,
    sleep_until,
    wait_for_callback,
    wait_for_event,
    wait_for_signal,
)
from durable_inngest._api import Calls
from durable_inngest._client import ServerClient
from durable_inngest._config import Config
from durable_inngest._envelope import dump_request, function_of, refused, with_origin
from durable_inngest._execution import InngestExecution, Reporter, internal_error
from durable_inngest._flows import detach, execute, sending, suspend
from durable_inngest._reentry import RequestVerifier, is_reentry, load_execution
from durable_inngest._waiting import ask_for_output
from durable_inngest._waiting import refused as refused_at_the_wait_url

__all__ = ["InngestHost"]

#: The server takes posts of 1,024,000 bytes.
_MOST_POSTED = 1_000_000


class InngestHost(RemoteHost[ServerClient]):
    """Hosts the live runs of this process; see ``RemoteHost``.

    Args:
        env: the application.
        config: the server.
        settings: threads and times.
        server_output_url: hand clients off to the server's own output URL.
    """

    def __init__(
        self, env: AppConfig, config: Config, settings: Settings, *, server_output_url: bool = False
    ) -> None:
        how = ", for development: its calls are not verified" if config.is_dev else ""
        flows = EngineFlows(
            engine_name=InngestExecution.engine_name,
            run_step=run_step,
            sleep_until=sleep_until,
            wait_for_event=wait_for_event,
            send_events=sending(self._send),
            wait_for_signal=wait_for_signal,
            send_signal=sending_signals(self._send_signal),
            wait_for_callback=wait_for_callback,
            invoke_function=invoke_function,
            call_through_server=call_through_server,
            execute=execute,
            suspend=suspend,
            detach=detach,
        )
        super().__init__(env, settings, flows, f"{config.api_url}{how}")
        self._config = config
        self._calls = Calls(config)
        self._verifier = RequestVerifier(config, env.clock.now)
        self._output_url = self._calls.output_url if server_output_url else None

    # -- clients of the server ---------------------------------------------------------------

    def make_client(self) -> ServerClient:
        """Return a client for one event loop."""
        return ServerClient(self._calls, self.env.ids)

    def make_forwarder(
        self, client: ServerClient, loop: asyncio.AbstractEventLoop
    ) -> StreamForwarder:
        """Return what makes streams on a loop that the server passes on."""
        return StreamForwarder(
            client.tee,
            loop,
            most=_MOST_POSTED,
            watched=self.subscribers.tell,
            is_followed=self.results.is_followed,
        )

    async def _send(self, events: Sequence[object], seed: str) -> list[str]:
        client = self.client_on(asyncio.get_running_loop())
        return await client.send(events, seed)

    async def _send_signal(self, name: str, data: object) -> str | None:
        return await self.client_on(asyncio.get_running_loop()).signal(name, data)

    # -- calls of the server -----------------------------------------------------------------

    def is_reentry(self, request: Request) -> bool:
        """Tell whether a request has the form of one from the server."""
        return is_reentry(request)

    def key_of(self, request: Request) -> str | None:
        """Return the key that has signed a request; see ``RemoteHost``."""
        return self._verifier.key_of(request)

    def reject_caller(self) -> Response:
        """Return the answer to somebody who is not the server."""
        return self._verifier.refusal()

    def sign(self, response: Response, key: str) -> Response:
        """Return an answer to the server with a signature, if it needs one."""
        return self._verifier.signed(response, key)

    async def load(
        self, client: ServerClient, options: ResolvedOptions, request: Request
    ) -> RemoteExecution | Response:
        """Return the execution that the server asks for, or the answer where there is none."""
        any_path = bool(self._config.serve_path)
        return await load_execution(
            client, self.env, options, request, self.results, any_path=any_path
        )

    # -- clients -----------------------------------------------------------------------------

    def refuse(self, request: Request) -> Response | None:
        """Return the answer to a client's request that the server cannot keep; else None."""
        return refused(request, self._config)

    def begin(
        self,
        client: ServerClient,
        loop: asyncio.AbstractEventLoop,
        options: ResolvedOptions,
        request: Request,
        route: str | None,
    ) -> RemoteExecution:
        """Return the execution of a new run for a client."""
        run = new_run(self.env, options, request, route)
        # One name for all paths of a route: the server lists every path as a function otherwise.
        is_template = route is not None and "{" in route
        named = options.name or options.function_id
        fn = named or (run.function_id if is_template else "")
        event = dump_request(request, self._config, run, fn)
        reporter = Reporter(
            client,
            loop,
            self.env.clock,
            run.id,
            function_of(event),
            json.dumps(event, ensure_ascii=False),
            run.retries,
            partial(self.end_stream, loop=loop),
        )
        return InngestExecution(
            self.env,
            options,
            run,
            with_origin(request, self._config.serve_origin),
            reporter=reporter,
            results=self.results,
            output_url=self._output_url,
        )

    async def ask(
        self, client: ServerClient, run_id: str, token: str, seconds: float
    ) -> Ended | Response | None:
        """Ask the server how a run has ended; see ``AskServer``."""
        return await ask_for_output(client, run_id, token, seconds)

    def unanswered(self, ex: RemoteExecution) -> Response:
        """Return the answer where an execution was cut short before it had one."""
        assert isinstance(ex, InngestExecution)
        if ex.reporter is None:
            return internal_error(RuntimeError("the execution ended without an answer"))
        if ex.fault is None and ex.reporter.token:
            return handoff_response(ex.options, ex.request.method, ex.run.id, ex.reporter.token)
        return problem(500, "internal-error", detail=f"run {ex.run.id} ended without an answer")

    def refuse_wait(self, wanted: WaitRequest) -> Response | None:
        """Return the answer to who waits for what cannot be a run; else None."""
        return refused_at_the_wait_url(wanted)
