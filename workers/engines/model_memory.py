"""Whether a model fits the memory that is free here: asked before it is loaded.

A host that tries, and is killed by the system for it, strikes a segment that nothing is wrong with.
What is asked for is the least that is surely taken, so that no host that could decode refuses to.
"""

from __future__ import annotations

from pathlib import Path

from schema.errors import ErrorCode, Misconfigured
from schema.profile import Profile, Recognition
from schema.settings import Settings
from workers.process.memory import device_memory

#: How often a model's files are in memory at once, by engine and precision: FunASR's while they
#: are loaded, in float32; Whisper's are published in float16.
_COPIES = {("funasr", "cpu"): 2.0, ("funasr", "cuda"): 1.0}
_WHISPER_COPIES = {"int8": 1.0, "float16": 1.0, "float32": 2.0}

#: Where control groups say how much their members may hold, and hold.
_GROUPS = Path("/sys/fs/cgroup")


def fitting(profile: Profile, settings: Settings) -> Profile:
    """Return a profile as this host decodes it: itself, or where it is too large its fallback.

    Raises:
        Misconfigured: neither fits.
    """
    free = free_bytes(settings)
    needed = needed_bytes(profile.decode, settings)
    if needed <= free:
        return profile
    smaller = profile.smaller
    if smaller is not None and needed_bytes(smaller.decode, settings) <= free:
        return smaller
    raise Misconfigured(
        ErrorCode.MEMORY_SHORT,
        f"model {profile.decode.model}",
        f"it takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free on {settings.device}",
        "Make room, choose a smaller model, or name one as the profile's fallback.",
    )


def needed_bytes(wanted: Recognition, settings: Settings) -> int:
    """Return how many bytes a recognizer takes at least; 0 where its files are not here."""
    directory = settings.models / wanted.model
    paths = [directory / name for name in wanted.model_files.files]
    size = sum(path.stat().st_size for path in paths if path.is_file())
    if wanted.engine == "whisper":
        return int(size * _WHISPER_COPIES[wanted.precision])
    return int(size * _COPIES[wanted.engine, settings.device.partition(":")[0]])


def free_bytes(settings: Settings) -> int:
    """Return how many bytes are free on the device that decodes here."""
    if settings.device.startswith("cuda"):
        return device_memory(settings.device).figures().free
    return min(_available_bytes(), _left_bytes(_GROUPS / _own_group()))


def _available_bytes() -> int:
    """Return what the kernel could give to a new process without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _UNKNOWN
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * found[0] if found else _UNKNOWN


def _own_group() -> str:
    """Return the name of this process' control group (version 2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    found = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    return found[0] if found else ""


def _left_bytes(group: Path) -> int:
    """Return what a control group's limit leaves; what its files' pages hold can be had back."""
    try:
        limit, current = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        pages = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return _UNKNOWN
    if limit.strip() == "max":
        return _UNKNOWN
    cached = sum(int(line.split()[1]) for line in pages if line.startswith("inactive_file "))
    return int(limit) - int(current) + cached


#: More than any host has: what is not told does not keep a model out.
_UNKNOWN = 1 << 62
