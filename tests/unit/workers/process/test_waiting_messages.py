"""What waits for a worker: each message's work is done once, by its own task or along another's."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from schema.wire import Message
from workers.process.waiting_messages import WaitingMessages

ONE, TWO, THREE = (Message(UUID(int=number), UUID(int=9)) for number in (1, 2, 3))


def test_what_waits_is_told_in_order_until_its_task_begins():
    waiting = WaitingMessages()
    for message in (ONE, TWO, THREE):
        waiting.add(message)
    assert waiting.begin(ONE)
    assert waiting.in_order() == [TWO, THREE]


def test_the_task_of_what_was_taken_along_has_nothing_to_do_once():
    waiting = WaitingMessages()
    waiting.add(TWO)
    waiting.begin(ONE)
    waiting.mark_handled(TWO)
    assert waiting.in_order() == []
    assert not waiting.begin(TWO)
    # Redis may deliver it again: the ledger says then that nothing is to be done.
    assert waiting.begin(TWO)


def test_a_name_that_comes_after_its_task_is_not_kept():
    waiting = WaitingMessages()
    waiting.begin(ONE)
    waiting.add(ONE)
    assert waiting.in_order() == []


@given(st.lists(st.tuples(st.sampled_from(["add", "begin", "mark_handled"]), st.integers(0, 600))))
def test_no_more_is_kept_than_a_worker_ever_holds(steps):
    waiting = WaitingMessages()
    for step, number in [*steps, *(("add", number) for number in range(600))]:
        getattr(waiting, step)(Message(UUID(int=number), UUID(int=9)))
    assert len(waiting.in_order()) == 256
