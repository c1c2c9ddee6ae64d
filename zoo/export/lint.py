"""Will a graph work on a target? Asked of the graph alone, before anything is built; every finding says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from zoo.export.graph import Graph, attributes_of
from zoo.export.target import Target

__all__ = ['Finding', 'LintError', 'lint', 'overflowing_nodes', 'require_buildable']

LEVELS = ('error', 'warning', 'note')
HALF_MAX = 65504.0
HALF_SAFE = HALF_MAX / 8  # faces that were not seen may go further than those that were
_QDQ = ('QuantizeLinear', 'DequantizeLinear')
_OTHER_INTEGERS = (np.uint8, np.int16, np.uint16, np.int32)  # than TensorRT's; onnxruntime writes them
_CHANNELS = 32  # INT8 tensor-core kernels want multiples of it (TensorRT#1310)


class LintError(ValueError):
    """A graph cannot be built for a target."""


@dataclass(frozen=True)
class Finding:
    """One thing to know: ``level`` is error (cannot be built), warning (will be slow or inexact) or note."""

    level: str
    where: str
    problem: str
    remedy: str

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        return f'{self.level}: {self.where}: {self.problem}; {self.remedy}'


def lint(graph: Graph, target: Target, absmax: Mapping[str, float] | None = None) -> list[Finding]:
    """All findings, the gravest first.

    Args:
        absmax: largest absolute value of each tensor on real faces (a calibration's), for the FP16 range; without it a note
            says that the range was not looked at.
    """
    checks = (_versions, _operators, _shapes, _integers, _int8, _prelu)
    findings = [finding for check in checks for finding in check(graph, target)]
    findings += _half_range(graph, target, absmax)
    return sorted(findings, key=lambda f: LEVELS.index(f.level))


def require_buildable(findings: list[Finding]) -> None:
    """Refuse a graph that cannot be built.

    Raises:
        LintError: one of the findings is an error; the message has all that are.
    """
    errors = [str(finding) for finding in findings if finding.level == 'error']
    if errors:
        raise LintError('\n'.join(errors))


def overflowing_nodes(graph: Graph, absmax: Mapping[str, float]) -> list[str]:
    """Nodes that make, or read, what may leave FP16's range; they are to stay in FP32."""
    return [node.name for node in graph.nodes if any(absmax.get(name, 0) > HALF_SAFE for name in (*node.input, *node.output))]


def _versions(graph: Graph, target: Target) -> Iterator[Finding]:
    runtime = target.runtime
    for entry in graph.model.opset_import:
        if entry.domain not in ('', 'ai.onnx'):
            yield Finding('error', 'opset', f'operators of the domain {entry.domain!r} are used',
                          'export with standard operators')
        elif entry.version > runtime.opset:
            yield Finding('error', 'opset', f'{entry.version}, {runtime.name} documents up to {runtime.opset}',
                          'export at opset 13, as `facezoo export` does')
    if graph.model.ir_version > runtime.ir_version:
        yield Finding('warning', 'IR version',
                      f'{graph.model.ir_version}, {runtime.name} brings ONNX of IR {runtime.ir_version}',
                      'set ir_version to 7, as `facezoo export` does')


def _operators(graph: Graph, target: Target) -> Iterator[Finding]:
    runtime = target.runtime
    for node in graph.nodes:
        if node.op_type not in runtime.operators:
            remedy = runtime.replacements.get(node.op_type)
            yield Finding('error', _where(node), f'{runtime.name} has no importer for it',
                          f'use {remedy}' if remedy else 'replace it by operators of the list, or leave it to the host')
        elif broken := _broken_restriction(graph, node):
            yield Finding('error', _where(node), f'{runtime.name}: {runtime.restrictions.get(node.op_type, broken)}',
                          f'{broken}; export the model with `facezoo export`, which writes constants and simplifies')


def _broken_restriction(graph: Graph, node) -> str:
    """How a node breaks a restriction that a graph can show, empty when it does not."""
    constants = graph.initializers
    if node.op_type in ('Conv', 'ConvTranspose') and not _is_weight(graph, node.input[1]):
        return 'its weight is computed in the graph'
    if node.op_type in ('Conv', 'ConvTranspose') and any(name and name not in constants for name in node.input[2:]):
        return 'its bias is computed in the graph'
    if node.op_type == 'MaxPool' and len(node.output) > 1:
        return 'its second output is used'
    if node.op_type in ('Squeeze', 'Unsqueeze') and len(node.input) > 1 and node.input[1] not in constants:
        return 'its axes are computed in the graph'
    if node.op_type == 'Slice' and any(name and name not in constants for name in node.input[3:4]):
        return 'its axes are computed in the graph'
    if node.op_type == 'Einsum' and not _plain_product(attributes_of(node)['equation'].decode()):
        return 'its equation has an ellipsis or a diagonal'
    if node.op_type == 'InstanceNormalization' and not set(node.input[1:]) <= set(constants):
        return 'its scale or bias is computed in the graph'
    if node.op_type == 'Resize' and attributes_of(node).get('mode') == b'cubic':
        return 'it interpolates cubically'
    if node.op_type in _QDQ and (
            len(node.input) < 3 or np.any(constants.get(node.input[2], np.ones(1)))):
        return 'its zero point is missing or not 0'
    if node.op_type in _QDQ and constants[node.input[2]].dtype in _OTHER_INTEGERS:
        return f'it rounds to {constants[node.input[2]].dtype}'
    return ''


def _plain_product(equation: str) -> bool:
    terms = equation.replace(' ', '').partition('->')[0].split(',')
    return '.' not in equation and all(len(set(term)) == len(term) for term in terms)


def _is_weight(graph: Graph, name: str) -> bool:
    """Whether a tensor is a constant, or a constant behind Q/DQ nodes, as weights in 8 bits are written."""
    while (node := graph.producers.get(name)) is not None and node.op_type in _QDQ:
        name = node.input[0]
    return name in graph.initializers


def _shapes(graph: Graph, target: Target) -> Iterator[Finding]:
    shape = graph.shapes[graph.input]
    if len(graph.outputs) > 1:  # a detector, built for a range of sizes
        return
    if len(shape) != 4 or None in shape[1:]:
        yield Finding('error', graph.input, f'shape {shape}: only the batch may be dynamic',
                      'export at a fixed image size')
    elif shape[0] is not None:
        yield Finding('warning', graph.input, f'the batch is fixed to {shape[0]}',
                      'export with `facezoo export`, whose batch is dynamic')
    rebuilt = [node for node in graph.nodes if node.op_type == 'Reshape' and node.input[0] in graph.activations
               and node.input[1] in graph.initializers and graph.initializers[node.input[1]].ravel()[:1].tolist() == [1]]
    for node in rebuilt:
        yield Finding('error', _where(node), 'it writes batch size 1 into the shape, so that larger batches fail',
                      'flatten with -1 or keep the batch dimension')


def _integers(graph: Graph, target: Target) -> Iterator[Finding]:
    if target.runtime.kind != 'tensorrt':
        return
    for name, value in graph.initializers.items():
        if value.dtype == np.int64 and value.size and np.abs(value).max() >= 2 ** 31 and not _ends_a_slice(graph, name):
            yield Finding('error', name, f'{np.abs(value).max()} does not fit INT32, to which TensorRT casts INT64',
                          'use a smaller constant')


def _ends_a_slice(graph: Graph, name: str) -> bool:
    """Whether a constant is only the end of slices: the largest INT64 means "to the end", as does what it is cast to."""
    users = graph.consumers.get(name, [])
    return bool(users) and all(node.op_type == 'Slice' and list(node.input).index(name) == 2 for node in users)


def _int8(graph: Graph, target: Target) -> Iterator[Finding]:
    runtime = target.runtime
    for precision, verdict in target.verdicts.items():
        yield Finding('note', precision, verdict, f'export {target.default} and measure before asking for {precision}')
    if runtime.kind != 'tensorrt':
        return
    if 'int8' not in target.native:
        for node in [node for node in graph.nodes if node.op_type in _QDQ][:1]:
            yield Finding('error', _where(node), 'Q/DQ nodes need hardware with 8-bit units (TensorRT#3157)',
                          'check and build the graph without them')
        return
    for layer in graph.layers:
        channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
        odd = [c for c in channels if c % _CHANNELS and c != 3]
        if odd and layer.groups == 1:
            yield Finding('warning', layer.name, f'{odd[0]} channels are no multiple of {_CHANNELS}, so INT8 kernels pad them',
                          'choose a width that gives multiples, or keep this layer in fp16')


def _prelu(graph: Graph, target: Target) -> Iterator[Finding]:
    slopes = [node for node in graph.nodes if node.op_type == 'PRelu']
    for node in slopes:
        rank, wanted = len(graph.shapes[node.input[1]]), len(graph.shapes.get(node.input[0], ()))
        if target.runtime.kind == 'tensorrt' and wanted and rank != wanted:
            yield Finding('warning', _where(node),
                          f'slopes of rank {rank} on a tensor of rank {wanted}: TensorRT adds a Shuffle',
                          'give the slopes the shape (1, C, 1, 1), as `facezoo export` does')
    if slopes:
        yield Finding('note', f'{len(slopes)} PRelu', 'PReLU does not fuse with an 8-bit convolution (TensorRT#2162, NCNN '
                      'alike): between two of them the tensor goes through floating point',
                      'for the fastest INT8 train a ReLU variant (recipe fdfacenet_relu_kd_faces)')


def _half_range(graph: Graph, target: Target, absmax: Mapping[str, float] | None) -> Iterator[Finding]:
    if absmax is None:
        yield Finding('note', 'FP16 range', 'not looked at', 'name faces with --calib to measure it')
        return
    for node in graph.nodes:
        largest = max((absmax.get(name, 0.0) for name in node.output), default=0.0)
        if largest > HALF_SAFE:
            yield Finding('warning', _where(node), f'reaches {largest:.0f} on real faces, FP16 ends at {HALF_MAX:.0f}',
                          'keep this layer in FP32 (bundles do it by themselves), or fine-tune with weight decay')


def _where(node) -> str:
    return f'{node.op_type} {node.name}'
