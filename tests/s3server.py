"""An S3-compatible server for tests, which keeps what it was asked for and what it sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import boto3
import requests
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

KEY, SECRET = "the-key", "never-to-be-said"


@dataclass
class Asked:
    """One request, and how many bytes went back."""

    method: str
    path: str
    range: str | None
    sent_bytes: int = 0


class S3Server:
    """Moto's server in a thread, on a free port of the loopback, or of every address."""

    def __init__(self, *, everywhere: bool = False) -> None:
        self.asked: list[Asked] = []
        #: The status of every answer, in place of what was asked for.
        self.trouble: str | None = None
        app = DomainDispatcherApplication(create_backend_app)
        address = "0.0.0.0" if everywhere else "127.0.0.1"  # noqa: S104
        self._server = make_server(address, 0, self._recorded(app), threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        return self.url_at("127.0.0.1")

    def url_at(self, address: str) -> str:
        return f"http://{address}:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this server has in its environment."""
        return self.environment_at("127.0.0.1")

    def environment_at(self, address: str) -> dict[str, str]:
        """What a client has in its environment that finds the server at an address."""
        return {
            "AWS_ENDPOINT_URL": self.url_at(address),
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self, service: str = "s3", **options: Any) -> Any:
        """Return a client of boto3, to arrange things with."""
        given = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, **options}
        return boto3.client(service, endpoint_url=self.url, region_name="us-east-1", **given)

    def ask_for_keys(self, after: float) -> None:
        """Check every request's key, once ``after`` more requests were let in without."""
        requests.post(f"{self.url}/moto-api/reset-auth", data=str(after), timeout=10)

    def reset(self) -> None:
        """Forget every bucket, key, request and trouble."""
        self.trouble = None
        self.ask_for_keys(float("inf"))
        requests.post(f"{self.url}/moto-api/reset", timeout=10)
        self.asked.clear()

    def stop(self) -> None:
        """Stop listening; from then on connections are refused."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop()

    def _recorded(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterator[bytes]]:
        def recorded(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            asked = Asked(
                environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE")
            )
            self.asked.append(asked)
            if self.trouble:
                start_response(self.trouble, [("Content-Length", "0")])
                return
            for piece in app(environ, start_response):
                asked.sent_bytes += len(piece)
                yield piece

        return recorded
