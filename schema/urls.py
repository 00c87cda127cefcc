"""The URLs of Postgres, Redis and receivers of notifications, checked before a library reads them.

Libraries quote what they cannot read, or take half of a password for a host and look it up: a
password with an "@" or "/" in it would end in a log. So would one in a list of several servers.

Settings are read by child processes, too, that need neither SQLAlchemy nor kombu: both are
imported where they are needed.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from sqlalchemy import URL

_POSTGRES_PORT = 5432

_ESCAPE = "write @ : / ? # % in a password as %40 %3A %2F %3F %23 %25"

#: An index entry holds no more than 2,704 bytes.
_RECEIVER_URL_CHARS_MAX = 2_000

_REDIS_SCHEMES = ("redis", "rediss", "redis+socket")
_TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_cert_reqs", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile"}
)


def engine_url(url: str) -> URL:
    """Return a database's URL as SQLAlchemy takes it; several servers may stand in it, as in libpq.

    ``postgresql://user:password@first:5432,second:5433/name?target_session_attrs=read-write``

    Raises:
        ValueError: it is none.
        ArgumentError: it is none.
    """
    from sqlalchemy import make_url

    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, servers = authority.rpartition("@")
    if "," not in servers:
        return make_url(url)
    if "@" in user:
        raise ValueError("an @ in the password")
    hosts = [
        server if ":" in server else f"{server}:{_POSTGRES_PORT}" for server in servers.split(",")
    ]
    base = make_url(f"{scheme}://{user}{at}{slash}{path}")
    return base.update_query_pairs([("host", server) for server in hosts], append=True)


def check_database_url(url: str) -> None:
    """Raise ValueError, which quotes nothing of it, for a URL that Postgres is not found by."""
    from sqlalchemy.exc import ArgumentError

    try:
        parsed_url = engine_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(f"it is no URL of Postgres; {_ESCAPE}") from None
    if parsed_url.get_backend_name() != "postgresql":
        raise ValueError("it does not start with postgresql://")
    if "@" in f"{parsed_url.host}{parsed_url.database}":
        raise ValueError(f"its host cannot be told from its password; {_ESCAPE}")
    _check_options(parsed_url)


def _check_options(url: URL) -> None:
    """Raise ValueError unless the options of a database's URL are those that libpq has."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import make_conninfo
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
    from sqlalchemy.exc import ArgumentError

    try:
        dialect: Any = PGDialect_psycopg()  # type: ignore[no-untyped-call]
        arguments, options = dialect.create_connect_args(url)
        make_conninfo(*arguments, **{k: v for k, v in options.items() if k in url.query})
    except (ArgumentError, ValueError):
        raise ValueError("an option behind its ? has no value that it can have") from None
    except ProgrammingError:
        raise ValueError(
            "an option behind its ? is none of libpq's; leave out what is another driver's"
        ) from None


def check_redis_url(url: str) -> None:
    """Raise ValueError, which quotes nothing of it, for a URL that Redis is not found by."""
    parts = urlsplit(url)
    if parts.scheme not in _REDIS_SCHEMES:
        raise ValueError(f"it starts with none of {', '.join(_REDIS_SCHEMES)}")
    try:
        is_ambiguous = parts.port == 0 or "@" in f"{parts.path}{parts.query}{parts.fragment}"
    except ValueError:
        is_ambiguous = True
    if is_ambiguous or parts.fragment:
        raise ValueError(f"its host cannot be told from its password; {_ESCAPE}")
    options = {name for name, _ in parse_qsl(parts.query)}
    if parts.scheme != "redis+socket" and not re.fullmatch("/?[0-9]{0,9}", parts.path):
        raise ValueError("behind its host stands no number of a database")
    if parts.scheme == "redis" and options:
        raise ValueError("redis:// takes no options; rediss:// does")
    if parts.scheme == "rediss":
        _check_tls(url, options)


def _check_tls(url: str, options: set[str]) -> None:
    if options - _TLS_OPTIONS:
        raise ValueError(f"rediss:// takes {', '.join(sorted(_TLS_OPTIONS))}, nothing else")
    try:
        tls_options(url)
    except KeyError:
        raise ValueError("ssl_cert_reqs is none of required, optional, none") from None


def tls_options(url: str) -> dict[str, Any]:
    """Return the TLS options of a ``rediss://`` URL, as redis-py takes them.

    The server's certificate is verified unless the URL says otherwise: kombu by itself verifies
    nothing where the URL says nothing.
    """
    from kombu.utils.url import parse_url

    url_options: dict[str, Any] = parse_url(url).get("ssl", {})
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **url_options}


def check_receiver_url(url: str, hosts: Collection[str]) -> str:
    """Return the host of a URL that notifications may go to, in lower case.

    ``hosts`` are those allowed, none of them meaning any.

    Raises:
        ValueError: they may not go there; it quotes nothing but the host.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise ValueError("it is no URL") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError("it does not start with https://host or http://host")
    if "@" in parts.netloc:
        raise ValueError("it has a user or a password in it: a receiver knows us by our signature")
    if not (url.isascii() and url.isprintable()) or " " in url or parts.fragment:
        raise ValueError("it has a fragment, a space or a character beyond ASCII in it")
    if len(url) > _RECEIVER_URL_CHARS_MAX:
        raise ValueError(f"it is longer than {_RECEIVER_URL_CHARS_MAX} characters")
    if hosts and host not in hosts:
        raise ValueError(f"{host} is not among CALLSCRIBE_NOTIFY_HOSTS")
    return host
