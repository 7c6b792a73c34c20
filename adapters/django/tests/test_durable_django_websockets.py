"""Websockets beside durable views, in the application that an ASGI server is given."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
import uvicorn
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request, TextMessage

from durable_core import Durable, Event, step
from durable_core.sync import step as sync_step
from durable_django import DjangoApp, endpoint_adapter, install
from support.harness import until


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[Durable[DjangoApp]]:
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    install(durable)
    yield durable
    durable.stop()


@contextmanager
def served(application: Any) -> Iterator[int]:
    """Serve an application by uvicorn; yield the port."""
    config = uvicorn.Config(application, ws="wsproto", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sockets = {"sockets": [listener]}
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(**sockets)))
        thread.start()
        try:
            until(lambda: server.started)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


class WebSocket:
    """A client of a websocket."""

    def __init__(self, connection: socket.socket, target: str) -> None:
        self._connection = connection
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: list[object] = []
        connection.sendall(self._protocol.send(Request(host="localhost", target=target)))
        assert isinstance(self._next(), AcceptConnection)

    def ask(self, text: str) -> str:
        """Send a message; return the next one that comes."""
        self._connection.sendall(self._protocol.send(TextMessage(text)))
        answer = self._next()
        assert isinstance(answer, TextMessage)
        return answer.data

    def _next(self) -> object:
        while not self._events:
            self._protocol.receive_data(self._connection.recv(65536))
            self._events.extend(self._protocol.events())
        return self._events.pop(0)


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_a_websocket_goes_on_with_a_run(
    durable: Durable[DjangoApp], urls: ModuleType, kind: str
) -> None:
    """It sends the event that a view of the same application waits for, and sees the run end.

    One connection is open before the request, and after its client has been redirected.
    """

    @durable.endpoint
    async def in_task(request: HttpRequest) -> HttpResponse:
        await step.wait_for_event("go", event="go", timeout="1h")
        return HttpResponse("gone on")

    @durable.endpoint
    def in_thread(request: HttpRequest) -> HttpResponse:
        sync_step.wait_for_event("go", event="go", timeout="1h")
        return HttpResponse("gone on")

    view = in_task if kind == "async def" else in_thread
    urls.urlpatterns.append(path("orders", view))
    site: Any = get_asgi_application()

    async def talk(receive: Any, send: Any) -> None:
        assert "websocket.connect" == (await receive())["type"]
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            text = message["text"]
            if text == "go":
                await durable.send_async(Event("go"))
                (run,) = await durable.runs.list_async()
                text = (await durable.runs.wait_async(run.id, timeout=20)).status
            await send({"type": "websocket.send", "text": text})

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await talk(receive, send)
        else:
            await site(scope, receive, send)

    with (
        served(application) as port,
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        url = f"http://127.0.0.1:{port}/orders"
        web_socket = WebSocket(connection, "/live")
        assert "hello" == web_socket.ask("hello")
        handed_off = httpx2.get(url)
        assert handed_off.is_redirect
        assert "still there" == web_socket.ask("still there")
        assert "completed" == web_socket.ask("go")
        assert "gone on" == httpx2.get(url + handed_off.headers["location"]).text
