"""A bare Celery worker whose only task does nothing, with the settings of ours.

    python -m ops.bench.bareworker

It imports nothing of ``workers``, whose guard of the inbox and signals it does without. That its
settings are theirs is tested. ``BENCH_TIMES`` is as for :mod:`ops.bench.nullworker`.
"""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from ops.bench.times import Times
from schema.settings import Settings, load_settings
from schema.wire import BACKSTOP_S, broker_settings

NAME = "bare0"
NOOP = "noop"
QUEUE = "bare"


def create_app(settings: Settings) -> Celery:
    """Create the app of the worker, and of whoever sends it tasks."""
    app = Celery("bare")
    app.conf.update(
        broker_settings(settings),
        task_queues={QUEUE: {}},
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_pool="prefork",
        worker_concurrency=1,
        task_time_limit=BACKSTOP_S,
        worker_proc_alive_timeout=120,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=settings.shutdown_s,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
    )
    return app


def main() -> None:
    """Run the worker until it is told to stop."""
    app = create_app(load_settings())
    times = Times(os.environ["BENCH_TIMES"])

    @app.task(name=NOOP)
    def _noop(**_: Any) -> None:
        now_s = time.monotonic()
        times.add(now_s, now_s)

    app.worker_main(
        [
            "worker",
            f"--queues={QUEUE}",
            f"--hostname={NAME}@%h",
            "--concurrency=1",
            "--pool=prefork",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=INFO",
        ]
    )


if __name__ == "__main__":
    main()
