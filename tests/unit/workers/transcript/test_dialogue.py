"""Words of two channels become a dialogue."""

from __future__ import annotations

from schema.profile import RenderSettings
from schema.words import Word
from workers.transcript.dialogue import to_dialogue
from workers.transcript.stitch import ChannelTimeline

RENDER = RenderSettings(speakers=("agent", "caller"))


def timeline(channel: int, *words: tuple[str, int, int]) -> ChannelTimeline:
    return ChannelTimeline(channel, tuple(Word(t, s, e, 0.9) for t, s, e in words), (), ())


def read(*timelines: ChannelTimeline) -> list[tuple[str, str]]:
    return [(u.speaker, u.text) for u in to_dialogue(timelines, RENDER)]


def test_speakers_alternate_by_time():
    agent = timeline(0, ("Hello.", 0, 500), ("Bye.", 5_000, 5_400))
    caller = timeline(1, ("Hi.", 1_000, 1_400))

    assert read(agent, caller) == [("agent", "Hello."), ("caller", "Hi."), ("agent", "Bye.")]


def test_speech_at_the_same_time_is_kept_whole():
    agent = timeline(0, ("one", 0, 900), ("two", 1_000, 1_900))
    caller = timeline(1, ("aha", 500, 800))

    assert read(agent, caller) == [("agent", "one two"), ("caller", "aha")]


def test_a_long_pause_ends_an_utterance_and_a_breath_does_not():
    channel_words = timeline(0, ("well", 0, 400), ("yes", 800, 1_000), ("so", 2_100, 2_300))

    assert read(channel_words) == [("agent", "well yes"), ("agent", "so")]


def test_a_full_stop_and_a_breath_end_an_utterance():
    assert read(timeline(0, ("Yes.", 0, 400), ("So", 750, 900))) == [
        ("agent", "Yes."),
        ("agent", "So"),
    ]


def test_a_monologue_breaks_at_a_breath():
    channel_words = timeline(0, *((f"w{i}", i * 1_000, i * 1_000 + 600) for i in range(40)))

    assert len(read(channel_words)) == 2


def test_chinese_is_joined_without_spaces():
    channel_words = timeline(
        0, ("你", 0, 100), ("好", 100, 200), ("OK", 200, 400), ("吗", 400, 500)
    )

    assert read(channel_words) == [("agent", "你好OK吗")]
