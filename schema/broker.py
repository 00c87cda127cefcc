"""Why Redis does not do what it is asked, in a sentence that names the cause, and what to do.

Redis, its client and kombu each word it in their own way; an operator needs to know whether it is
the password, a right, or the wrong server.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator

#: Beginnings of Redis' own errors, and what its client makes of them; the first that fits is taken.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"(?:NOPERM|NoPermission|ACL failure).*?'(?P<command>[a-z|]+)' command",
        "this user has no right to {command}",
        "Give it the rights of ops/docs/operate/security.md (ACL SETUSER).",
    ),
    (
        r"NOPERM|NoPermission|no permissions to access",
        "this user has no right to a key or a channel of callscribe's",
        "Give it the rights of ops/docs/operate/security.md (ACL SETUSER).",
    ),
    (
        r"WRONGPASS|invalid password|invalid username-password",
        "it refuses the password",
        "Is the URL of Redis right?",
    ),
    (
        r"NOAUTH|Authentication required|without any password",
        "it requires a password, or accepts none",
        "Write it as redis://:PASSWORD@host, or with a user before the colon.",
    ),
    (
        r"DB index is out of range|invalid DB index",
        "it has no database of that number",
        "Name another one at the end of the URL: /0.",
    ),
    (
        r"MOVED|MovedError|CROSSSLOT|CLUSTERDOWN|ClusterDown|SELECT is not allowed in cluster",
        "it is a Redis Cluster, which Celery cannot use",
        "Use a single Redis; a small one is enough.",
    ),
    (
        r"READONLY|ReadOnlyError",
        "it is a replica, which takes no messages",
        "Name the primary in CALLSCRIBE_REDIS_URL.",
    ),
    (
        r"OOM command|OutOfMemoryError",
        "its memory is full",
        "Give it a larger maxmemory; noeviction is right.",
    ),
    (
        r"MISCONF",
        "it cannot write to its disk, so it takes no messages",
        "Free space on its disk, or repair what its log reports.",
    ),
    (
        r"WRONGTYPE",
        "a key of callscribe's has another type: somebody else wrote to it",
        "The next sweep deletes it; give this fleet a Redis or a password of its own.",
    ),
    (r"LOADING|BusyLoading", "it is still loading its data", "Wait a moment."),
    (
        r"unknown command|unknown subcommand",
        "it has no queues: it may be a Sentinel, or another kind of server",
        "Name the Redis itself, not its Sentinel.",
    ),
    (
        r"Protocol Error|InvalidResponse|Bad response",
        "the server there is no Redis",
        "Is the port right?",
    ),
    (
        r"WRONG_VERSION_NUMBER|record layer failure|UNEXPECTED_EOF|wrong version number",
        "it does not speak TLS at that port",
        "Write redis:// there, or name its TLS port.",
    ),
    (
        r"Connection closed by server|Connection reset",
        "it closes the connection",
        "If that is a TLS port, write rediss://.",
    ),
    (r"Connection refused|ECONNREFUSED", "nobody listens there", "Is Redis up, and the URL right?"),
    (
        r"Name or service not known|nodename nor servname|Temporary failure in name",
        "its host name is not known",
        "Is the URL of Redis right?",
    ),
    (r"[Tt]imed? ?out", "it does not answer in time", "Is Redis up, and the way to it open?"),
)


def explain_redis_error(error: BaseException) -> tuple[str, str]:
    """Return why Redis did not do something, and what to do. Nothing of a URL is in it."""
    for link in _chain(error):
        if isinstance(link, ssl.SSLCertVerificationError):
            remedy = "Name the CA that signed it: rediss://...?ssl_ca_certs=/path/ca.pem"
            return f"its certificate is not trusted: {link.verify_message}", remedy
        message = f"{type(link).__name__}: {link}"
        for pattern, cause, remedy in _CAUSES:
            if match := re.search(pattern, message, re.DOTALL):
                return cause.format(**match.groupdict()), remedy
    return f"it does not answer ({type(error).__name__})", "Is Redis up, and the URL right?"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came of, the innermost first: kombu wraps the client's."""
    chain = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    yield from reversed(chain)
