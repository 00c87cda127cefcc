"""Whose a namespace in Redis is: of two fleets that share one by mistake, the second is told.

A sweep keeps a key there, with the identity of its ledger, which expires by itself. Another fleet
would take this one's messages, find no such rows, and drop them; so whoever finds another ledger's
key does not start, or goes no further. A server that does not answer stops nobody.

Anybody who writes to Redis can write that key, and any other, too. A fleet that has met its own
ledger's there stays, and its sweep takes the key back; keys of a wrong type, it deletes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import redis
import structlog

from schema.errors import ErrorCode, Misconfigured
from schema.publish import MessageSender
from schema.settings import Settings
from schema.store.identity import WRITTEN_MAX, LedgerIdentity, identity
from schema.store.ledger import Ledger
from schema.wire import KEY_TYPES, key_prefix

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: How long the key outlives whoever kept it, and between two looks at it. Several in a row may
#: fail. Every release reads a key that lasts longer as nobody's.
KEPT_S = 120
BEAT_S = 30

#: Keep the key for a ledger, unless another's is there and is not to be taken back: then return
#: that and what is left of it in milliseconds. What a sweep did not write, such as a key that never
#: expires, is replaced.
_KEEP = """
if redis.call('type', KEYS[1]).ok ~= 'string' then
    redis.call('del', KEYS[1])
end
local holder = redis.call('get', KEYS[1])
local left = redis.call('pttl', KEYS[1])
if ARGV[4] == '0' and holder and holder ~= ARGV[1] and string.find(holder, '^%d+:%d+$')
        and #holder <= tonumber(ARGV[3]) and left >= 0 and left <= tonumber(ARGV[2]) then
    return {holder, left}
end
redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2])
return {ARGV[1], tonumber(ARGV[2])}
"""

#: Delete the keys whose types are not those given, and strings that never expire, as ours do: such
#: as a mutex that nobody lets go of. Return their names.
_MEND = """
local mended = {}
for i, key in ipairs(KEYS) do
    local type = redis.call('type', key).ok
    local lasts = type == 'string' and redis.call('pttl', key) == -1
    if type ~= 'none' and (type ~= ARGV[i] or lasts) then
        redis.call('del', key)
        table.insert(mended, key)
    end
