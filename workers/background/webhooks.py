"""Receivers told what has ended: every few seconds, beside the sweep, in threads of its own.

A receiver may be slow, dead or hostile. It holds nothing but a thread of a few, for seconds: no
transaction is open while it is asked, and the sweep does not wait. Each attempt has a deadline; a
few at a time go to one receiver, and one to a receiver that fails. What is killed between the
sending and the word of it is sent again (:mod:`schema.store.work.events`).
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.client import HTTPException
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from schema.settings import Settings
from schema.signature import signed_headers
from schema.store.ledger import Ledger
from schema.store.work import events
from schema.store.work.events import Delivery
from schema.urls import check_receiver_url

log = structlog.get_logger(__name__)

# Where an answer's headers are malformed it warns, and quotes the URL, which may be a secret.
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)

#: How soon what has ended is told, at the latest, by a fleet that has nothing else to tell.
BEAT_S = 2.0
#: What went wrong is looked at again so seldom.
_PAUSE_S = 30.0

#: Attempts under way at most, in all and to one receiver.
SLOTS = 16
EACH = 4

#: An attempt's end, whatever the receiver does; then its claim, which has to outlast it.
ATTEMPT_S = 10.0
_LEASE_S = 60

_HEADERS = {
    "content-type": "application/json",
    "user-agent": "callscribe",
    "connection": "close",
}

Post = Callable[[str, bytes, Mapping[str, str]], str | None]


class Notifier:
    """Delivers a ledger's events."""

    def __init__(self, ledger: Ledger, settings: Settings, post: Post | None = None) -> None:
        self._ledger = ledger
        self._settings = settings
        self._post = post or send
        #: Attempts under way, by receiver.
        self._under_way: Counter[UUID] = Counter()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._tally_at_s = 0.0

    def run(self, stop: threading.Event) -> None:
        """Deliver until told to stop. An error is logged, and the next look tries again."""
        while not stop.is_set():
            pause_s = BEAT_S
            try:
                if self._settings.notify_secret is None:
                    pause_s = _PAUSE_S
                    self._warn()
                else:
                    if time.monotonic() >= self._tally_at_s:
                        self._tally_at_s = time.monotonic() + BEAT_S
                        self.tally()
                    self.begin()
            except Exception:
                log.exception("notify_failed")
                pause_s = _PAUSE_S
            # An attempt that ends leaves room for the next.
            if self._ended.wait(pause_s):
                self._ended.clear()

    def tally(self) -> None:
        """Note which submissions have ended, and give up what nobody took for a day."""
        self._ledger.transact(events.sum_up)
        while count := self._ledger.transact(events.give_up):
            log.warning("events_given_up", count=count)

    def begin(self) -> int:
        """Begin attempts at what is due, as far as there is room; return how many."""
        with self._lock:
            room = SLOTS - self._under_way.total()
            busy = [receiver for receiver, count in self._under_way.items() if count >= EACH]
        if room <= 0:
            return 0
        deliveries = self._ledger.transact(
            lambda c: events.claim_events(c, room=room, each=EACH, busy=busy, lease_s=_LEASE_S)
        )
        for delivery in deliveries:
            with self._lock:
                self._under_way[delivery.receiver_id] += 1
            threading.Thread(
                target=self._deliver, args=(delivery,), name="notify", daemon=True
            ).start()
        return len(deliveries)

    def _deliver(self, delivery: Delivery) -> None:
        said = log.bind(event_id=str(delivery.event_id), host=delivery.host)
        try:
            error = self._attempt(delivery)
            if error is None:
                self._ledger.transact(lambda c: events.delivered(c, delivery))
                said.info("notified")
            else:
                self._ledger.transact(lambda c: events.refused(c, delivery, error))
                said.warning("not_notified", error=error)
        except Exception:
            # Its claim runs out, and it is sent again.
            said.exception("notify_failed")
        finally:
            with self._lock:
                self._under_way[delivery.receiver_id] -= 1
            self._ended.set()

    def _attempt(self, delivery: Delivery) -> str | None:
        """Send an event; return why it was not taken, or None where it was."""
        secret = self._settings.notify_secret
        if secret is None:
            return "CALLSCRIBE_NOTIFY_SECRET is not set"
        try:
            # Again here: the ledger is not trusted, and this host's settings may be others.
            check_receiver_url(delivery.url, self._settings.notify_hosts)
        except ValueError as error:
            return str(error)
        signed = signed_headers(
            secret.get_secret_value(), delivery.event_id, int(time.time()), delivery.body
        )
        return self._post(delivery.url, delivery.body, signed)

    def _warn(self) -> None:
        if self._ledger.transact(events.is_any_waiting):
            log.warning("notify_secret_missing", setting="CALLSCRIBE_NOTIFY_SECRET")


def send(
    url: str, body: bytes, headers: Mapping[str, str], *, limit_s: float = ATTEMPT_S
) -> str | None:
    """Post JSON to a URL; return why it was not taken, or None for any answer of 2xx.

    Redirects are answers like others and not followed, proxies not asked, certificates verified.
    What is said of an error names no URL. Ends after ``limit_s``, or once the host's name is
    resolved and each of its addresses has had half as long.
    """
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=limit_s / 2)
    ended = threading.Event()
    watch = threading.Timer(limit_s, _break_off, args=(connection, ended))
    watch.daemon = True
    watch.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.connect()
        if ended.is_set():
            return _late(limit_s)
        # One for each read, so that who answers byte by byte has to be broken off.
        connection.timeout = limit_s
        connection.request(
            "POST", target, body=body, headers={**_HEADERS, **headers}, preload_content=False
        )
        status = connection.getresponse().status
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        # A read's own limit may strike first. Of what else went wrong the name alone: what it says
        # may quote the URL.
        is_late = ended.is_set() or isinstance(error, TimeoutError)
        return _late(limit_s) if is_late else type(error).__name__
    finally:
        watch.cancel()
        connection.close()
    if ended.is_set():
        return _late(limit_s)
    return None if 200 <= status < 300 else f"HTTP {status}"


def _break_off(connection: HTTPConnection, ended: threading.Event) -> None:
    ended.set()
    connected: socket.socket | None = connection.sock
    if connected is not None:
        try:
            # The socket's own: the layer of TLS above it is the other thread's.
            socket.socket.shutdown(connected, socket.SHUT_RDWR)
        except OSError:
            return


def _late(limit_s: float) -> str:
    return f"no answer in {limit_s:g} s"
