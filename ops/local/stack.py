"""The whole fleet on one machine: Postgres, Redis, workers, the reducer and Flower.

    with Stack(state, models=models) as stack:
        ...                       # run ``producer`` with stack.environment
        stack.supervise()         # now and then: starts again what died

Every part logs to ``logs/NAME.log`` in the state directory. The sweep runs inside the reducer.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Self

from celery import Celery
from kombu.exceptions import OperationalError

from ops.local.bootstrap import ROOT
from ops.local.bootstrap import environment as base_environment
from ops.local.console import say
from ops.local.pooler import Pooler
from ops.local.process import Child, ProcessError
from ops.local.servers import PostgresServer, RedisServer
from ops.local.sockets import free_port
from ops.local.standby import Standby
from schema.settings import NAMESPACE
from schema.wire import settings_in_namespace

#: Workers import Celery and connect; models are loaded later, by the first task.
_READY_TIMEOUT_S = 90.0
_MIGRATE_TIMEOUT_S = 120.0
_PING_TIMEOUT_S = 0.5

#: A worker that is told to stop waits a minute, for a segment to end, even if it has none. Told
#: again it gives its segment back and stops. The ledger survives either, and a kill.
_POLITE_S = 0.5
_FIRM_S = 3.0

#: What a killed run held is free again this soon, where the next run has new workers at once;
#: the defaults are for fleets, whose hosts may be out of touch for a while.
_QUICK = {"CALLSCRIBE_LEASE_S": "20", "CALLSCRIBE_SWEEP_S": "5"}

#: A part that keeps dying is broken, and the user should see why.
_MAX_DEATHS = 3

#: Where semaphores live, by the C library's choice.
_LOCKS = "/dev/shm"  # noqa: S108

#: What a worker holds with the default models loaded, with room for a segment.
_WORKER_BYTES = 1_600 * 1024**2


def worker_command(name: str, module: str = "workers") -> list[str]:
    """Return the command of a worker that decodes."""
    return [sys.executable, "-m", module, "segments", "--name", name]


def reducer_command(name: str, module: str = "workers") -> list[str]:
    """Return the command of the worker that stitches, and sweeps."""
    return [sys.executable, "-m", module, "reduce", "--name", name]


def flower_command(port: int) -> list[str]:
    """Return the command of Flower, as a fleet has it, but that it forgets what it has seen."""
    options = [f"--port={port}", "--address=127.0.0.1", "--persistent=False"]
    options.append(f"--conf={ROOT / 'ops' / 'flower' / 'flowerconfig.py'}")
    return [sys.executable, "-m", "celery", "-A", "workers.app", "flower", *options]


def metrics_command() -> list[str]:
    """Return the command of the process that serves the ledger's figures."""
    return [sys.executable, "-m", "workers", "metrics"]


def producer_command(*arguments: str) -> list[str]:
    """Return a command line of ``producer``."""
    return [sys.executable, "-m", "producer.cli", *arguments]


