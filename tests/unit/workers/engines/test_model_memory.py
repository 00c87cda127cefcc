"""What does not fit is not loaded: a smaller model stands in, or another host takes the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from schema.errors import ErrorCode, Misconfigured
from schema.profile import Profile, load_profile
from schema.settings import Settings
from workers.engines import model_memory
from workers.engines.model_memory import choose_profile, free_bytes, needed_bytes
from workers.segment.pipeline import SegmentDecoder

LARGE_BYTES, SMALL_BYTES = 1_000_000, 1_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name, size in (("large", LARGE_BYTES), ("small", SMALL_BYTES)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_bytes(bytes(size))
    return Settings(database_url="postgresql://", redis_url="redis://", models=tmp_path)


def profile(fallback: str | None = "small", **decode) -> Profile:
    own = {"model": "large", **decode}
    if fallback:
        own["fallback"] = {"model": fallback}
    return load_profile("call", {"decode": own}, find=lambda _: {"model.bin": "ab" * 32})


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    def be(free_bytes: int) -> None:
        monkeypatch.setattr(model_memory, "free_bytes", lambda _: free_bytes)

    return be


def test_what_fits_is_decoded_as_asked(settings, free):
    free(LARGE_BYTES)
    assert choose_profile(profile(), settings) == profile()


def test_what_does_not_fit_is_decoded_by_the_fallback(settings, free):
    free(LARGE_BYTES - 1)
    assert (
        choose_profile(profile(language="en"), settings) == profile(language="en").fallback_profile
    )


@pytest.mark.parametrize(("fallback", "free_bytes"), [(None, SMALL_BYTES), ("small", 999)])
def test_where_nothing_fits_the_host_is_at_fault(settings, free, fallback, free_bytes):
    free(free_bytes)
    with pytest.raises(Misconfigured, match="takes 1 MB, and 0 MB are free on cpu") as caught:
        choose_profile(profile(fallback), settings)
    assert caught.value.code is ErrorCode.MEMORY_SHORT


def test_a_models_copies_are_counted(settings):
    def needed(device: str, **decode) -> int:
        host = settings.model_copy(update={"device": device})
        return needed_bytes(profile(None, **decode).decode, host)

    assert needed("cpu") == LARGE_BYTES
    assert needed("cpu", precision="float32") == 2 * LARGE_BYTES
    assert needed("cpu", engine="funasr") == 2 * LARGE_BYTES
    assert needed("cuda:1", engine="funasr") == LARGE_BYTES


def test_a_model_that_is_not_here_is_left_to_whoever_verifies_it(settings):
    assert needed_bytes(load_profile("call").decode, settings) == 0


def test_a_host_has_something_free(settings):
    assert 0 < free_bytes(settings) < 1 << 60


@pytest.mark.parametrize(("limit", "left"), [("1000\n", 1_000 - 700 + 200), ("max\n", 1 << 62)])
def test_a_control_groups_limit_counts(tmp_path: Path, limit: str, left: int):
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\nactive_file 0\n")
    assert model_memory._group_free_bytes(tmp_path) == left


def test_a_host_does_not_go_back_and_forth_between_models(settings, free):
    decoder = SegmentDecoder(settings)
    free(SMALL_BYTES)
    first = decoder.profile_for_host(profile(language="en", hotwords=("Acme",)))
    free(LARGE_BYTES)
    second = decoder.profile_for_host(profile(language="zh"))
    assert {first.decode.model, second.decode.model} == {"small"}
    assert (second.decode.language, second.decode.hotwords) == ("zh", ())
    assert SegmentDecoder(settings).profile_for_host(profile()).decode.model == "large"
