"""Which leaf modules a network calls, in what order and on what: the base of counting and of BatchNorm folding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ['Call', 'trace_calls']


@dataclass(frozen=True)
class Call:
    """One call of a leaf module.

    Attributes:
        name: of the module in its network.
        input_shape, output_shape: with the batch dimension.
        producer: index of the call that made the input, None for the network's input or a function's result.
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

    def record(name: str):
        def hook(module: nn.Module, inputs: tuple, output) -> None:
            x = inputs[0]
            calls.append(Call(name, module, tuple(x.shape), tuple(output.shape), made_by.get(id(x))))
            made_by[id(output)] = len(calls) - 1
            alive.extend((x, output))
        return hook

    leaves = [(name, m) for name, m in model.named_modules() if not any(m.children())]
    handles = [module.register_forward_hook(record(name)) for name, module in leaves]
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            parameter = next(model.parameters(), torch.zeros(()))
            model(torch.zeros(input_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return calls
