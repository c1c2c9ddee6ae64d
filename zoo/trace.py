"""Which leaf modules a network calls, in what order and on what: the base of counting and of BatchNorm folding."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ['Call', 'trace_calls']


@dataclass(frozen=True)
class Call:
    """One call of a leaf module.

    Attributes:
        name: of the module in its network.
        input_shape, output_shape: with the batch dimension.
        producer: index of the call that made the input, for this call alone; None for the network's input, a function's
            result, and what is read elsewhere, too, or changed in place.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    producer: int | None


def trace_calls(model: nn.Module, input_shape: tuple[int, ...]) -> list[Call]:
    """Run ``model`` once on zeros of ``input_shape`` (evaluation mode, put back afterwards) and record its leaf calls."""
    calls: list[Call] = []
    made_by: dict[int, int] = {}
    alive: list[Tensor] = []  # keeps identities unique while the trace lasts
    inputs_of: list[int] = []
    reads, before = _Reads(), {}

    def record(name: str):
        def hook(module: nn.Module, inputs: tuple, output) -> None:
            x = inputs[0]
            calls.append(Call(name, module, tuple(x.shape), tuple(output.shape), made_by.get(id(x))))
            inputs_of.append(id(x))
            made_by[id(output)] = len(calls) - 1
            before.setdefault(id(output), reads.times[id(output)])  # by tensors that had the identity before
            alive.extend((x, output))
        return hook

    leaves = [(name, m) for name, m in model.named_modules() if not any(m.children())]
    handles = [module.register_forward_hook(record(name)) for name, module in leaves]
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), reads:
            parameter = next(model.parameters(), torch.zeros(()))
            model(torch.zeros(input_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return [replace(call, producer=None) if call.producer is not None and reads.times[x] - before[x] > 1 else call
            for call, x in zip(calls, inputs_of, strict=True)]


class _Reads(TorchFunctionMode):
    """Counts by identity how many functions make a tensor of a tensor, or change it."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[int] = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # a shape or a type is none
            self.times.update({id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)})
        return result
