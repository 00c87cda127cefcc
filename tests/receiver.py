"""A receiver of notifications: that of ops/docs/guide/notify.md, with misbehaviour on top."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECRET = "nobody could ever guess this one"  # noqa: S105 - the tests' own
DOCUMENT = Path(__file__).parents[1] / "ops" / "docs" / "guide" / "notify.md"


def documented() -> str:
    """Return the source of the receiver that the document shows."""
    (source,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    return source


@dataclass
class Received:
    """What came, in order; ``answer`` says of each with which status, or answers itself."""

    url: str
    answer: Callable[[BaseHTTPRequestHandler], int | None]
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, count: int) -> None:
        """Wait until so many have come."""
        with self.came:
            assert self.came.wait_for(lambda: len(self.requests) >= count, 60)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.requests]


@contextmanager
def receiving(answer: Callable[[Any], int | None] = lambda _: 204) -> Iterator[Received]:
    """Serve on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with received.came:
                received.requests.append((headers, body))
                received.came.notify_all()
            status = received.answer(self)
            if status is not None:
                self.send_response(status)
                self.end_headers()

        do_GET = do_POST  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    received = Received(f"http://127.0.0.1:{server.server_port}/hook?token=hush", answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
