"""Start a worker (segments, reduce, sweep or metrics), rotate keys, or ask who is alive.

Celery's own command line would do, with the right options; here they cannot be wrong.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workers.process.memory import keep_heap, limit_caches

if TYPE_CHECKING:
    from workers.context import Worker

_EPILOG = """examples:
  python -m workers segments --name gpu0     one per GPU (CUDA_VISIBLE_DEVICES) or CPU core
  python -m workers reduce                   stitches; the sweep and notifications run inside it
  python -m workers sweep                    sweep and notifications alone, where Redis is in doubt
  python -m workers metrics                  serves the ledger's figures at CALLSCRIBE_METRICS
  python -m workers keys                     makes the day's keys for protected calls, destroys old
  python -m workers alive --name gpu0        asks whether this host's worker takes work: for probes
"""

#: As ``producer`` ends where its host lacks something.
MISCONFIGURED = 6


def main(argv: list[str] | None = None, prepare: Callable[[Worker], None] = lambda _: None) -> int:
    """Run one worker until it is told to stop.

    ``prepare`` is called with the worker before it starts: a benchmark or a fault drill replaces
    its route.
    """
    parser = argparse.ArgumentParser(
        prog="python -m workers",
        description=__doc__.splitlines()[0],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("role", choices=("segments", "reduce", "sweep", "metrics", "keys", "alive"))
    parser.add_argument("--name", help="the worker's name on this host (default: its role)")
    arguments = parser.parse_args(argv)
    if arguments.role == "sweep":
        return _sweep()
    if arguments.role == "metrics":
        return _metrics()
    if arguments.role == "keys":
        return _rotate_keys()
    if arguments.role == "alive":
        return _alive(arguments.name or "segments")
    return _celery(arguments.role, arguments.name or arguments.role, prepare)


def _celery(queue: str, name: str, prepare: Callable[[Worker], None]) -> int:
    # Celery reads this at import: on SIGTERM finish or requeue the task, then stop.
    os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")
    # One decode thread per worker: two such workers beat one with two threads (ops/bench).
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    limit_caches()

    from celery.signals import celeryd_after_setup, worker_shutting_down

    # After the environment is set.
    from workers.app import app, is_namespace_taken, release_leases, worker
    from workers.process import metrics
    from workers.process.liveness import HeartbeatFile
    from workers.process.redis_transport import install_transport

    # Before anything connects: kombu keeps the first transport that it finds.
    install_transport()
    if is_namespace_taken():
        return MISCONFIGURED
    if worker.settings.device == "cpu":
        keep_heap()
    prepare(worker)
    workers: list[Any] = []
    signals: list[str] = []
    celeryd_after_setup.connect(lambda instance, **_: workers.append(instance), weak=False)
    worker_shutting_down.connect(lambda sig, **_: signals.append(str(sig)), weak=False)
    try:
        # A worker does not gossip: nothing here needs peers, and hundreds would talk a lot.
        app.worker_main(
            [
                "worker",
                f"--queues={queue}",
                f"--hostname={name}@%h",
                "--concurrency=1",
                "--pool=prefork",
                "--without-gossip",
                "--without-mingle",
                "--loglevel=INFO",
            ]
        )
    finally:
        # Its child is gone. Celery's own signal for this moment is not sent on a cold shutdown.
        release_leases(child_died=False)
        metrics.close()
        HeartbeatFile(worker.settings, name).remove()
    # Celery exits with 0 after an error that it cannot go on from; the supervisor must know.
    return 1 if not signals and any(instance.exitcode for instance in workers) else 0


def _sweep() -> int:
    from schema.metrics import MetricsRole
    from schema.namespace import Namespace
    from schema.store.ledger import Ledger
    from workers.app import is_namespace_taken, owns_namespace, worker
    from workers.background.sweeper import Sweeper
    from workers.background.webhooks import Notifier
    from workers.process import metrics
    from workers.process.logs import configure_logging

    configure_logging()
    if is_namespace_taken():
        return MISCONFIGURED
    metrics.serve_alone(MetricsRole.SWEEP, worker.settings.metrics)
    stop = _stop_event()
    notifier = Notifier(Ledger.open(worker.settings), worker.settings)
    ledger = Ledger.open(worker.settings)
    namespace = Namespace(worker.celery, ledger, worker.settings, owned_flag=owns_namespace)
    is_refused = threading.Event()

    def keep() -> None:
        if namespace.watch(stop, namespace.keep):
            is_refused.set()
            stop.set()

    for name, run in (("notifier", lambda: notifier.run(stop)), ("namespace", keep)):
        threading.Thread(target=run, name=name, daemon=True).start()
    Sweeper(Ledger.open(worker.settings), worker.publisher, worker.settings).run(stop)
    return MISCONFIGURED if is_refused.is_set() else 0


def _rotate_keys() -> int:
    from schema.errors import Misconfigured
    from schema.seal import UNSEALS_FOR, KeyDirectory
    from schema.settings import load_settings

    try:
        made_ids, destroyed_ids = KeyDirectory(load_settings().seal_keys).rotate()
    except Misconfigured as error:
        print(error, file=sys.stderr)
        return MISCONFIGURED
    lines = [f"made {id_}: copy {id_}.public.pem to every host that decodes" for id_ in made_ids]
    lines += [f"destroyed {id_}" for id_ in destroyed_ids]
    if not lines:
        lines = [f"nothing to do: today's pair is there, none is {UNSEALS_FOR.days} days old"]
    print("\n".join(lines))
    return 0


def _metrics() -> int:
    from schema.metrics import MetricsRole
    from schema.store.ledger import Ledger
    from workers.app import worker
    from workers.background.fleet_metrics import QUERY_MAX_S, FleetFigures
    from workers.process import metrics
    from workers.process.logs import configure_logging

    configure_logging()
    settings = worker.settings
    if settings.metrics is None:
        sys.exit("CALLSCRIBE_METRICS says where to serve, such as 127.0.0.1:9808")
    ledger = Ledger.open(settings, answer_s=QUERY_MAX_S)
    fleet = FleetFigures(ledger, worker.publisher, settings)
    try:
        metrics.serve_collector(fleet, MetricsRole.LEDGER, settings.metrics)
    except OSError as error:
        sys.exit(f"CALLSCRIBE_METRICS: nothing can be served there: {error.strerror}")
    _stop_event().wait()
    return 0


def _alive(name: str) -> int:
    from schema.settings import load_settings
    from workers.process.liveness import HeartbeatFile

    if problem := HeartbeatFile(load_settings(), name).problem():
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


def _stop_event() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    sys.exit(main())
