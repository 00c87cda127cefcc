"""FunASR's networks with our own batches, against its ``generate``: tiny models, random weights."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ops.bench.madeup import KINDS, NARROW, build, characters, profile_of
from schema.errors import BadRequest, ErrorCode, LeaseLost, Misconfigured
from schema.pcm import SAMPLES_PER_MS
from schema.profile import load_profile
from schema.settings import Settings
from schema.span import Span
from tests.unit.workers.engines.test_whisper import quiet, voiced
from workers.engines.base import DecodeRequest
from workers.engines.features import FilterBank
from workers.engines.funasr import recognizer as funasr
from workers.engines.funasr.isolation import isolate_funasr
from workers.engines.funasr.recognizer import FunasrRecognizer
from workers.engines.minibatch import ROUNDED_SIZES

SOUND = np.concatenate(
    [quiet(500), voiced(3_000), quiet(700), voiced(5_000), quiet(300), voiced(900), quiet(400)]
)
REGIONS = [Span(400, 3_600), Span(4_100, 9_310), Span(9_400, 10_500)]
PARAFORMERS = [kind for kind in KINDS if kind != "sensevoice"]
#: FunASR tells times of these; of a plain Paraformer it confuses weights and peaks.
TIMED = ["bicif", "bicif-cnn", "seaco"]


@dataclass(frozen=True)
class Models:
    """Where the tiny models are, each built once."""

    root: Path

    def settings(self, **own: Any) -> Settings:
        return Settings(
            database_url="postgresql://nowhere/none",
            redis_url="redis://nowhere",
            models=self.root,
            **own,
        )

    def load(self, kind: str, settings: Settings | None = None, **decode: Any) -> FunasrRecognizer:
        profile = profile_of(self.root / kind, **decode)
        recognizer = funasr.load_funasr(profile, settings or self.settings(), FilterBank("cpu"))
        assert isinstance(recognizer, FunasrRecognizer)
        return recognizer

    def theirs(self, kind: str) -> Any:
        with isolate_funasr():
            from funasr import AutoModel

            return AutoModel(
                model=str(self.root / kind),
                device="cpu",
                disable_update=True,
                disable_pbar=True,
                log_level="ERROR",
                frontend_conf={"dither": 0.0},
            )


@pytest.fixture(autouse=True)
def regions_are_decoded_together_as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(funasr, "CPU_OVERHEAD_MS", funasr.GPU_OVERHEAD_MS)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    root = tmp_path_factory.mktemp("tiny")
    for kind in KINDS:
        build(kind, root / kind)
    return Models(root)


def cut(region: Span) -> np.ndarray:
    return SOUND[region.start_ms * SAMPLES_PER_MS : region.end_ms * SAMPLES_PER_MS]


def generate(model: Any, region: Span, **options: Any) -> dict[str, Any]:
    with isolate_funasr():
        [result] = model.generate(cut(region), key="x", **options)
    return dict(result)


def written(recognizer: FunasrRecognizer, region: Span, **options: Any) -> list[Any]:
    words = recognizer.decode(SOUND, [region], language="auto", **options).words
    return [word.shifted(-region.start_ms) for word in words]


@pytest.mark.parametrize("kind", PARAFORMERS)
@pytest.mark.parametrize("region", REGIONS)
def test_a_paraformer_writes_what_funasr_writes(models, kind, region):
    expected = list(generate(models.theirs(kind), region)["text"].replace(" ", ""))
    assert len(expected) >= 3
    assert len(set(expected)) >= 2
    assert [word.text for word in written(models.load(kind), region)] == expected


@pytest.mark.parametrize("kind", TIMED)
@pytest.mark.parametrize("region", REGIONS)
def test_its_words_are_said_when_funasr_says(models, kind, region):
    expected = generate(models.theirs(kind), region)["timestamp"]
    words = written(models.load(kind), region)
    assert [[word.start_ms, word.end_ms] for word in words] == [
        [start_ms, min(end_ms, region.duration_ms)] for start_ms, end_ms in expected
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_regions_decoded_together_have_the_words_they_have_alone(models, kind):
    recognizer = models.load(kind)
    together = recognizer.decode(SOUND, REGIONS, language="auto").words
    alone = [word for region in REGIONS for word in written_at(recognizer, region)]
    assert [word.text for word in together] == [word.text for word in alone]
    for one, other in zip(together, alone, strict=True):
        assert abs(one.start_ms - other.start_ms) <= 60
        assert one.confidence == pytest.approx(other.confidence, abs=0.01)


def written_at(recognizer, region):
    return recognizer.decode(SOUND, [region], language="auto").words


def test_words_of_a_plain_paraformer_follow_each_other_within_their_region(models):
    words = written(models.load("paraformer"), REGIONS[0])
    edges = [edge for word in words for edge in (word.start_ms, word.end_ms)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= REGIONS[0].duration_ms


def test_hotwords_move_a_seaco_as_they_move_funasrs(models):
    hotwords = [characters()[8], characters()[21]]
    theirs = models.theirs("seaco")
    expected = generate(theirs, REGIONS[1], hotword=" ".join(hotwords))["text"].split()
    recognizer = models.load("seaco")
    biased = [word.text for word in written(recognizer, REGIONS[1], hotwords=hotwords)]
    assert biased == expected
    assert biased != [word.text for word in written(recognizer, REGIONS[1])]


def test_of_many_hotwords_those_that_count_are_chosen_for_each_region(tmp_path):
    # More than a network weighs at once; chosen by its decoder's sixth layer.
    build("seaco", tmp_path / "seaco", NARROW)
    own = Models(tmp_path)
    hotwords = characters(NARROW)[:55]
    theirs = own.theirs("seaco")
    expected = [
        generate(theirs, each, hotword=" ".join(hotwords))["text"].split() for each in REGIONS
    ]
    recognizer = own.load("seaco")
    words = recognizer.decode(SOUND, REGIONS, language="auto", hotwords=hotwords).words
    found = [
        [word.text for word in words if each.start_ms <= word.start_ms < each.end_ms]
        for each in REGIONS
    ]
    assert found == expected
    plain = recognizer.decode(SOUND, REGIONS, language="auto").words
    assert [word.text for word in plain] != [word.text for word in words]


def test_segments_decoded_together_have_the_words_they_have_alone(models):
    for kind in KINDS:
        recognizer = models.load(kind)
        other = np.ascontiguousarray(SOUND[::-1])
        requests = [
            DecodeRequest(SOUND, REGIONS, "auto"),
            DecodeRequest(other, REGIONS[:2], "auto"),
        ]
        together = recognizer.decode_all(requests)
        recognizer._bank.clear()
        alone = [
            recognizer.decode(each.samples, each.regions, language="auto") for each in requests
        ]
        assert [outcome.words for outcome in together] == [outcome.words for outcome in alone]
        assert all(outcome.words for outcome in together)


def test_a_cancelled_request_is_left_and_the_others_are_decoded(models):
    recognizer = models.load("bicif")
    lost = LeaseLost(ErrorCode.LEASE_LOST, "this work", "cancelled")

    def stop():
        raise lost

    requests = [
        DecodeRequest(SOUND, REGIONS, "auto"),
        DecodeRequest(SOUND[:96_000], REGIONS[:1], "auto", (), stop),
    ]
    kept, refused = recognizer.decode_all(requests)
    assert refused is lost
    assert kept.words == recognizer.decode(SOUND, REGIONS, language="auto").words


def test_buckets_change_no_word(models):
    recognizer = models.load("bicif")
    expected = recognizer.decode(SOUND, REGIONS, language="auto").words
    recognizer._buckets = ROUNDED_SIZES
    recognizer._family.round_tokens = ROUNDED_SIZES.tokens
    batches, family = [], recognizer._family

    class Noted:
        dtype = torch.float32

        def decode_batch(self, batch, *others):
            batches.append((len(batch.features), batch.features.shape[1]))
            return family.decode_batch(batch, *others)

    recognizer._family = Noted()
    regions = [*REGIONS, Span(200, 1_200), Span(10_500, 10_700)]
    found = recognizer.decode(SOUND, regions, language="auto").words
    assert batches == [(6, 96)]
    times = [(word.text, word.start_ms, word.end_ms) for word in found]
    assert {(word.text, word.start_ms, word.end_ms) for word in expected} <= set(times)


def test_a_warm_up_decodes_dense_speech_whatever_is_heard(models):
    for kind in KINDS:
        recognizer = models.load(kind)
        with torch.profiler.profile() as profile:
            recognizer._warm_up(5_000)
        calls = [event.name for event in profile.events()]
        model = recognizer._family.model
        parts = [model.encoder, *([model.decoder] if kind != "sensevoice" else [])]
        attending = [layer for part in parts for layer in part.modules() if hasattr(layer, "d_k")]
        assert calls.count("aten::scaled_dot_product_attention") == len(attending)
        # What times tokens.
        assert ("aten::lstm" in calls) == (kind in ("bicif", "seaco"))


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("language", ["auto", "en"])
def test_sensevoice_writes_what_funasr_writes(models, region, language):
    theirs = models.theirs("sensevoice")
    expected = generate(theirs, region, language=language)["text"]
    recognizer = models.load("sensevoice")
    [own] = raw(recognizer, region, language)
    tokens = own.ids.tolist()
    # FunASR takes an answer and a first word that are the same for one; real answers are marks.
    ids = [*own.special_tokens, *tokens[own.special_tokens[-1:] == tuple(tokens[:1]) :]]
    assert len(tokens) >= 4
    assert theirs.kwargs["tokenizer"].decode(ids) == expected


def raw(recognizer: FunasrRecognizer, region: Span, language: str) -> Any:
    mel = recognizer._bank.compute(SOUND)
    regions = [funasr._Region(0, region, region.start_ms // 10)]
    return recognizer._decode_minibatch(mel, regions, language, [])


@pytest.mark.parametrize("region", REGIONS)
def test_sensevoices_times_are_those_of_funasrs_forced_alignment(models, region):
    from funasr.models.sense_voice.utils.ctc_alignment import ctc_forced_align

    recognizer = models.load("sensevoice")
    [own] = raw(recognizer, region, "auto")
    model = recognizer._family.model
    mel = recognizer._bank.compute(SOUND)
    start = region.start_ms // 10
    batch = recognizer._make_batch(mel, [start], [funasr._Region(0, region, start).frames])
    inputs = torch.cat([recognizer._family._embed_prompt("auto"), batch.features], dim=1)
    lengths = torch.tensor([inputs.shape[1]])
    with torch.inference_mode():
        scores = model.ctc.log_softmax(model.encoder(inputs, lengths)[0])[:, 4:]
        ids = torch.tensor(own.ids)[None]
        counts = torch.tensor([scores.shape[1]]), torch.tensor([ids.shape[1]])
        path = ctc_forced_align(scores, ids, *counts)[0].tolist()
    begins = [at for at, token in enumerate(path) if token and (not at or path[at - 1] != token)]
    assert [max(0, 60 * at - 30) for at in begins] == own.times_ms[:, 0].tolist()


def test_sensevoices_special_tokens_are_tags_and_no_words(models):
    decoding = models.load("sensevoice").decode(SOUND, REGIONS, language="auto")
    assert decoding.words
    assert not any("<" in word.text or "\u2581" in word.text for word in decoding.words)


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_of_twenty_milliseconds_and_no_region_at_all_are_survived(models, kind):
    recognizer = models.load(kind)
    assert recognizer.decode(SOUND, [], language="auto").words == ()
    regions = [Span(0, 20), REGIONS[0]]
    together = recognizer.decode(SOUND, regions, language="auto").words
    assert [w.text for w in together if w.start_ms >= 400] == [
        w.text for w in written_at(recognizer, REGIONS[0])
    ]


def test_when_memory_runs_out_half_is_decoded_and_remembered(models, monkeypatch):
    recognizer = models.load("bicif")
    recognizer.budget.ms = 240_000
    expected = recognizer.decode(SOUND, REGIONS, language="auto").words
    family, batches = recognizer._family, []

    class Tight:
        dtype = torch.float32

        def decode_batch(self, batch, language, hotwords):
            batches.append(len(batch.features))
            if recognizer.budget.ms > 60_000:
                raise torch.OutOfMemoryError("no room")
            return family.decode_batch(batch, language, hotwords)

    monkeypatch.setattr(recognizer, "_family", Tight())
    assert recognizer.decode(SOUND, REGIONS, language="auto").words == expected
    assert recognizer.budget.ms == 60_000
    batches.clear()
    recognizer.decode(SOUND, REGIONS, language="auto")
    assert batches == [3]


def test_a_processor_pads_little(models, monkeypatch):
    monkeypatch.undo()
    recognizer = models.load("bicif")
    regions = [Span(0, 5_000), Span(5_000, 9_900), Span(9_900, 10_900)]
    all_of_one = [funasr._Region(0, region, region.start_ms // 10) for region in regions]
    assert recognizer._pack_minibatches(all_of_one, [0, 1, 2]) == [[0, 1], [2]]


def test_memory_that_does_not_hold_one_region_is_an_error(models, monkeypatch):
    recognizer = models.load("bicif")

    class Full:
        dtype = torch.float32

        def decode_batch(self, *_):
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(recognizer, "_family", Full())
    with pytest.raises(torch.OutOfMemoryError):
        recognizer.decode(SOUND, REGIONS, language="auto")
    assert recognizer.budget.ms == 30_000


def test_cancelled_work_ends_before_the_next_minibatch(models):
    recognizer = models.load("paraformer")

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recognizer.decode(SOUND, REGIONS, language="auto", check_cancelled=stop)


@pytest.mark.parametrize("kind", ["bicif", "sensevoice"])
def test_half_precision_writes_nearly_as_many_words(models, kind):
    exact = models.load(kind).decode(SOUND, REGIONS, language="auto").words
    rough = models.load(kind, precision="bfloat16").decode(SOUND, REGIONS, language="auto").words
    assert len(rough) == pytest.approx(len(exact), rel=0.2)


def test_a_weight_that_is_missing_is_not_made_up(models, tmp_path):
    directory = tmp_path / "broken"
    shutil.copytree(models.root / "bicif", directory)
    saved = torch.load(directory / "model.pt", weights_only=True)
    del saved["predictor.cif_output.bias"]
    torch.save(saved, directory / "model.pt")
    settings = settings_with(models, tmp_path)
    with pytest.raises(Misconfigured, match=r"predictor\.cif_output\.bias was not loaded"):
        funasr.load_funasr(profile_of(directory), settings, FilterBank("cpu"))


def settings_with(models: Models, root: Path) -> Settings:
    return replace(models, root=root).settings()


def test_a_file_that_nobody_verified_is_not_read(models, tmp_path):
    directory = tmp_path / "own"
    shutil.copytree(models.root / "paraformer", directory)
    profile = profile_of(directory)
    (directory / "configuration.json").write_text("{}")
    with pytest.raises(Misconfigured, match=r"configuration\.json would be read"):
        funasr.load_funasr(profile, settings_with(models, tmp_path), FilterBank("cpu"))


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".hidden"])
def test_a_models_name_leads_nowhere_else(name):
    decode = {"engine": "funasr", "model": name, "files": {"model.pt": "0" * 64}}
    with pytest.raises(BadRequest):
        load_profile("call", {"decode": decode})


def test_funasr_does_not_decode_in_integers():
    with pytest.raises(BadRequest, match="float32 or bfloat16"):
        load_profile("call", {"decode": {"engine": "funasr", "precision": "int8"}})
