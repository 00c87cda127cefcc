import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.intake.pieces import LostAudio, Piece, conform, side_by_side, silent_pieces

RATE = 8000


def tone(frames, channels=1, rate=RATE, hz=440.0):
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(frames) / rate)
    return Piece(np.tile(wave.astype(np.float32)[:, None], channels), rate)


def joined(pieces):
    return np.concatenate([piece.samples for piece in pieces if isinstance(piece, Piece)])


@given(st.lists(st.integers(0, 30_000), max_size=6))
def test_what_fits_passes_sample_for_sample(lengths):
    pieces = [tone(length) for length in lengths]

    out = list(conform(pieces, RATE, 1))

    if any(lengths):
        assert np.array_equal(joined(out), joined(pieces))
    assert all(len(piece.samples) >= RATE for piece in out[:-1])


def test_another_rate_keeps_its_time_and_its_sound():
    out = joined(conform([tone(8000), tone(88_200, rate=44_100)], 44_100, 1))

    expected = joined([tone(44_100, rate=44_100), tone(88_200, rate=44_100)])
    assert len(out) == pytest.approx(len(expected), abs=16)
    # The filter rings where one rate ends.
    assert np.abs(out[500:43_000] - expected[500:43_000]).max() < 0.01


def test_what_has_fewer_channels_is_on_the_first():
    out = joined(conform([tone(8000), tone(8000, 2)], RATE, 2))

    assert not out[:8000, 1].any()
    assert np.array_equal(out[8000:, 0], out[8000:, 1])


def test_channels_that_nobody_announced_are_heard_all_the_same():
    stereo = np.zeros((8000, 2), np.float32)
    stereo[:, 1] = 0.5

    (out,) = conform([Piece(stereo, RATE)], RATE, 1)

    assert np.allclose(out.samples, 0.25)


def test_what_was_lost_is_told_where_it_was():
    lost = LostAudio(20.0, "why")

    out = list(conform([tone(100), lost, tone(100)], RATE, 1))

    assert [len(piece.samples) if isinstance(piece, Piece) else piece for piece in out] == [
        100,
        lost,
        100,
    ]


def test_tracks_stand_beside_each_other_and_who_ends_early_is_silent():
    out = joined(side_by_side([[tone(20_000)], [tone(30_000, 2, hz=700)], []], RATE))

    assert out.shape == (30_000, 3)
    assert not out[20_000:, 0].any()
    assert np.allclose(out[:, 1], tone(30_000, hz=700).samples[:, 0], atol=1e-6)
    assert not out[:, 2].any()


def test_silence_of_hours_is_made_a_second_at_a_time():
    pieces = list(silent_pieces(36_000 * RATE, 2, RATE))

    assert sum(len(piece.samples) for piece in pieces[:10]) == 10 * RATE
    assert len(pieces) == 36_000
