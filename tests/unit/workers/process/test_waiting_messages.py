"""What waits for a worker: each message's work is done once, by its own task or along another's."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from schema.wire import Message
from workers.process.waiting_messages import Waiting

ONE, TWO, THREE = (Message(UUID(int=number), UUID(int=9)) for number in (1, 2, 3))


def test_what_waits_is_told_in_order_until_its_task_begins():
    waiting = Waiting()
    for message in (ONE, TWO, THREE):
        waiting.note(message)
    assert waiting.begin(ONE)
    assert waiting.following() == [TWO, THREE]


def test_the_task_of_what_was_taken_along_has_nothing_to_do_once():
    waiting = Waiting()
    waiting.note(TWO)
    waiting.begin(ONE)
    waiting.take(TWO)
    assert waiting.following() == []
    assert not waiting.begin(TWO)
    # Redis may deliver it again: the ledger says then that nothing is to be done.
    assert waiting.begin(TWO)


def test_a_name_that_comes_after_its_task_is_not_kept():
    waiting = Waiting()
    waiting.begin(ONE)
    waiting.note(ONE)
    assert waiting.following() == []


@given(st.lists(st.tuples(st.sampled_from(["note", "begin", "take"]), st.integers(0, 600))))
def test_no_more_is_kept_than_a_worker_ever_holds(steps):
    waiting = Waiting()
    for step, number in [*steps, *(("note", number) for number in range(600))]:
        getattr(waiting, step)(Message(UUID(int=number), UUID(int=9)))
    assert len(waiting.following()) == 256
