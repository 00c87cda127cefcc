"""What the orchestration benchmark counts, and lets its worker say."""

from __future__ import annotations

from ops.bench.nullworker import made_up_result
from ops.bench.orchestration import count_trips
from schema.words import SegmentResult


def test_each_answer_of_the_server_that_it_is_ready_ends_a_round_trip():
    trace = "\n".join(
        [
            'F\t14\tQuery\t "BEGIN"',
            'B\t10\tCommandComplete\t "BEGIN"',
            "B\t5\tReadyForQuery\t T",
            'F\t90\tBind\t "" "_pg3_0" 0',
            'F\t9\tExecute\t "" 0',
            "F\t4\tSync",
            "B\t40\tDataRow\t 1",
            "B\t5\tReadyForQuery\t T",
            'F\t14\tQuery\t "BEGIN"',
            "B\t5\tReadyForQuery\t T",
        ]
    )
    assert count_trips(trace) == {'Query "BEGIN"': 2, "Execute": 1}


def test_the_made_up_result_is_one_that_a_ledger_takes():
    result = made_up_result()
    assert len(result.words) == 800
    assert all(a.end_ms <= b.start_ms for a, b in zip(result.words, result.words[1:], strict=False))
    assert result.words[-1].end_ms <= result.speech[-1].end_ms <= 300_000
    assert SegmentResult.from_json(result.to_json()).speech == result.speech
