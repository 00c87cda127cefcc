"""What a processor says of itself, by the lines of kernels."""

from __future__ import annotations

import pytest

from schema.processor import has_bfloat16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse avx512_bf16 amx_tile\n", True),
        ("processor\t: 0\nflags\t\t: fpu sse avx2 avx512f\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("processor\t: 0\n", False),
        ("", False),
    ],
)
def test_bfloat16_is_told_by_the_flags(tmp_path, text, expected):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert has_bfloat16(path) is expected


def test_a_system_that_does_not_tell_is_not_believed_to_have_it(tmp_path):
    assert not has_bfloat16(tmp_path / "none")
