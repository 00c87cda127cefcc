"""What is added to Celery's consumer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Connection

from workers.process.celery_steps import BatchedEvents, BrokerInfo


@pytest.mark.parametrize(
    "url", ["redis://me:hush@redis:6379/0", "rediss://:hush@redis", "redis+socket://:hush@/r.sock"]
)
def test_flower_is_shown_the_brokers_address_and_no_password(url: str):
    consumer = SimpleNamespace(connection=Connection(url), steps=[])

    shown = BrokerInfo(consumer).info(consumer)["broker"]

    assert shown["url"].startswith(url.partition(":")[0])
    assert "hush" not in str(shown)
    consumer.connection = None
    assert BrokerInfo(consumer).info(consumer) == {"broker": {"url": "not connected"}}


class Hub:
    """An event loop whose time passes when it is told to."""

    def __init__(self) -> None:
        self.later: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def call_later(self, delay_s: float, callback: Callable[..., Any], *arguments: Any) -> None:
        assert 0 < delay_s < 1
        self.later.append((callback, arguments))

    def pass_time(self) -> None:
        due, self.later = self.later, []
        for callback, arguments in due:
            callback(*arguments)


class Dispatcher:
    """Counts how often it sends what it was given."""

    def __init__(self) -> None:
        self.sent = 0
        self.on_send_buffered: Callable[[], None] = lambda: None

    def flush(self) -> None:
        self.sent += 1


@pytest.fixture
def consumer() -> SimpleNamespace:
    return SimpleNamespace(hub=Hub(), event_dispatcher=Dispatcher(), steps=[])


def test_events_of_a_moment_are_sent_together(consumer: SimpleNamespace):
    BatchedEvents(consumer).start(consumer)
    dispatcher = consumer.event_dispatcher

    for moment in (1, 2):
        for _ in range(3):
            dispatcher.on_send_buffered()
        consumer.hub.pass_time()
        assert dispatcher.sent == moment


def test_events_that_waited_while_a_connection_was_made_anew_go_through_the_new_one(
    consumer: SimpleNamespace,
):
    step, old = BatchedEvents(consumer), consumer.event_dispatcher
    step.start(consumer)
    old.on_send_buffered()
    consumer.event_dispatcher = new = Dispatcher()
    step.start(consumer)
    consumer.hub.pass_time()

    assert (old.sent, new.sent) == (0, 1)


def test_a_consumer_that_stops_sends_what_waits(consumer: SimpleNamespace):
    step = BatchedEvents(consumer)
    step.start(consumer)
    consumer.event_dispatcher.on_send_buffered()
    step.stop(consumer)

    assert consumer.event_dispatcher.sent == 1
