"""FunASR's networks through torch.compile, where CALLSCRIBE_COMPILE says so.

Behind a switch: a worker then takes minutes to start, since kernels are written and built for its
device, and what that earns depends on the device (ops/bench/RESULTS.md). Shapes are dynamic from
the beginning; every minibatch has another, and a kernel for each would never end.
"""

from __future__ import annotations

from typing import Any

#: What is a network of layers; predictors and heads are small, and stay as they are.
_PARTS = ("encoder", "decoder")


def compile_parts(model: Any, backend: str = "inductor") -> int:
    """Have a model's large parts compiled, each when it is first called; return how many."""
    parts = [part for name in _PARTS if (part := getattr(model, name, None)) is not None]
    for part in parts:
        part.compile(dynamic=True, backend=backend)
    return len(parts)
