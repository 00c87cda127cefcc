"""What this host's processor can compute in, as the kernel tells it."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

#: By which processors of Intel, AMD and Arm say that they multiply in bfloat16.
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def has_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Tell whether the processor multiplies in bfloat16; one that does not takes longer in it."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return False
    flags = [line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))]
    return bool(flags) and not _BFLOAT16.isdisjoint(flags[0].split())
