"""Tell by the exit code whether Flower answers on this host, for probes; asks with its login."""

from __future__ import annotations

import base64
import os
import sys
import urllib.error
import urllib.request

_TIMEOUT_S = 8


def main(url: str = "http://127.0.0.1:5555/healthcheck") -> int:
    """Return 0 if Flower answers."""
    login = os.environ.get("FLOWER_BASIC_AUTH", "").partition(",")[0]
    request = urllib.request.Request(url)  # noqa: S310 - our own, on loopback
    request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return 0 if answer.status == 200 else 1
    except (OSError, urllib.error.URLError):
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
