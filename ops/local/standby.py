"""A private Postgres that follows another, and can be promoted: for tests of a failover.

with PostgresServer(state / "first") as first, Standby(state / "second", first) as second:
second.synchronise()    # from now on no commit is acknowledged that it does not have
first.kill()
second.promote()
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from ops.local.process import Child, ServerError
from ops.local.runas import RunAs
from ops.local.servers import START_TIMEOUT_S, PostgresServer, clean_environment

_POLL_S = 0.05


class Standby(PostgresServer):
    """A streaming standby of a server that runs, made of a copy of it."""

    name = "standby"

    def __init__(
        self,
        directory: Path,
        primary: PostgresServer,
        *,
        addresses: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        super().__init__(directory, durable=False, addresses=addresses, log=log)
        self._primary = primary
        self._password = primary.password

    def synchronise(self) -> None:
        """Let the primary acknowledge no commit from now on that is not here, too."""
        with self._primary.connect() as connection:
            connection.execute("alter system set synchronous_standby_names = '*'")
            connection.execute("select pg_reload_conf()")
        self._wait("select exists (select from pg_stat_replication where sync_state = 'sync')")

    def follow(self) -> None:
        """Wait until all is here that the primary has committed so far."""
        with self._primary.connect() as connection:
            (here,) = connection.execute("select pg_current_wal_lsn()").fetchone() or ("0/0",)
        with self.connect() as connection:
            query = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
            while not (connection.execute(query, (here,)).fetchone() or (False,))[0]:
                time.sleep(_POLL_S)

    def promote(self) -> None:
        """Become a primary, and wait until it is one, which waits for no standby of its own."""
        with self.connect() as connection:
            connection.execute("select pg_promote()")
            connection.execute("alter system set synchronous_standby_names = ''")
            connection.execute("select pg_reload_conf()")

    def _ensure_database(self) -> None:
        """Leave what is the primary's to make."""

    def _initialise(self, user: RunAs) -> None:
        unfinished = self._data.with_name("data.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        user.own(unfinished)
        copy = Child(
            "pg_basebackup",
            [
                str(self._binaries / "pg_basebackup"),
                *("--pgdata", str(unfinished), "--write-recovery-conf", "--checkpoint=fast"),
                *("--host", str(self._primary.sockets), "--port", str(self.PORT)),
                *("--username", self.USER, "--no-sync"),
            ],
            self.log,
            environment=clean_environment(),
            prefix=user.prefix,
            on_our_death=signal.SIGKILL,
        )
        with copy:
            finished = copy.wait(START_TIMEOUT_S)
        if not finished or copy.exit_code != 0:
            raise ServerError(copy.describe_end())
        unfinished.rename(self._data)

    def _wait(self, query: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        with self._primary.connect() as connection:
            while not (connection.execute(query.encode()).fetchone() or (False,))[0]:
                if time.monotonic() > deadline:
                    raise ServerError("the standby does not follow")
                time.sleep(_POLL_S)
