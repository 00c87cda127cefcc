"""Flower's configuration for a fleet.

    celery -A workers.app flower --conf=ops/flower/flowerconfig.py

Flower runs this file. What it sets goes before FLOWER_* of the environment, and options on the
command line before both. It asks for a login everywhere, on /metrics and /healthcheck too, which
Flower itself leaves open; without one it does not start. FLOWER_OPEN=yes does without, on loopback
alone.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from flower import urls
from flower.views import BaseHandler, monitor
from flower.views.broker import BrokerView
from tornado.options import options
from tornado.web import HTTPError

from schema.wire import REDUCE_QUEUE, SEGMENTS_QUEUE

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

# What a recording is goes first; see ops/docs/operate/flower.md.
tasks_columns = "name,args,state,worker,runtime,exception,received,started"
natural_time = False

# A night is 100,000 tasks and more; Flower would keep them all, at some 5 KB each, and every page
# of it would be slower. The ledger knows the rest.
max_tasks = 10_000
max_workers = 500
# Each new container is another worker to Flower.
purge_offline_workers = 3_600
# Workers answer from their parents, which do nothing else; over a slow link a second is short.
inspect_timeout = 3_000.0

# What was seen outlives a restart.
persistent = True
db = os.environ.get("FLOWER_DB") or os.path.join(os.environ.get("STATE_DIRECTORY", "."), "flower")
state_save_interval = 300_000

# Nobody stops a worker by a click: "--read_only=false" for who must.
read_only = True
address = "127.0.0.1"
# Who asks is said by the proxy.
xheaders = True


def _require_login() -> None:
    """Leave unless there is a login, or it was done without on purpose and nobody else can ask.

    The command line is parsed before this file: an address said there is known.
    """
    listens_at = options.address or address
    if options.basic_auth or options.auth:
        return
    if os.environ.get("FLOWER_OPEN") == "yes" and listens_at in _LOOPBACK:
        return
    sys.exit(
        "Flower wants a login: set FLOWER_BASIC_AUTH=user:password, or see "
        "ops/docs/operate/flower.md"
    )


class _LoginFirst(BaseHandler):  # type: ignore[misc]
    """A page that is for whoever may see the others."""

    def prepare(self) -> Any:
        """Refuse whoever has not logged in."""
        if not self.current_user:
            raise HTTPError(401)
        return super().prepare()


class _Metrics(_LoginFirst, monitor.Metrics):  # type: ignore[misc]
    """Flower's own metrics."""


class _Healthcheck(_LoginFirst, monitor.Healthcheck):  # type: ignore[misc]
    """Whether Flower answers."""


class _Broker(BrokerView):  # type: ignore[misc]
    """Our queues and their lengths; Flower's own page is empty until it has looked at a worker."""

    def get_active_queue_names(self) -> list[str]:
        """Return the names that the page has a row for."""
        return [REDUCE_QUEUE, SEGMENTS_QUEUE]


def _replace_pages() -> None:
    """Put our handlers in the place of those that ask nobody, or show nothing."""
    ours = {
        monitor.Metrics: _Metrics,
        monitor.Healthcheck: _Healthcheck,
        BrokerView: _Broker,
    }
    for index, handler in enumerate(urls.handlers):
        if isinstance(handler, tuple):
            urls.handlers[index] = (handler[0], ours.get(handler[1], handler[1]), *handler[2:])
        else:
            handler.target = ours.get(handler.target, handler.target)


_require_login()
_replace_pages()
