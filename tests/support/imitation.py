"""A validator's HTTP answers as docs/api.md has them, made up by a test.

For what the real services cannot be made to say in time.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, Any]
Route = Callable[["Asked"], Answer]


class Asked:
    """One request."""

    def __init__(self, method: str, target: str, body: bytes) -> None:
        parts = urlsplit(target)
        self.method, self.path, self.body = method, parts.path, body
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}


class Imitation:
    """Answers by method and the beginning of the path. Keeps what it was asked."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], Route] = {}
        self.asked: list[Asked] = []
        self.url = ""

    def on(self, method: str, path: str, answer: Route | Answer) -> None:
        """From now on. The longest path that fits wins."""
        self.routes[method, path] = answer if callable(answer) else lambda _: answer

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        for (method, path), route in sorted(self.routes.items(), key=lambda item: -len(item[0][1])):
            if method == asked.method and asked.path.startswith(path):
                return route(asked)
        return 404, {"detail": "no such route", "code": "not_found"}

    def posts(self) -> int:
        return sum(asked.method == "POST" for asked in self.asked)


@contextlib.contextmanager
def imitation() -> Iterator[Imitation]:
    """A server on a free port."""
    made = Imitation()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status, answer = made.answer(Asked(self.command, self.path, body))
            encoded = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_POST = _any  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