@dataclass(frozen=True, slots=True)
class Part:
    """How a single part of a stack differs from the rest.

    ``environment`` is laid over everybody's. ``prefix`` is a command that runs the part's program,
    say in another network namespace.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()


class Stack:
    """Everything that ``producer`` needs, started together and stopped together.

    ``roots`` are the directories that workers may read, by name. ``gpus`` is how many GPUs to
    decode on, a worker each; with none, a worker per usable core decodes. ``worker_module`` is run
    in place of ``workers``: the same command line around another route than the models'. With
    ``metrics`` every worker and the reducer serve figures on loopback, and "metrics" the ledger's.
    ``parts`` are those that differ, by name: "asr0", "asr1", ..., "reducer", "flower", "metrics".
    ``listen`` says at which addresses other hosts find "postgres" and "redis"; without, each is
    behind a socket. ``pooled`` has pgbouncer between the fleet and Postgres.
    """

    def __init__(
        self,
        state: Path,
        *,
        models: Path,
        roots: Mapping[str, Path] | None = None,
        workers: int | None = None,
        gpus: int = 0,
        durable: bool = True,
        worker_module: str = "workers",
        flower: bool = True,
        metrics: bool = False,
        parts: Mapping[str, Part] | None = None,
        listen: Mapping[str, Sequence[str]] | None = None,
        pooled: bool = False,
        tell: Callable[[str], None] = say,
    ) -> None:
        self.state = state
        self.logs = state / "logs"
        listen = listen or {}
        self.postgres: PostgresServer = PostgresServer(
            state / "postgres",
            durable=durable,
            addresses=listen.get("postgres", ()),
            log=self.logs / "postgres.log",
        )
        self._first = self.postgres
        self._standby: Standby | None = None
        self.redis = RedisServer(
            state / "redis",
            tcp="redis" in listen,
            addresses=listen.get("redis", ()),
            log=self.logs / "redis.log",
        )
        #: What lies before Postgres, where the fleet is ``pooled``.
        self.pooler = Pooler(state / "pooler", self.postgres) if pooled else None
        self._gpus = gpus
        self._workers = gpus or workers or usable_workers()
        self._worker_module = worker_module
        self._flower = flower
        self.parts = dict(parts or {})
        self._flower_port = free_port()
        served = [*map(_worker_name, range(self._workers)), "reducer", "metrics"]
        #: Where each part serves figures on loopback, by its name; empty where none does.
        self.metrics_ports = {name: free_port() for name in served} if metrics else {}
        self._fleet: list[Child] = []
        self._deaths: Counter[str] = Counter()
        self._tell = tell
        self.environment = self._environment(models, roots or {})

    def _environment(self, models: Path, roots: Mapping[str, Path]) -> dict[str, str]:
        """Return the environment of every child; libpq's own variables would mislead them."""
        ours = {
            "CALLSCRIBE_DATABASE_URL": (self.pooler or self.postgres).url,
            "CALLSCRIBE_REDIS_URL": self.redis.url,
            # Its Redis is its own, whatever the fleet of this host is told.
            "CALLSCRIBE_NAMESPACE": NAMESPACE,
            "CALLSCRIBE_ROOTS": os.pathsep.join(f"{name}={path}" for name, path in roots.items()),
            "CALLSCRIBE_SPOOL": str(self.state / "spool"),
            "CALLSCRIBE_MODELS": str(models),
            "CALLSCRIBE_DEVICE": "cuda" if self._gpus else "cpu",
        }
        kept = {k: v for k, v in base_environment().items() if not k.startswith("PG")}
        return _QUICK | kept | ours

    @property
    def flower_url(self) -> str:
        """Where Flower shows the fleet, on this machine only."""
        return f"http://127.0.0.1:{self._flower_port}"

    @property
    def fleet(self) -> Sequence[Child]:
        """The workers, the reducer, and perhaps Flower and "metrics", in this order."""
        return tuple(self._fleet)

    def start(self) -> None:
        """Start everything and wait until each worker answers.

        Raises:
            Busy: another process runs this state directory.
            ProcessError: a part did not start; the message quotes its log.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        if not os.access(_LOCKS, os.W_OK):
            raise ProcessError(f"{_LOCKS} cannot be written to, and Celery keeps its locks there")
        self.logs.mkdir(parents=True, exist_ok=True)
        (self.state / "spool").mkdir(exist_ok=True)
        self._tell("Starting Postgres and Redis")
        self.postgres.start()
        self.redis.start()
        self._migrate()
        if self.pooler is not None:
            self.pooler.start()
        others = "a reducer and Flower" if self._flower else "a reducer"
        self._tell(f"Starting {self._workers} workers, {others}")
        self._fleet = [self._worker(index) for index in range(self._workers)]
        self._fleet.append(self._child("reducer", reducer_command("reducer", self._worker_module)))
        if self._flower:
            # On loopback, for whoever is on this machine, without a login.
            command = flower_command(self._flower_port)
            self._fleet.append(self._child("flower", command, {"FLOWER_OPEN": "yes"}))
        if self.metrics_ports:
            self._fleet.append(self._child("metrics", metrics_command()))
        for child in self._fleet:
            child.start()
        self._wait_until_ready()

    def _migrate(self) -> None:
        direct = {"CALLSCRIBE_DATABASE_URL": self.postgres.url}
        with self._child("migrate", producer_command("migrate"), direct) as child:
            finished = child.wait(_MIGRATE_TIMEOUT_S)
        if not finished or child.exit_code != 0:
            raise ProcessError(child.describe_end())

    def _worker(self, index: int) -> Child:
        name = _worker_name(index)
        own = {"CUDA_VISIBLE_DEVICES": str(index)} if self._gpus else {"OMP_NUM_THREADS": "1"}
        return self._child(name, worker_command(name, self._worker_module), own)

    def _child(
        self, name: str, command: Sequence[str], own: Mapping[str, str] | None = None
    ) -> Child:
        log = self.logs / f"{name}.log"
        log.unlink(missing_ok=True)
        part = self.parts.get(name, Part())
        served = {}
        if port := self.metrics_ports.get(name):
            served["CALLSCRIBE_METRICS"] = f"127.0.0.1:{port}"
        environment = {**self.environment, **served, **(own or {}), **part.environment}
        # Killed, not asked: if we are gone, nobody is left to wait for a segment to end.
        return Child(
            name,
            command,
            log,
            environment=environment,
            directory=ROOT,
            prefix=part.prefix,
            on_our_death=SIGKILL,
        )

    def _wait_until_ready(self) -> None:
        """Ping until every worker answers; who only shows them may come later."""
        expected = {child.name for child in self._fleet} - {"flower", "metrics"}
        deadline = time.monotonic() + _READY_TIMEOUT_S
        with Celery(broker=self.redis.url, set_as_current=False) as app:
            app.conf.update(settings_in_namespace(self.environment["CALLSCRIBE_NAMESPACE"]))
            while missing := expected - _answering(app):
                for child in self._fleet:
                    if not child.running and child.name in missing:
                        raise ProcessError(child.describe_end())
                if time.monotonic() > deadline:
                    late = next(child for child in self._fleet if child.name in missing)
                    raise ProcessError(f"{late.name} does not answer; see {late.log}")

    def supervise(self) -> None:
        """Start again whatever has died, and say so.

        Raises:
            ProcessError: a part dies again and again; the message quotes its log.
        """
        for server in (self.postgres, self.redis):
            if not server.running:
                self._revive(server.child, server.start)
        for child in self._fleet:
            if not child.running:
                self._revive(child, child.start)

    def _revive(self, dead: Child, start: Callable[[], None]) -> None:
        self._deaths[dead.name] += 1
        if self._deaths[dead.name] > _MAX_DEATHS:
            raise ProcessError(dead.describe_end())
        self._tell(f"{dead.how_it_ended()}; starting it again")
        start()

    def stop(self) -> None:
        """Stop everything, the fleet before the servers that it needs; takes seconds."""
        for patience_s in (_POLITE_S, _FIRM_S):
            for child in self._fleet:
                child.kill(SIGTERM)
            deadline = time.monotonic() + patience_s
            for child in self._fleet:
                child.wait(max(0.0, deadline - time.monotonic()))
        for child in self._fleet:
            child.stop(SIGKILL)
        self.redis.stop()
        if self.pooler is not None:
            self.pooler.stop()
        if self._standby is not None:
            self._standby.stop()
        self._first.stop()

    def add_standby(self, *, synchronous: bool) -> None:
        """Start a standby of Postgres, to be promoted by :meth:`fail_over`."""
        self._standby = Standby(self.state / "standby", self._first)
        self._standby.start()
        if synchronous:
            self._standby.synchronise()

    def fail_over(self) -> None:
        """Kill Postgres and let the standby take over, behind the same pooler.

        Raises:
            ProcessError: there is no standby, or no pooler that can lead to it.
        """
        if self._standby is None or self.pooler is None:
            raise ProcessError("a failover wants a standby, and a pooler that leads to it")
        self.postgres.kill()
        self._standby.promote()
        self.postgres = self._standby
        self.pooler.point_to(self._standby)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _worker_name(index: int) -> str:
    return f"asr{index}"


def _answering(app: Celery) -> set[str]:
    """Return the names of the workers that answer a ping at this moment."""
    with suppress(OperationalError, OSError):
        replies = app.control.ping(timeout=_PING_TIMEOUT_S)
        return {node.partition("@")[0] for reply in replies for node in reply}
    return set()


class Roots:
    """The directories that were ever submitted here, by name, kept in a file.

    The ledger names a recording by its root and the path below it, so that a name must mean the
    same directory for ever, and an older submission's directory must stay readable for as long
    as its work may go on.
    """

    def __init__(self, state: Path) -> None:
        self._file = state / "roots.json"
        self._links = state / "roots"

    def add(self, directory: Path) -> None:
        """Let workers read a directory."""
        real = directory.resolve()
        name = f"calls-{hashlib.sha256(os.fsencode(real)).hexdigest()[:8]}"
        if os.pathsep in str(real):  # which separates roots in the environment
            self._links.mkdir(parents=True, exist_ok=True)
            link = self._links / name
            link.unlink(missing_ok=True)
            link.symlink_to(real)
            real = link
        known = {**self._read(), name: str(real)}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(known, indent=1))
        unfinished.rename(self._file)

    def all(self) -> dict[str, Path]:
        """Return every root whose directory still exists."""
        return {name: Path(path) for name, path in self._read().items() if os.path.isdir(path)}

    def _read(self) -> dict[str, str]:
        try:
            known: dict[str, str] = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        return known


def usable_workers() -> int:
    """Return how many workers this machine has cores and memory for, at least one."""
    return max(1, min(_usable_cores(), _available_bytes() // _WORKER_BYTES))


def _usable_cores() -> int:
    """Return the cores that we may use: a container's share, if it has one."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # "max 100000", or "150000 100000" for one and a half
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _available_bytes() -> int:
    """Return the memory that could be used without swapping, or more where nobody tells."""
    available = 1 << 50
    with suppress(OSError, ValueError, IndexError):
        meminfo = Path("/proc/meminfo").read_text()
        available = int(meminfo.partition("MemAvailable:")[2].split()[0]) * 1024
    with suppress(OSError, ValueError):
        available = min(available, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return available


def count_gpus() -> int:
    """Return how many NVIDIA GPUs the driver shows."""
    with suppress(OSError):
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    return 0