end
return mended
"""


class Flag(Protocol):
    """What several processes of one worker may know together."""

    value: Any


@dataclass(slots=True)
class _OneProcess:
    value: bool = False


@dataclass(frozen=True, slots=True)
class Holder:
    """The ledger whose namespace it is, until ``left_s`` have passed without a sweep of its."""

    ledger: LedgerIdentity
    left_s: int


class Namespace:
    """A fleet's namespace in Redis, as one of its processes sees it."""

    def __init__(
        self,
        app: MessageSender,
        ledger: Ledger,
        settings: Settings,
        *,
        is_ours: Flag | None = None,
    ) -> None:
        self._is_ours: Flag = is_ours or _OneProcess()
        self._app = app
        self._ledger = ledger
        self._name = settings.namespace
        self._key = key_prefix(settings.namespace) + "ledger"
        self._beat_s = min(settings.sweep_s, BEAT_S)
        self._here: LedgerIdentity | None = None

    def check(self) -> None:
        """Make sure that no other ledger's fleet lives here; asks the ledger only if one may.

        Where Redis or the ledger does not answer, nothing is known, and nobody is stopped.

        Raises:
            Misconfigured: one does.
        """
        holder = self._attempt(self.holder)
        if holder is None:
            return
        here = self._here
        if here != holder.ledger:
            here = self._attempt(self.identity)
        if here is None:
            return
        if holder.ledger == here:
            self._is_ours.value = True
        else:
            self._refuse(holder, here)

    def keep(self) -> None:
        """Keep the namespace for this ledger for a while; what does not answer is left alone.

        Raises:
            Misconfigured: another ledger's fleet has it.
        """
        # Anew each time: a URL may lead to a restored ledger one day.
        here = self._attempt(self.identity) or self._here
        if here is None:
            return
        holder = self._attempt(lambda: self._keep(here, take_back=False))
        if holder is not None and holder.ledger != here:
            self._refuse(holder, here)
            holder = self._attempt(lambda: self._keep(here, take_back=True))
        if holder is not None:
            self._is_ours.value = True
        if mended := self._attempt(self._mend_types):
            log.warning("redis_keys_mended", keys=mended)

    def watch(self, stop: threading.Event, look: Callable[[], None]) -> bool:
        """Look again and again, the first time after a pause; return whether it was found taken.

        The pause lets a fleet whose key was lost with Redis' data write it before a second one.
        """
        while not stop.wait(self._beat_s):
            if error := _refusal(look):
                log.error("namespace_taken", error=str(error))
                return True
        return False

    def holder(self) -> Holder | None:
        """Return whose it is; None where no sweep keeps it. Redis' errors are raised."""
        with self._client() as client:
            written = client.get(self._key)
            left_ms = int(client.pttl(self._key))
        if not isinstance(written, bytes) or not 0 <= left_ms <= KEPT_S * 1000:
            return None
        return _holder(written, left_ms)

    def identity(self) -> LedgerIdentity:
        """Return the identity of this process's ledger; its errors are raised."""
        with self._ledger.reading() as connection:
            self._here = identity(connection)
        return self._here

    def _refuse(self, holder: Holder, here: LedgerIdentity) -> None:
        """Raise, unless this fleet was here before: then somebody wrote over its key.

        Whoever may write to Redis can do that; it must not end a fleet.
        """
        if not self._is_ours.value:
            raise namespace_taken(self._name, holder, here)
        log.error("namespace_overwritten", error=str(namespace_taken(self._name, holder, here)))

    def _keep(self, here: LedgerIdentity, *, take_back: bool) -> Holder | None:
        with self._client() as client:
            keep = client.register_script(_KEEP)
            args = (str(here), KEPT_S * 1000, WRITTEN_MAX, int(take_back))
            written, left_ms = keep(keys=[self._key], args=args)
        return _holder(written, int(left_ms))

    def _mend_types(self) -> list[str]:
        """Delete the keys of ours that are of another type than ours; return their names.

        While one is there, nothing can be sent, or taken, or answered. What it held is in the
        ledger.
        """
        prefix = key_prefix(self._name)
        with self._client() as client:
            mend = client.register_script(_MEND)
            keys = mend(keys=[prefix + key for key in KEY_TYPES], args=list(KEY_TYPES.values()))
        return [key.decode().removeprefix(prefix) for key in keys]

    @contextmanager
    def _client(self) -> Iterator[redis.Redis]:
        """Yield a client that adds no prefix: kombu's adds one to the commands that it knows."""
        with self._app.connection_for_write() as connection:
            yield redis.Redis(connection_pool=connection.default_channel.client.connection_pool)

    @staticmethod
    def _attempt(ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except Exception as error:
            log.warning("namespace_unknown", error=type(error).__name__)
            return None


def _refusal(look: Callable[[], None]) -> Misconfigured | None:
    try:
        look()
    except Misconfigured as error:
        return error
    return None


def _holder(written: bytes, left_ms: int) -> Holder | None:
    """Return what a key says; None where it says nothing that a sweep would."""
    ledger = LedgerIdentity.parse(written.decode("ascii", "replace"))
    return ledger and Holder(ledger, 1 + left_ms // 1000)


def namespace_taken(name: str, holder: Holder, here: LedgerIdentity) -> Misconfigured:
    """Return the error of whoever finds another ledger's fleet in its namespace."""
    return Misconfigured(
        ErrorCode.NAMESPACE_TAKEN,
        f"namespace {name}",
        f"the fleet of another ledger uses it in this Redis: database {holder.ledger.database} of"
        f" cluster {holder.ledger.cluster}, not {here.database} of {here.cluster}",
        "Set CALLSCRIBE_NAMESPACE to another name on all hosts of one of the two."
        f" If that fleet has ended, as before a restore, wait {holder.left_s} s.",
    )
