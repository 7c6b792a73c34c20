"""What the FastAPI examples share: a page, a button that kills the server, and a supervisor."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

PAGES = Path(__file__).with_name("pages")
CLIENT = Path(__file__).parents[1] / "clients" / "js"


def add_page(app: FastAPI) -> None:
    """Add the pages, and a route that ends the process at once, as when the power fails."""

    @app.post("/kill", status_code=204)
    async def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    app.mount("/pages", StaticFiles(directory=PAGES))
    app.mount("/clients", StaticFiles(directory=CLIENT))


def serve(app: FastAPI, script: str) -> None:
    """Serve an application in a second process, which is started again whenever it is killed."""
    name = Path(script).stem
    parser = argparse.ArgumentParser(description=f"Serve the example {name}.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--once", action="store_true", help="serve here, and do not start again")
    options = parser.parse_args()
    if options.once:
        # No access log: the URL at which a client waits has a token in it.
        uvicorn.run(app, port=options.port, log_level="warning", access_log=False)
        return
    print(f"open http://127.0.0.1:{options.port}/pages/{name}.html (Ctrl-C ends it)", flush=True)
    command = [sys.executable, script, "--once", "--port", str(options.port)]
    try:
        while subprocess.run(command).returncode == -signal.SIGKILL:
            print("the server was killed; it starts again", flush=True)
    except KeyboardInterrupt:
        pass
