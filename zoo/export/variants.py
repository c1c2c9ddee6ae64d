"""What a TensorRT engine of each precision is made from: files for the board, and a graph that computes the same on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from zoo.export.graph import Graph
from zoo.export.half import half_graph, typed_half_graph
from zoo.export.job import Job
from zoo.export.lint import overflowing_nodes
from zoo.export.quantize import SCHEMES, group_of, int8_graph, simulate_int8
from zoo.export.search import Int8Plan
from zoo.jetson.cache import read_cache, write_cache

__all__ = ['FORMS', 'Variant', 'half_variant', 'largest_values']


@dataclass(frozen=True)
class Variant:
    """What an engine of one precision is made from.

    Attributes:
        simulation: ONNX model that computes on a CPU what the engine computes.
        files: the bundle's files that only this precision needs.
        layer_precisions: nodes that must not follow the builder's flags, and what they run in instead.
        plan: of 8 bits.
    """

    simulation: object
    files: dict[str, bytes] = field(default_factory=dict)
    layer_precisions: dict[str, str] = field(default_factory=dict)
    plan: Int8Plan | None = None


def _plain(job: Job, graph: Graph, spec: Mapping) -> Variant:
    return Variant(graph.model)


def half_variant(graph: Graph, absmax: Mapping[str, float], spec: Mapping) -> Variant:
    """16 bits of any graph; what leaves their range stays in 32.

    Args:
        absmax: largest absolute value of each tensor.
        spec: the runtime's entry for the precision. In the form ``half`` the builder is told by flags what to round, in
            ``half_typed`` by the types of a graph of its own, the file ``graph``.
    """
    pinned = overflowing_nodes(graph, absmax)
    simulation = half_graph(graph, pinned)  # of both: onnxruntime computes a typed graph in float32, where nothing overflows
    if spec['form'] == 'half_typed':
        return Variant(simulation, {spec['graph']: typed_half_graph(graph, pinned).SerializeToString()})
    return Variant(simulation, layer_precisions=dict.fromkeys(pinned, 'fp32'))


def _half(job: Job, graph: Graph, spec: Mapping) -> Variant:
    return half_variant(graph, largest_values(job), spec)


def _cache(job: Job, graph: Graph, spec: Mapping) -> Variant:
    plan = job.quantiser.plan('tensorrt')
    kept = {name for layer in graph.layers if layer.name in plan.keep for name in group_of(graph, layer)}
    pinned = overflowing_nodes(graph, largest_values(job))  # the builder may take FP16 for any layer, and does on a TX2
    text = write_cache({name: amax / 127 for name, amax in plan.calibration.amax.items()}, job.target.tensorrt)
    assert len(read_cache(text, version=job.target.tensorrt)) == len(plan.calibration.amax)
    return Variant(simulate_int8(graph, plan.calibration, SCHEMES['tensorrt'], plan.keep),
                   {spec['cache']: text.encode(), 'calibration.json': plan.calibration.to_json().encode()},
                   dict.fromkeys(sorted(kept), 'fp16') | dict.fromkeys(pinned, 'fp32'), plan)


def _qdq(job: Job, graph: Graph, spec: Mapping) -> Variant:
    plan = job.quantiser.plan('qdq')
    model = int8_graph(graph, plan.calibration, plan.keep)
    files = {spec['graph']: model.SerializeToString(), 'calibration_qdq.json': plan.calibration.to_json().encode()}
    return Variant(model, files, plan=plan)


# how a precision is made, by the `form` that the runtime's file names
FORMS: dict[str, Callable[[Job, Graph, Mapping], Variant]] = {
    'plain': _plain, 'half': _half, 'half_typed': _half, 'cache': _cache, 'qdq': _qdq}


def largest_values(job: Job) -> dict[str, float]:
    """Largest value of each tensor on the calibration faces; empty without any."""
    return {name: h.absmax for name, h in job.quantiser.histograms.items()} if job.calib else {}
