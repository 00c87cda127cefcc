"""The URLs of Postgres and Redis, checked before a library reads them.

Libraries quote what they cannot read, or take half of a password for a host and look it up: a
password with an "@" or "/" in it would end in a log. So would one in a list of several servers.

Settings are read by child processes, too, that need neither SQLAlchemy nor kombu: both are
imported where they are needed.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_ESCAPE = "write @ : / ? # % in a password as %40 %3A %2F %3F %23 %25"

_REDIS_SCHEMES = ("redis", "rediss", "redis+socket")
_TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_cert_reqs", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile"}
)


def check_database_url(url: str) -> None:
    """Raise ValueError, which quotes nothing of it, for a URL that Postgres is not found by."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(f"it is no URL of Postgres; {_ESCAPE}") from None
    if parsed.get_backend_name() != "postgresql":
        raise ValueError("it does not start with postgresql://")
    if "@" in f"{parsed.host}{parsed.database}":
        raise ValueError(f"its host cannot be told from its password; {_ESCAPE}")


def check_redis_url(url: str) -> None:
    """Raise ValueError, which quotes nothing of it, for a URL that Redis is not found by."""
    parts = urlsplit(url)
    if parts.scheme not in _REDIS_SCHEMES:
        raise ValueError(f"it starts with none of {', '.join(_REDIS_SCHEMES)}")
    try:
        ambiguous = parts.port == 0 or "@" in f"{parts.path}{parts.query}{parts.fragment}"
    except ValueError:
        ambiguous = True
    if ambiguous or parts.fragment:
        raise ValueError(f"its host cannot be told from its password; {_ESCAPE}")
    options = {name for name, _ in parse_qsl(parts.query)}
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
    """Return how a ``rediss://`` URL wants TLS, as redis-py takes it.

    The server's certificate is verified unless the URL says otherwise: kombu by itself verifies
    nothing where the URL says nothing.
    """
    from kombu.utils.url import parse_url

    said: dict[str, Any] = parse_url(url).get("ssl", {})
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **said}
