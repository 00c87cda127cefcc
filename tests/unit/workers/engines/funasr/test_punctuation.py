"""Marks for words that were recognized without any: written by a model, the words' times kept."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import pytest

from ops.bench.madeup import build, build_punctuation, characters
from producer.cli.models import profile_section
from schema.errors import ErrorCode, Misconfigured
from schema.models import ModelFiles
from schema.profile import load_profile
from schema.words import Word
from workers.engines.funasr import punctuation
from workers.transcript.stitch import ChannelTimeline
from workers.transcript.text_normalisation import punctuate


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    build_punctuation(root / "marks")
    build("paraformer", root / "words")
    return root


def files_of(directory: Path) -> ModelFiles:
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir()}
    return ModelFiles(directory.name, digests)


def track(*words: Word) -> ChannelTimeline:
    return ChannelTimeline(0, words, (), ())


def is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


def test_a_model_of_the_true_architecture_punctuates_words_and_keeps_them(models):
    mark = punctuation.load_punctuator(files_of(models / "marks"), models)
    texts = [characters()[i % 60] for i in range(0, 300, 7)]
    words = [Word(text, 200 * i, 200 * i + 150, 0.9) for i, text in enumerate(texts)]
    written = punctuate(track(*words), mark).words
    assert [(w.start_ms, w.end_ms) for w in written] == [(w.start_ms, w.end_ms) for w in words]
    assert [w.text.rstrip("".join(filter(is_mark, w.text))) for w in written] == texts
    assert any(is_mark(w.text[-1]) for w in written)
    assert written == punctuate(track(*words), mark).words


def test_a_pause_ends_what_the_model_is_given():
    asked = []

    def mark(text: str) -> str:
        asked.append(text)
        return f"{text}."

    words = (Word("hello", 0, 400), Word("there", 600, 900), Word("yes", 2_000, 2_300))
    assert [w.text for w in punctuate(track(*words), mark).words] == ["hello", "there.", "yes."]
    assert asked == ["hello there", "yes"]


def test_a_model_that_fails_or_changes_words_leaves_them():
    def fail(text: str) -> str:
        raise RuntimeError(text)

    words = (Word("hello", 0, 400),)
    assert punctuate(track(*words), fail).words == words
    assert punctuate(track(*words), lambda _: "good bye.").words == words


def test_only_a_punctuation_model_is_taken(models):
    with pytest.raises(Misconfigured, match="Paraformer is not a punctuation model"):
        punctuation.load_punctuator(files_of(models / "words"), models)


def test_changed_weights_are_refused(models):
    files = files_of(models / "marks")
    with pytest.raises(Misconfigured) as caught:
        punctuation.load_punctuator(
            ModelFiles("marks", {**files.files, "model.pt": "0" * 64}), models
        )
    assert caught.value.code == ErrorCode.WEIGHTS_CHANGED


def test_a_profile_names_it_and_decodes_as_before(models, tmp_path):
    plain = load_profile("call")
    path = tmp_path / "marks.toml"
    path.write_text(profile_section(models / "marks", "punctuation"))
    profile = load_profile(str(path))
    assert profile.render.punctuation is not None
    assert profile.render.punctuation.model_files == files_of(models / "marks")
    assert profile.decode_key("0", 8_000) == plain.decode_key("0", 8_000)
