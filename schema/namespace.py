"""Which ledger has a namespace in Redis: of two fleets that share one, the second does not start.

A sweep renews a key there, with the identity of its ledger; without a sweep it expires. Another
fleet would take this one's messages, find no such rows, and drop them. So a process that finds
another ledger's key does not start, or ends. A server that does not answer stops nobody.

Anybody who writes to Redis can write that key, and any other, too. A fleet that has met its own
ledger's there stays, and its sweep takes the key back; keys of a wrong type, it deletes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

import redis
import structlog

from schema.errors import ErrorCode, Misconfigured
from schema.publish import MessageSender
from schema.settings import Settings
from schema.store.identity import IDENTITY_MAX_CHARS, LedgerIdentity, read_identity
from schema.store.ledger import Ledger
from schema.wire import KEY_TYPES, key_prefix

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: How long the key outlives its last renewal, and between two checks of it. Several in a row may
#: fail. Every release reads a key that lasts longer as nobody's.
KEY_LIFETIME_S = 120
CHECK_S = 30

#: Keep the key for a ledger, unless another's is there and is not to be taken back: then return
#: that and what is left of it in milliseconds. What a sweep did not write, such as a key that never
#: expires, is replaced.
_CLAIM_KEY = """
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
#: as a mutex that nobody releases. Return their names.
_DELETE_WRONG_TYPES = """
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


class SharedFlag(Protocol):
    """A flag that several processes of one worker share."""

    value: Any


@dataclass(frozen=True, slots=True)
class NamespaceHolder:
    """The ledger that has the namespace, until ``remaining_s`` pass without a sweep of its."""

    ledger: LedgerIdentity
    remaining_s: int


class Namespace:
    """A fleet's namespace in Redis, as one of its processes sees it."""

    def __init__(
        self,
        app: MessageSender,
        ledger: Ledger,
        settings: Settings,
        *,
        owned_flag: SharedFlag | None = None,
    ) -> None:
        self._owned_flag: SharedFlag = owned_flag or SimpleNamespace(value=False)
        self._app = app
        self._ledger = ledger
        self._name = settings.namespace
        self._key = key_prefix(settings.namespace) + "ledger"
        self._check_s = min(settings.sweep_s, CHECK_S)
        self._identity: LedgerIdentity | None = None

    def check(self) -> None:
        """Check that no other ledger's fleet has the namespace; query the ledger only if one may.

        Nothing is raised where Redis or the ledger does not answer.

        Raises:
            Misconfigured: one has it.
        """
        holder = self._ask_or_none(self.holder)
        if holder is None:
            return
        ledger = self._identity
        if ledger != holder.ledger:
            ledger = self._ask_or_none(self.identity)
        if ledger is None:
            return
        if holder.ledger == ledger:
            self._owned_flag.value = True
        else:
            self._refuse(holder, ledger)

    def keep(self) -> None:
        """Renew this ledger's key for :data:`KEY_LIFETIME_S`, if Redis and the ledger answer.

        Raises:
            Misconfigured: another ledger's fleet has it.
        """
        # Anew each time: a URL may lead to a restored ledger one day.
        ledger = self._ask_or_none(self.identity) or self._identity
        if ledger is None:
            return
        holder = self._ask_or_none(lambda: self._claim_key(ledger, take_back=False))
        if holder is not None and holder.ledger != ledger:
            self._refuse(holder, ledger)
            holder = self._ask_or_none(lambda: self._claim_key(ledger, take_back=True))
        if holder is not None:
            self._owned_flag.value = True
        if deleted_keys := self._ask_or_none(self._delete_wrong_types):
            log.warning("redis_keys_mended", keys=deleted_keys)

    def watch(self, stop: threading.Event, check: Callable[[], None]) -> bool:
        """Check again and again, first after a pause; return True once another fleet has it.

        The pause lets a fleet whose key was lost with Redis' data write it before a second one.
        """
        while not stop.wait(self._check_s):
            try:
                check()
            except Misconfigured as error:
                log.error("namespace_taken", error=str(error))  # noqa: TRY400 - it says enough
                return True
        return False

    def holder(self) -> NamespaceHolder | None:
        """Return which ledger has it; None where no sweep renews the key. Raises Redis' errors."""
        with self._client() as client:
            value = client.get(self._key)
            left_ms = int(client.pttl(self._key))
        if not isinstance(value, bytes) or not 0 <= left_ms <= KEY_LIFETIME_S * 1000:
            return None
        return _parse_holder(value, left_ms)

    def identity(self) -> LedgerIdentity:
        """Return the identity of this process's ledger. Raises the ledger's errors."""
        with self._ledger.connect() as connection:
            self._identity = read_identity(connection)
        return self._identity

    def _refuse(self, holder: NamespaceHolder, ledger: LedgerIdentity) -> None:
        """Raise, unless this fleet had the namespace before: then somebody wrote over its key.

        Whoever may write to Redis can do that; it must not end a fleet.
        """
        if not self._owned_flag.value:
            raise namespace_taken_error(self._name, holder, ledger)
        log.error(
            "namespace_overwritten", error=str(namespace_taken_error(self._name, holder, ledger))
        )

    def _claim_key(self, ledger: LedgerIdentity, *, take_back: bool) -> NamespaceHolder | None:
        with self._client() as client:
            claim = client.register_script(_CLAIM_KEY)
            args = (str(ledger), KEY_LIFETIME_S * 1000, IDENTITY_MAX_CHARS, int(take_back))
            value, left_ms = claim(keys=[self._key], args=args)
        return _parse_holder(value, int(left_ms))

    def _delete_wrong_types(self) -> list[str]:
        """Delete keys of our names that are of another type than ours; return their names.

        They would stop all messages. What was in them is in the ledger.
        """
        prefix = key_prefix(self._name)
        with self._client() as client:
            delete = client.register_script(_DELETE_WRONG_TYPES)
            keys = delete(keys=[prefix + key for key in KEY_TYPES], args=list(KEY_TYPES.values()))
        return [key.decode().removeprefix(prefix) for key in keys]

    @contextmanager
    def _client(self) -> Iterator[redis.Redis]:
        """Yield a client that adds no prefix: kombu's adds one to the commands that it knows."""
        with self._app.connection_for_write() as connection:
            yield redis.Redis(connection_pool=connection.default_channel.client.connection_pool)

    @staticmethod
    def _ask_or_none(ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except Exception as error:
            log.warning("namespace_unknown", error=type(error).__name__)
            return None


def _parse_holder(value: bytes, left_ms: int) -> NamespaceHolder | None:
    """Return the holder that a key names; None for a value that no sweep writes."""
    ledger = LedgerIdentity.parse(value.decode("ascii", "replace"))
    return ledger and NamespaceHolder(ledger, 1 + left_ms // 1000)


def namespace_taken_error(
    name: str, holder: NamespaceHolder, ledger: LedgerIdentity
) -> Misconfigured:
    """Return the error of a process that finds another ledger's fleet in its namespace."""
    return Misconfigured(
        ErrorCode.NAMESPACE_TAKEN,
        f"namespace {name}",
        f"the fleet of another ledger uses it in this Redis: database {holder.ledger.database} of"
        f" cluster {holder.ledger.cluster}, not {ledger.database} of {ledger.cluster}",
        "Set CALLSCRIBE_NAMESPACE to another name on all hosts of one of the two."
        f" If that fleet has ended, as before a restore, wait {holder.remaining_s} s.",
    )
