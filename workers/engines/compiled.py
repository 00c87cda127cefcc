"""FunASR's networks through torch.compile, where CALLSCRIBE_COMPILE says so.

Behind a switch: a worker then takes longer to start, since kernels are written and built for its
device, and what that earns depends on the device (ops/bench/RESULTS.md). Layer by layer, since all
of one kind share a kernel where a whole encoder of fifty would be written out at length; and with
lengths that vary, since every minibatch has others.
"""

from __future__ import annotations

from typing import Any

#: Layers of encoders and decoders; what is around them is small, and stays as it is.
_LAYERS = ("EncoderLayerSANM", "DecoderLayerSANM")


def compile_layers(model: Any, backend: str = "inductor") -> int:
    """Have a model's layers compiled, each kind when it is first called; return how many."""
    layers = [layer for layer in model.modules() if type(layer).__name__ in _LAYERS]
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    return len(layers)
