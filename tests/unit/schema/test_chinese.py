"""Chinese in either script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.chinese import ChineseScript, convert_script, in_both_scripts


@pytest.mark.parametrize(
    ("script", "text", "converted"),
    [
        (ChineseScript.SIMPLIFIED, "請問您的訂單號碼。OK", "请问您的订单号码。OK"),
        (ChineseScript.SIMPLIFIED, "请问", "请问"),
        (ChineseScript.TRADITIONAL, "头发发展", "頭髮發展"),
        (ChineseScript.AS_DECODED, "請问", "請问"),
    ],
)
def test_text_is_written_in_a_script(script: ChineseScript, text: str, converted: str):
    assert convert_script(text, script) == converted


def test_a_term_is_looked_for_in_both_scripts():
    assert in_both_scripts("订单") == ("订单", "訂單")
    assert in_both_scripts("訂單") == ("訂單", "订单")
    assert in_both_scripts("你好") == ("你好",)
    assert in_both_scripts("refund") == ("refund",)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF)))
def test_what_is_not_chinese_stays(text: str):
    assert convert_script(text, ChineseScript.SIMPLIFIED) == text
