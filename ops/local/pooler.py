"""A private pgbouncer before a private Postgres, as many a DBA has one: for tests and measurements.

with PostgresServer(state / "postgres") as postgres, Pooler(state / "pooler", postgres) as pooler:
environment = {"CALLSCRIBE_DATABASE_URL": pooler.url}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import psycopg

from ops.local import debian
from ops.local.process import Child
from ops.local.runas import RunAs, find_user
from ops.local.servers import PostgresServer, Server, clean_environment
from ops.local.sockets import make_private, remove_private, socket_directory


class Pooler(Server):
    """pgbouncer, which lends ``sessions`` of the server for a transaction, or for a ``session``.

    ``users`` may come, too. ``ignores_options``: it takes connections that ask for settings, and
    drops these.
    """

    name = "pgbouncer"
    _PORT = 6432

    def __init__(
        self,
        directory: Path,
        postgres: PostgresServer,
        *,
        mode: str = "transaction",
        sessions: int = 20,
        ignores_options: bool = True,
        users: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        super().__init__(directory, log=log)
        self._postgres = postgres
        self._mode = mode
        self._size = sessions
        self._ignores_options = ignores_options
        self._users = (PostgresServer.USER, *users)
        self._binary = debian.find(debian.PGBOUNCER) / "pgbouncer"
        self._sockets = socket_directory(self.directory)
        self._user: RunAs | None = None

    @property
    def url(self) -> str:
        """The URL of the server's first database, through the pooler."""
        return self.database_url(self._postgres.DATABASE)

    def database_url(self, database: str, user: str = PostgresServer.USER) -> str:
        """Return the URL of one of its databases, through the pooler."""
        host = quote(str(self._sockets), safe="")
        return f"postgresql://{user}@/{database}?host={host}&port={self._PORT}"

    def point_to(self, postgres: PostgresServer) -> None:
        """Lead to another server from now on, as an operator's script does after a failover."""
        self._postgres = postgres
        self._write()
        with psycopg.connect(self.database_url("pgbouncer"), autocommit=True) as console:
            console.execute("RELOAD")
            console.execute("RECONNECT")

    def _make_child(self) -> Child:
        make_private(self._sockets)
        self._user = self._user or find_user(self.directory, self._binary)
        self._write()
        self._user.own(self.directory)
        self._user.own(self._sockets)
        return Child(
            self.name,
            [str(self._binary), str(self.directory / "pgbouncer.ini")],
            self.log,
            environment={**clean_environment(), **debian.library_path(self._binary)},
            prefix=self._user.prefix,
        )

    def _write(self) -> None:
        users = "".join(f'"{user}" ""\n' for user in self._users)
        (self.directory / "users.txt").write_text(users)
        text = "".join(f"{line}\n" for line in self._configuration())
        (self.directory / "pgbouncer.ini").write_text(text)

    def _configuration(self) -> Iterator[str]:
        ignored = ["extra_float_digits", *(["options"] if self._ignores_options else [])]
        yield "[databases]"
        yield f"* = host={self._postgres.sockets} port={PostgresServer.PORT}"
        yield "[pgbouncer]"
        yield "listen_port = 6432"
        yield "listen_addr ="
        yield f"unix_socket_dir = {self._sockets}"
        yield "auth_type = trust"
        yield f"auth_file = {self.directory / 'users.txt'}"
        yield f"admin_users = {PostgresServer.USER}"
        yield f"pool_mode = {self._mode}"
        yield f"default_pool_size = {self._size}"
        yield "max_client_conn = 500"
        # Of a server that was away, ask again at once.
        yield "server_login_retry = 1"
        yield f"ignore_startup_parameters = {','.join(ignored)}"

    def _ping(self) -> bool:
        try:
            psycopg.connect(self.database_url("pgbouncer"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _clean_up(self) -> None:
        name = f".s.PGSQL.{self._PORT}"
        remove_private(self._sockets, name, f"{name}.lock")
