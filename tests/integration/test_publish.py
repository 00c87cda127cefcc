"""Messages through a real Redis: they arrive, they are counted, and they hold ids alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
import redis
from celery import Celery

from ops.local.servers import RedisServer
from producer.submit.enqueue import Enqueuer, celery_app
from schema.publish import Publisher
from schema.settings import Settings
from schema.store.dispatches import reduce_dispatch, segment_dispatch
from schema.wire import (
    BROKER_SETTINGS,
    REDUCE_QUEUE,
    SEGMENTS_QUEUE,
    Dispatch,
    Priority,
    QueueLengths,
    key_prefix,
    queue_keys,
)
from workers.process.redis_transport import refusal_of


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.client_url) as client:
        client.flushall()
        yield client


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    settings = Settings(database_url="postgresql://", redis_url=redis_server.url)
    with celery_app(settings) as app:
        yield app


def segment() -> Dispatch:
    ids = ("id", "dispatch_token", "submission_id", "recording_id")
    row = {name: uuid4() for name in ids} | {"kind": "plan"}
    return segment_dispatch(
        row | {"channel": 0, "index": 0, "start_ms": 0, "end_ms": 1_000, "urgent": False}
    )


def reduce() -> Dispatch:
    ids = ("submission_id", "recording_id", "reduce_dispatch_token")
    return reduce_dispatch(
        {name: uuid4() for name in ids} | {"duration_ms": 1_000, "urgent": False}
    )


def test_a_producer_reaches_both_queues(app: Celery, client: redis.Redis):
    publisher = Publisher(app)

    assert publisher.publish([segment(), reduce(), segment()]) == 3

    assert publisher.queue_lengths() == QueueLengths(segments=2, reduces=1)
    lists = [key_prefix() + key for key in queue_keys(SEGMENTS_QUEUE)]
    assert [client.llen(key) for key in lists] == [0, 2]


def test_unless_told_a_namespace_the_keys_are_those_of_earlier_releases(
    app: Celery, client: redis.Redis
):
    Publisher(app).publish([segment(), reduce(), replace(segment(), priority=Priority.URGENT)])

    assert set(client.keys()) == {
        b"callscribe:segments",
        b"callscribe:segments\x06\x165",
        b"callscribe:reduce\x06\x165",
    }


def test_fleets_of_two_namespaces_see_nothing_of_each_other(
    redis_server: RedisServer, app: Celery, client: redis.Redis
):
    """One name begins the other, and both use the same database."""
    settings = Settings(
        database_url="postgresql://", redis_url=redis_server.url, namespace="callscribe-2"
    )
    with celery_app(settings) as other:
        Publisher(app).publish([segment()])
        Publisher(other).publish([segment(), reduce(), segment()])

        assert Publisher(app).queue_lengths() == QueueLengths(segments=1, reduces=0)
        assert Publisher(other).queue_lengths() == QueueLengths(segments=2, reduces=1)
        with other.connection_for_read() as connection, connection.SimpleQueue("segments") as queue:
            queue.clear()
        assert Publisher(app).queue_lengths() == QueueLengths(segments=1, reduces=0)
        names = {key.partition(b":")[0] for key in client.scan_iter()}
        assert names == {b"callscribe", b"callscribe-2"}


def test_work_that_was_begun_goes_before_what_was_not(app: Celery, client: redis.Redis):
    publisher = Publisher(app)
    publisher.publish([segment(), replace(segment(), priority=Priority.URGENT)])

    with app.connection_for_read() as connection, connection.SimpleQueue("segments") as queue:
        received = [queue.get(timeout=10).properties["priority"] for _ in range(2)]

    assert received == [Priority.URGENT, Priority.NORMAL]


def test_what_goes_first_is_counted_by_itself_and_with_the_rest(app: Celery, client: redis.Redis):
    publisher = Publisher(app)
    publisher.publish([segment(), replace(segment(), priority=Priority.URGENT), segment()])

    assert publisher.queue_lengths() == QueueLengths(segments=3, reduces=0, urgent=1)


def test_a_message_is_json_and_holds_ids_alone(app: Celery, client: redis.Redis):
    dispatch = segment()
    Publisher(app).publish([dispatch])

    _, normal = queue_keys(SEGMENTS_QUEUE)
    message = json.loads(client.lrange(key_prefix() + normal, 0, 0)[0])

    assert message["content-type"] == "application/json"
    assert message["headers"]["argsrepr"] == dispatch.label
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert args == []
    assert kwargs == dispatch.message.to_kwargs()


def test_what_we_send_is_what_a_worker_takes_in(app: Celery, client: redis.Redis):
    Publisher(app).publish([segment(), reduce()])

    for queue in (SEGMENTS_QUEUE, REDUCE_QUEUE):
        _, normal = queue_keys(queue)
        (message,) = map(json.loads, client.lrange(key_prefix() + normal, 0, -1))
        assert refusal_of(message, queue=queue) is None


def test_a_list_that_somebody_filled_is_emptied_and_others_are_not(
    app: Celery, client: redis.Redis
):
    publisher = Publisher(app)
    publisher.publish([segment(), reduce()])
    _, normal = queue_keys(SEGMENTS_QUEUE)
    client.lpush(key_prefix() + normal, *["x"] * 30)

    assert publisher.empty_flooded(31) == []
    assert publisher.empty_flooded(30) == [SEGMENTS_QUEUE]
    assert publisher.queue_lengths() == QueueLengths(segments=0, reduces=1)


def test_a_redis_that_is_away_costs_a_bounded_time_and_no_error():
    with Celery(broker="redis://127.0.0.1:1/0", set_as_current=False) as app:
        app.conf.update(BROKER_SETTINGS)
        enqueuer = Enqueuer(Publisher(app), high_water=10)

        assert enqueuer.capacity() == 0
        enqueuer.publish([segment()])

        assert enqueuer.has_failed
