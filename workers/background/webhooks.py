"""Notify receivers of events: every few seconds, beside the sweep, in threads of their own.

A receiver may be slow, dead or hostile. It costs one thread of a few, for seconds: no transaction
is open while it is called, and the sweep does not wait. Each attempt has a deadline; a few at a
time go to one receiver, and one to a receiver that fails. An event whose delivery was not recorded
before a crash is sent again (:mod:`schema.store.work.events`).
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
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

# Of malformed answers it warns with the URL, which may be a secret.
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)

#: How long an event waits at most in a fleet that has nothing else to send.
POLL_S = 2.0
#: Between two tries after an error.
_ERROR_PAUSE_S = 30.0

#: Concurrent attempts at most, in all and to one receiver.
ATTEMPTS_MAX = 16
PER_RECEIVER_MAX = 4

#: How long an attempt may take, and its claim, which has to outlast it.
ATTEMPT_S = 10.0
_LEASE_S = 60

_HEADERS = {"content-type": "application/json", "user-agent": "callscribe", "connection": "close"}

Post = Callable[[str, bytes, Mapping[str, str]], str | None]


class Notifier:
    """Delivers a ledger's events."""

    def __init__(self, ledger: Ledger, settings: Settings, post: Post | None = None) -> None:
        self._ledger = ledger
        self._settings = settings
        self._post = post or post_json
        #: Running attempts, by receiver.
        self._attempts: Counter[UUID] = Counter()
        self._lock = threading.Lock()
        self._attempt_ended = threading.Event()
        self._next_update_s = 0.0

    def run(self, stop: threading.Event) -> None:
        """Deliver until told to stop. An error is logged, and the next round tries again."""
        while not stop.is_set():
            pause_s = POLL_S
            try:
                if self._settings.notify_secret is None:
                    pause_s = _ERROR_PAUSE_S
                    self._warn_without_secret()
                else:
                    if time.monotonic() >= self._next_update_s:
                        self._next_update_s = time.monotonic() + POLL_S
                        self.update_events()
                    self.start_attempts()
            except Exception:
                log.exception("notify_failed")
                pause_s = _ERROR_PAUSE_S
            # An attempt that ends frees a slot for the next.
            if self._attempt_ended.wait(pause_s):
                self._attempt_ended.clear()

    def update_events(self) -> None:
        """Add the events of ended submissions; give up events that nobody took for a day."""
        self._ledger.transact(events.add_submission_events)
        while count := self._ledger.transact(events.give_up_events):
            log.warning("events_given_up", count=count)

    def start_attempts(self) -> int:
        """Start attempts at due events, as far as slots are free; return how many."""
        with self._lock:
            free_slots = ATTEMPTS_MAX - self._attempts.total()
            busy = [id_ for id_, count in self._attempts.items() if count >= PER_RECEIVER_MAX]
        if free_slots <= 0:
            return 0
        deliveries = self._ledger.transact(
            lambda c: events.claim_events(
                c,
                limit=free_slots,
                per_receiver=PER_RECEIVER_MAX,
                busy_receivers=busy,
                lease_s=_LEASE_S,
            )
        )
        for delivery in deliveries:
            with self._lock:
                self._attempts[delivery.receiver_id] += 1
            deliver = partial(self._deliver, delivery)
            threading.Thread(target=deliver, name="notify", daemon=True).start()
        return len(deliveries)

    def _deliver(self, delivery: Delivery) -> None:
        event_log = log.bind(event_id=str(delivery.event_id), host=delivery.host)
        try:
            error = self._attempt(delivery)
            if error is None:
                self._ledger.transact(lambda c: events.record_delivery(c, delivery))
                event_log.info("notified")
            else:
                self._ledger.transact(lambda c: events.record_refusal(c, delivery, error))
                event_log.warning("not_notified", error=error)
        except Exception:
            # Its claim runs out, and it is sent again.
            event_log.exception("notify_failed")
        finally:
            with self._lock:
                self._attempts[delivery.receiver_id] -= 1
            self._attempt_ended.set()

    def _attempt(self, delivery: Delivery) -> str | None:
        """Send an event; return why the receiver did not take it, or None if it did."""
        secret = self._settings.notify_secret
        if secret is None:
            return "CALLSCRIBE_NOTIFY_SECRET is not set"
        try:
            # Checked again: the ledger is not trusted, and this host's settings may differ.
            check_receiver_url(delivery.url, self._settings.notify_hosts)
        except ValueError as error:
            return str(error)
        headers = signed_headers(
            secret.get_secret_value(), delivery.event_id, int(time.time()), delivery.body
        )
        return self._post(delivery.url, delivery.body, headers)

    def _warn_without_secret(self) -> None:
        if self._ledger.transact(events.is_any_event_waiting):
            log.warning("notify_secret_missing", setting="CALLSCRIBE_NOTIFY_SECRET")


def post_json(
    url: str, body: bytes, headers: Mapping[str, str], *, limit_s: float = ATTEMPT_S
) -> str | None:
    """Post JSON to a URL; return why it was not taken, or None for any answer of 2xx.

    Redirects are not followed, proxies not used, certificates verified. The cause names no URL.
    Ends after ``limit_s``, or once the host's name is resolved and each of its addresses has had
    half as long.
    """
    timeout_cause = f"no answer in {limit_s:g} s"
    parts = urlsplit(url)
    connection_class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = connection_class(parts.hostname or "", parts.port, timeout=limit_s / 2)
    is_timed_out = threading.Event()
    timer = threading.Timer(limit_s, _shut_down_socket, args=(connection, is_timed_out))
    timer.daemon = True
    timer.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.connect()
        if is_timed_out.is_set():
            return timeout_cause
        # One for each read, so that who answers byte by byte has to be broken off.
        connection.timeout = limit_s
        connection.request(
            "POST", target, body=body, headers={**_HEADERS, **headers}, preload_content=False
        )
        status = connection.getresponse().status
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        # A read's own limit may strike first. Of what else went wrong the name alone: what it says
        # may quote the URL.
        is_late = is_timed_out.is_set() or isinstance(error, TimeoutError)
        return timeout_cause if is_late else type(error).__name__
    finally:
        timer.cancel()
        connection.close()
    if is_timed_out.is_set():
        return timeout_cause
    return None if 200 <= status < 300 else f"HTTP {status}"


def _shut_down_socket(connection: HTTPConnection, is_timed_out: threading.Event) -> None:
    is_timed_out.set()
    connection_socket: socket.socket | None = connection.sock
    if connection_socket is not None:
        # The socket's own: the layer of TLS above it is the other thread's.
        with suppress(OSError):
            socket.socket.shutdown(connection_socket, socket.SHUT_RDWR)
