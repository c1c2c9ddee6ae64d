"""What a TensorRT engine of each precision is made from: files for the board, and a graph that computes the same on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from zoo.export.calibrate import Calibration
from zoo.export.graph import Graph
from zoo.export.job import Job
from zoo.export.lint import overflowing_nodes
from zoo.export.quantize import SCHEMES, group_of, half_graph, int8_graph, simulate_int8, typed_half_graph
from zoo.export.search import Int8Plan
from zoo.jetson.cache import read_cache, write_cache

__all__ = ['FORMS', 'HALF_FORMS', 'Variant', 'calibration_cache', 'largest_values']


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


def _plain(job: Job, graph: Graph, spec: dict) -> Variant:
    return Variant(graph.model)


def _half(graph: Graph, absmax: dict[str, float], name: str) -> Variant:
    pinned = overflowing_nodes(graph, absmax)
    return Variant(half_graph(graph, pinned), layer_precisions=dict.fromkeys(pinned, 'fp32'))


def _typed_half(graph: Graph, absmax: dict[str, float], name: str) -> Variant:
    pinned = overflowing_nodes(graph, absmax)
    # not the typed graph itself, which onnxruntime computes in float32 on a CPU: nothing would overflow
    return Variant(half_graph(graph, pinned), {name: typed_half_graph(graph, pinned).SerializeToString()})


def _cache(job: Job, graph: Graph, spec: dict) -> Variant:
    plan = job.quantiser.plan('tensorrt')
    kept = {name for layer in graph.layers if layer.name in plan.keep for name in group_of(graph, layer)}
    pinned = overflowing_nodes(graph, largest_values(job))  # the builder may take FP16 for any layer, and does on a TX2
    text = calibration_cache(plan.calibration, job.target.tensorrt)
    return Variant(simulate_int8(graph, plan.calibration, SCHEMES['tensorrt'], plan.keep), {
        spec['cache']: text.encode(), 'calibration.json': plan.calibration.to_json().encode()},
        dict.fromkeys(sorted(kept), 'fp16') | dict.fromkeys(pinned, 'fp32'), plan)


def _qdq(job: Job, graph: Graph, spec: dict) -> Variant:
    plan = job.quantiser.plan('qdq')
    model = int8_graph(graph, plan.calibration, plan.keep)
    files = {spec['graph']: model.SerializeToString(), 'calibration_qdq.json': plan.calibration.to_json().encode()}
    return Variant(model, files, plan=plan)


# 16 bits of any graph: its largest values, and the name of the file that it would go into
HALF_FORMS: dict[str, Callable[[Graph, dict[str, float], str], Variant]] = {'half': _half, 'half_typed': _typed_half}


def _recogniser_half(job: Job, graph: Graph, spec: dict, form: str) -> Variant:
    return HALF_FORMS[form](graph, largest_values(job), spec['graph'])


# how a precision is made, by the `form` that the runtime's file names
FORMS: dict[str, Callable[[Job, Graph, dict], Variant]] = {
    'plain': _plain, 'cache': _cache, 'qdq': _qdq, **{form: partial(_recogniser_half, form=form) for form in HALF_FORMS}}


def calibration_cache(calibration: Calibration, version: str) -> str:
    """TensorRT's cache for a calibration; read back before it is handed out.

    Args:
        version: of TensorRT, ``'8.2.1'``.
    """
    text = write_cache({name: amax / 127 for name, amax in calibration.amax.items()}, version)
    found = read_cache(text, version=version)
    assert len(found) == len(calibration.amax)
    return text


def largest_values(job: Job) -> dict[str, float]:
    """Largest value of each tensor on the calibration faces; empty without any."""
    return {name: h.absmax for name, h in job.quantiser.histograms.items()} if job.calib else {}
