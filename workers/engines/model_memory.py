"""Whether a model fits the free memory of this host, checked before it is loaded.

A host that tries, and is killed by the system for it, strikes a segment that nothing is wrong with.
The check assumes the least that a model surely takes: no host that could decode refuses to.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from schema.errors import ErrorCode, Misconfigured
from schema.profile import Profile, Recognition
from schema.settings import Settings
from workers.engines.device import is_gpu
from workers.process.memory import device_memory

#: How often a model's files are in memory at once, by engine and device or precision: FunASR's
#: while they are loaded, in float32; Whisper's are published in float16.
_FUNASR_COPIES = {"cpu": 2.0, "cuda": 1.0}
_WHISPER_COPIES = {"int8": 1.0, "float16": 1.0, "float32": 2.0}

#: Where control groups publish the limit and the use of their members' memory.
_CONTROL_GROUPS = Path("/sys/fs/cgroup")

#: More than any host has: an unknown figure does not keep a model out.
_UNLIMITED_BYTES = 1 << 62


def choose_profile(profile: Profile, settings: Settings) -> Profile:
    """Return a profile as this host decodes it: itself, or where it is too large its fallback.

    Raises:
        Misconfigured: neither fits.
    """
    host_bytes = free_bytes(settings)
    model_bytes = needed_bytes(profile.decode, settings)
    if model_bytes <= host_bytes:
        return profile
    fallback = profile.fallback_profile
    if fallback is not None and needed_bytes(fallback.decode, settings) <= host_bytes:
        return fallback
    raise Misconfigured(
        ErrorCode.MEMORY_SHORT,
        f"model {profile.decode.model}",
        f"it takes {model_bytes / 1e6:,.0f} MB, and {host_bytes / 1e6:,.0f} MB are free"
        f" on {settings.device}",
        "Make room, choose a smaller model, or name one as the profile's fallback.",
    )


def needed_bytes(recognition: Recognition, settings: Settings) -> int:
    """Return how many bytes a recognizer takes at least; 0 where its files are not here."""
    directory = settings.models / recognition.model
    paths = [directory / name for name in recognition.model_files.files]
    size_bytes = sum(path.stat().st_size for path in paths if path.is_file())
    match recognition.engine:
        case "whisper":
            copies = _WHISPER_COPIES[recognition.precision]
        case "funasr":
            copies = _FUNASR_COPIES[settings.device.partition(":")[0]]
        case engine:
            assert_never(engine)
    return int(size_bytes * copies)


def free_bytes(settings: Settings) -> int:
    """Return how many bytes are free on the device that decodes here."""
    if is_gpu(settings.device):
        return device_memory(settings.device).figures().free
    return min(_available_bytes(), _group_free_bytes(_CONTROL_GROUPS / _control_group()))


def _available_bytes() -> int:
    """Return what the kernel could give to a new process without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _UNLIMITED_BYTES
    available_kb = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * available_kb[0] if available_kb else _UNLIMITED_BYTES


def _control_group() -> str:
    """Return the name of this process' control group (version 2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")


def _group_free_bytes(group: Path) -> int:
    """Return what a control group's limit leaves; its files' inactive pages count as free."""
    try:
        limit, current = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        pages = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return _UNLIMITED_BYTES
    if limit.strip() == "max":
        return _UNLIMITED_BYTES
    page_bytes = sum(int(line.split()[1]) for line in pages if line.startswith("inactive_file "))
    return int(limit) - int(current) + page_bytes
