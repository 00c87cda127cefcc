import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from producer.intake.plan import check_channels, choose_channels, plan_segments, plan_spans
from producer.intake.scan import Scan, Signal
from schema.errors import BadRecording, ErrorCode
from schema.pcm import span_digest
from schema.profile import PlanSettings
from schema.records import AudioFormat
from schema.settings import Limits
from schema.span import GRID_MS, Span

DEFAULT = PlanSettings()


def loud(duration_ms, **quiet):
    """A level for each 100 ms; ``at`` and ``level_db`` lay 400 ms of quiet around a moment."""
    levels = np.full(-(-duration_ms // GRID_MS), -20.0, np.float32)
    if quiet:
        step = quiet["at"] // GRID_MS
        levels[step - 2 : step + 2] = quiet["level_db"]
    return levels


SHORTEST = PlanSettings(segment_s=10, overlap_s=2, search_s=0, min_tail_s=0)


@st.composite
def plans(draw):
    overlap_s = draw(st.integers(2, 10))
    search_s = draw(st.integers(0, 20))
    segment_s = draw(st.integers(max(10, 3 * overlap_s + search_s), 120))
    settings = PlanSettings(
        segment_s=segment_s,
        overlap_s=overlap_s,
        search_s=search_s,
        min_tail_s=draw(st.integers(0, 60)),
    )
    duration_ms = draw(st.integers(1, 600_000))
    seed = draw(st.integers(0, 100))
    levels = np.random.default_rng(seed).uniform(-70, -10, -(-duration_ms // GRID_MS))
    return duration_ms, levels.astype(np.float32), settings


@given(plans())
def test_spans_cover_everything_and_overlap_as_asked(plan):
    duration_ms, levels, settings = plan

    spans = plan_spans(duration_ms, levels, settings)

    assert spans[0].start_ms == 0
    assert spans[-1].end_ms == duration_ms
    for earlier, later in itertools.pairwise(spans):
        assert earlier.end_ms - later.start_ms == settings.overlap_s * 1000
    assert all(span.start_ms % GRID_MS == 0 for span in spans)
    assert all(span.end_ms % GRID_MS == 0 for span in spans[:-1])


@example((459_801, np.zeros(4_599, np.float32), SHORTEST))
@given(plans())
def test_no_core_is_shorter_or_longer_than_promised(plan):
    duration_ms, levels, settings = plan
    spans = plan_spans(duration_ms, levels, settings)
    half_ms = settings.overlap_s * 500
    cuts = [span.start_ms + half_ms for span in spans[1:]]
    cores = [end - start for start, end in itertools.pairwise([0, *cuts, duration_ms])]

    if len(cores) > 1:
        share_ms = duration_ms / len(cores)
        assert len(cores) % 2 == 0
        assert share_ms <= settings.segment_s * 1000
        # Cuts lie on the grid: the last core may have what the others are short of.
        assert max(cores) <= (settings.segment_s + settings.search_s) * 1000 + GRID_MS
        assert min(cores) > settings.overlap_s * 1000
        assert all(
            abs(cut - share_ms * index) <= settings.search_s * 1000 + GRID_MS
            for index, cut in enumerate(cuts, start=1)
        )


@given(plans())
def test_the_same_recording_is_always_cut_the_same(plan):
    duration_ms, levels, settings = plan

    assert plan_spans(duration_ms, levels, settings) == plan_spans(
        duration_ms, levels.copy(), settings
    )


@pytest.mark.parametrize("duration_ms", [1, 300_000, 359_999, 360_000])
def test_a_recording_with_no_more_than_a_short_tail_is_one_segment(duration_ms):
    assert plan_spans(duration_ms, loud(duration_ms), DEFAULT) == (Span(0, duration_ms),)


@pytest.mark.parametrize(
    ("duration_ms", "count"),
    [(360_001, 2), (600_000, 2), (600_001, 4), (1_500_000, 6), (3_522_000, 12), (86_400_000, 288)],
)
def test_a_longer_one_has_an_even_number_of_equal_shares(duration_ms, count):
    spans = plan_spans(duration_ms, loud(duration_ms), DEFAULT)

    assert len(spans) == count
    starts_ms = [span.start_ms + 4_000 for span in spans[1:]]
    nominal_ms = [duration_ms * share / count for share in range(1, count)]
    assert starts_ms == pytest.approx(nominal_ms, abs=GRID_MS)


def test_a_boundary_moves_to_the_quietest_point_in_its_window():
    envelope = loud(600_000, at=287_300, level_db=-50)

    assert plan_spans(600_000, envelope, DEFAULT)[1].start_ms == 287_300 - 4_000


def test_a_quieter_point_outside_the_window_is_left_alone():
    envelope = loud(600_000, at=270_000, level_db=-90)

    assert plan_spans(600_000, envelope, DEFAULT)[1].start_ms == 296_000


def test_a_pause_is_preferred_to_a_single_quiet_step():
    envelope = loud(600_000, at=310_000, level_db=-40)
    envelope[2950] = -90

    assert plan_spans(600_000, envelope, DEFAULT)[1].start_ms == 306_000


def test_among_silences_the_one_nearest_to_the_nominal_place_wins():
    envelope = loud(600_000)
    envelope[2850:2860] = -110
    envelope[3050:3060] = -65

    assert plan_spans(600_000, envelope, DEFAULT)[1].start_ms == 305_200 - 4_000


def scan_of(*levels_db, dual_mono=False, mix=False, duration_ms=500_000):
    """A scan whose channels have these levels throughout; below -60 dBFS they are silent."""
    steps = duration_ms // GRID_MS
    signals = {
        None if mix else channel: Signal(
            tuple(f"{channel}:{step}".encode() for step in range(steps)),
            np.full(steps, level_db, np.float32),
            is_silent=level_db < -60,
        )
        for channel, level_db in enumerate(levels_db)
    }
    audio = AudioFormat("WAV", "PCM_16", 8000, 4 if mix else len(levels_db), duration_ms * 8)
    return Scan(audio, signals, dual_mono)


@pytest.mark.parametrize(
    ("scan", "mode", "channels", "flags"),
    [
        (scan_of(-20), "auto", (0,), ()),
        (scan_of(-20, -30), "auto", (0, 1), ()),
        (scan_of(-20, -90), "auto", (0,), ("silent-channel:1",)),
        (scan_of(-90, -20), "split", (1,), ("silent-channel:0",)),
        (scan_of(-90, -90, dual_mono=True), "auto", (), ("silent-channel:0", "silent-channel:1")),
        (scan_of(-20, -20, dual_mono=True), "auto", (0,), ("dual-mono",)),
        (scan_of(-20, -20, dual_mono=True), "split", (0, 1), ()),
        (scan_of(-20, -20, -20, -20), "split", (0, 1, 2, 3), ()),
        (scan_of(-20, mix=True), "mix", (None,), ()),
        (scan_of(-90, mix=True), "mix", (), ("silent-mix",)),
    ],
)
def test_channels_are_chosen(scan, mode, channels, flags):
    assert choose_channels(scan, mode, Limits(), "call") == (channels, flags)


def test_more_channels_than_two_need_a_word_from_the_caller():
    with pytest.raises(BadRecording) as caught:
        choose_channels(scan_of(-20, -20, -20), "auto", Limits(), "call")

    assert caught.value.code is ErrorCode.AUDIO_TOO_MANY_CHANNELS
    assert "--channels split" in caught.value.remedy
    assert "--channels mix" in caught.value.remedy


def test_split_takes_channels_up_to_the_limit_and_mix_takes_any():
    with pytest.raises(BadRecording, match="CALLSCRIBE_MAX_CHANNELS"):
        check_channels(9, "split", Limits(), "call")

    assert check_channels(8, "split", Limits(), "call") is None
    assert check_channels(64, "mix", Limits(), "call") is None


def test_segments_are_numbered_by_channel_and_know_their_samples():
    scan = scan_of(-20, -20)

    segments = plan_segments(scan, (0, 1), DEFAULT)

    assert [(s.channel, s.index) for s in segments] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for segment in segments:
        digests = scan.signals[segment.channel].digests
        assert segment.pcm_digest == span_digest(digests, segment.span)
    assert len({segment.pcm_digest for segment in segments}) == 4
