"""A chat that streams its answer word by word, fails half-way, and then answers completely.

``python3 examples/streaming_chat.py serve`` starts the server. ``python3
examples/streaming_chat.py ask "How do I make tea?"`` sends a question from another terminal. The
words of the failed attempt disappear, and the answer starts again. If you kill the server and
start it again, the answer continues.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from durable_client import Collector, fetch_with_stream
from durable_core import Durable, Request, Response, RetryPolicy
from durable_core.sync import step, stream
from durable_wsgi import create_endpoint_server, endpoint_adapter

WORDS_A_SECOND = 12
ANSWER = (
    "Boil fresh water. Warm the pot. Put in a spoon of leaves for each cup, and one for the pot. "
    "Pour on the water as it boils. Wait four minutes. Pour, and enjoy."
)

durable = Durable(
    id="chat",
    endpoint_adapter=endpoint_adapter,
    store=Path(".durable/chat.db"),
    retry=RetryPolicy(base="500ms"),
)
attempts: dict[str, int] = {}


@durable.endpoint
def chat(request: Request) -> Response:
    """Think, and write the answer. Both are steps; the client shows their chunks at once."""
    question = request.query["q"]
    topic = step.run("think", think, question)
    text = step.run("write", write, topic)
    return Response.json({"question": question, "answer": text})


def think(question: str) -> str:
    """Find out what the question is about."""
    return question.rstrip("?").split()[-1].lower()


def write(topic: str) -> str:
    """Stream the answer. The first attempt for each topic fails half-way."""
    attempts[topic] = attempts.get(topic, 0) + 1
    return stream.pipe(generate(breaks_off=attempts[topic] == 1))


def generate(*, breaks_off: bool) -> Iterator[str]:
    """Stand in for a language model: yield the words of the answer, one by one."""
    words = ANSWER.split(" ")
    for number, word in enumerate(words):
        if breaks_off and number == len(words) // 2:
            raise ConnectionError("the model closed the connection")
        time.sleep(1 / WORDS_A_SECOND)
        yield word if number == 0 else f" {word}"


def ask(url: str, question: str, out: TextIO) -> str:
    """Show the answer on a terminal while it is streamed, without rolled-back words."""
    answer = Collector()

    def redraw(event: object) -> None:
        out.write(f"\r\x1b[J{answer.text}{answer.pending_text}")
        out.flush()

    response = fetch_with_stream(
        f"{url}/?q={quote(question)}", collect=answer, on_data=redraw, on_rollback=redraw
    )
    out.write("\n")
    if response.status != 200:
        raise SystemExit(f"the run failed: {response.text()}")
    return answer.text


def main() -> None:
    """Start the server, or send a question to it."""
    parser = argparse.ArgumentParser(description="A chat that streams.")
    parser.add_argument("what", choices=["serve", "ask"])
    parser.add_argument("question", nargs="?", default="How do I make tea?")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    if options.what == "ask":
        ask(f"http://127.0.0.1:{options.port}", options.question, sys.stdout)
        return
    with create_endpoint_server(chat).listen(options.port) as server:
        print(f"serving {server.url}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
