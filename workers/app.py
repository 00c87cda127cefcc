"""The Celery app of every worker, and what happens around the life of its processes.

    parent   one per GPU or core; takes messages from Redis; never loads a model or touches a GPU
      child  one per parent (concurrency 1); decodes; is replaced when it dies

The parent's boot id names the owner of every lease its children take, so that a new child can
return at once what its predecessor died on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery, signals

from schema.errors import Misconfigured
from schema.metrics import MetricsRole
from schema.namespace import Namespace
from schema.settings import BrokerSettings, load_broker_settings
from schema.store.ledger import Ledger
from schema.store.work.reduces import return_reduces
from schema.store.work.segments import return_leases
from schema.wire import BACKSTOP_S, REDUCE_QUEUE, SEGMENTS_QUEUE, Message, broker_settings
from workers.background.sweeper import Sweeper
from workers.background.webhooks import Notifier
from workers.context import Worker
from workers.process import metrics
from workers.process.celery_steps import BatchedEvents, BrokerInfo, Heartbeat
from workers.process.logs import configure_logging
from workers.process.memory import freeze_gc
from workers.process.redis_transport import install_transport
from workers.process.remote_control import mark_requests_done

if TYPE_CHECKING:
    from workers.segment.read_ahead import ReceivedMessages

log = structlog.get_logger(__name__)

_PARENT = os.getpid()
#: How long the ledger has to answer before a worker starts without having asked it.
_LEDGER_ANSWER_S = 10
#: Whether any process of this worker saw its own ledger's key in Redis; shared with its children.
owns_namespace = get_context("fork").Value("b", False)


def create_app(settings: BrokerSettings) -> Celery:
    """Create the Celery app, with the settings that were found to lose and repeat the least."""
    app = Celery("callscribe", include=["workers.tasks"])
    app.steps["consumer"].update((BrokerInfo, BatchedEvents, Heartbeat))
    app.conf.update(
        broker_settings(settings),
        # A message is taken off Redis only when its task has ended; what a dead child held comes
        # back at once. How often is the ledger's business, not Celery's.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # A message is fetched when the child is free, so that none waits behind another's segment
        # while elsewhere a GPU has nothing to do; or as many as are decoded together, and, to be
        # read ahead, those of the next time.
        worker_prefetch_multiplier=_prefetch_count(settings),
        worker_disable_prefetch=_prefetch_count(settings) == 1,
        worker_pool="prefork",
        worker_concurrency=1,
        # Beyond all that a child keeps itself (workers.process.time_limit): one that is frozen
        # keeps none.
        task_time_limit=BACKSTOP_S,
        # The first task loads the models, in the child; that is not a start that hangs.
        worker_proc_alive_timeout=120,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # On SIGTERM (see workers.__main__) a task gets this long to end before it is requeued; the
        # wait is as long even if it ends at once.
        worker_soft_shutdown_timeout=settings.shutdown_s,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
    )
    return app


def _prefetch_count(settings: BrokerSettings) -> int:
    """Return how many messages a worker holds at a time, the one that is worked on included."""
    return settings.segments_together * (2 if settings.reads_ahead else 1)


app = create_app(load_broker_settings())
worker = Worker(app)
_queues: set[str] = set()
_received_messages: ReceivedMessages | None = None


@signals.setup_logging.connect
def _on_setup_logging(**_: Any) -> None:
    configure_logging()


@signals.celeryd_init.connect
def _on_init(**_: Any) -> None:
    install_transport()
    try:
        worker.settings  # noqa: B018 - Flower reads none; a worker without a ledger must not start
    except Misconfigured as error:
        sys.exit(str(error))


@signals.celeryd_after_setup.connect
def _on_setup(instance: Any, **_: Any) -> None:
    _queues.update(instance.app.amqp.queues.consume_from)
    # Before the first fork: a child counts where its parent reads.
    source = MetricsRole.REDUCE if REDUCE_QUEUE in _queues else MetricsRole.SEGMENTS
    metrics.serve_forked(source, worker.settings.metrics)
    if SEGMENTS_QUEUE in _queues and _prefetch_count(worker.settings) > 1:
        _forward_received()


def _forward_received() -> None:
    """Send each message that is received to the children, by its name."""
    global _received_messages  # noqa: PLW0603 - one a parent, and its children inherit it
    from workers.segment.read_ahead import ReceivedMessages

    messages = _received_messages = ReceivedMessages()

    @signals.task_received.connect(weak=False)
    def _on_received(request: Any, **_: Any) -> None:
        messages.send(Message.from_kwargs(request.kwargs))


@signals.worker_process_init.connect
def _on_child_start(**_: Any) -> None:
    freeze_gc()
    mark_requests_done()
    metrics.start_child()
    structlog.contextvars.bind_contextvars(owner=worker.owner, pid=os.getpid())
    _watch_namespace(keeps=REDUCE_QUEUE in _queues)
    if REDUCE_QUEUE in _queues:
        _start_sweep()
    release_leases(child_died=True)
    if _received_messages is not None:
        _received_messages.follow(worker.note_waiting_message)


def release_leases(*, child_died: bool) -> None:
    """Return this worker's leases and dispatch their work again.

    Where that fails, as without a ledger, they expire and the sweep finds them.
    """
    try:
        owner = worker.owner
        dispatches = worker.ledger.transact(
            partial(return_leases, owner=owner, child_died=child_died)
        )
        dispatches += worker.ledger.transact(
            partial(return_reduces, owner=owner, child_died=child_died)
        )
        worker.publisher.publish(dispatches)
        worker.requeues_first_message = child_died and bool(dispatches)
    except Exception:
        log.exception("leases_not_returned")
    else:
        if dispatches:
            log.warning("leases_returned", died=child_died, count=len(dispatches))


def is_namespace_taken() -> bool:
    """Tell whether another ledger's fleet is in this one's namespace in Redis, and say so.

    Connections that this takes are closed again: a worker is about to fork.
    """
    ledger = Ledger.open(worker.settings, answer_s=_LEDGER_ANSWER_S)
    try:
        Namespace(app, ledger, worker.settings, owned_flag=owns_namespace).check()
    except Misconfigured as error:
        print(error, file=sys.stderr)
        return True
    finally:
        ledger.close()
    return False


def _watch_namespace(*, keeps: bool) -> None:
    """Check now and then that no other fleet has the namespace; end the parent if one has.

    ``keeps``: also renew its key, as a sweep does. The supervisor starts the parent again, and the
    parent then says why it does not start.
    """
    namespace = Namespace(app, worker.ledger, worker.settings, owned_flag=owns_namespace)
    check = namespace.keep if keeps else namespace.check

    def run() -> None:
        # A child that lost its parent is about to end itself.
        if namespace.watch(threading.Event(), check) and os.getppid() == _PARENT:
            os.kill(_PARENT, signal.SIGTERM)

    threading.Thread(target=run, name="namespace", daemon=True).start()


def _start_sweep() -> None:
    """Sweep, and notify, in threads that end with this process."""
    sweeper = Sweeper(Ledger.open(worker.settings), worker.publisher, worker.settings)
    notifier = Notifier(Ledger.open(worker.settings), worker.settings)
    for name, run in (("sweep", sweeper.run), ("notifier", notifier.run)):
        threading.Thread(target=run, args=(threading.Event(),), name=name, daemon=True).start()
