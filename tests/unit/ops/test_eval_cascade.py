"""What each rule of the cascade earns, on one layout of two segments."""

from __future__ import annotations

from dataclasses import replace

from ops.eval.cascade import CASCADES, Joined, rows
from schema.transcript import SeamRule
from tests.unit.ops.test_eval_places import swept


def test_the_first_cascade_is_the_one_that_the_reducer_uses():
    name, rules = next(iter(CASCADES.items()))
    assert name == "every rule"
    assert set(rules) == set(SeamRule)


def test_each_cascade_has_a_row_and_the_full_one_costs_nothing():
    table = list(rows([swept()]))
    assert [row[0] for row in table] == list(CASCADES)
    assert table[0][3:7] == ["0", "0", "0.000", "+0.000"]


def test_a_rule_that_is_left_out_decides_no_seam():
    for name, rules in CASCADES.items():
        [row] = [row for row in rows([swept()]) if row[0] == name]
        left_out = {rule.value for rule in set(SeamRule) - set(rules) - {SeamRule.MIDPOINT}}
        assert not any(rule in row[1] for rule in left_out)


def test_the_plain_middle_loses_a_word_that_both_sides_timed_apart():
    """The first word after the middle, 60 s: the right one says it a little before."""
    one = swept()
    [stitched] = one.stitched
    left, right = stitched.heard
    late = replace(left, words=tuple(_moved(word, 90) for word in left.words))
    early = replace(right, words=tuple(_moved(word, -405) for word in right.words))
    apart = replace(stitched, heard=(late, early))
    [(_, merge)] = Joined(one, apart, CASCADES["every rule"]).merges
    assert merge.dropped == ()
    [(rule, merge)] = Joined(one, apart, CASCADES["plain middle"]).merges
    assert rule is SeamRule.MIDPOINT
    assert [word.text for word in merge.dropped] == ["a"]


def _moved(word, by_ms):
    if word.start_ms != 60_100:
        return word
    return replace(word, start_ms=word.start_ms + by_ms, end_ms=word.end_ms + by_ms)
