"""NCNN in 8 bits without NCNN's C++ tools: the calibration table, and the quantised model made from it.

The table has ncnn2table's text form (``<layer>_param_0`` and one scale an output channel; ``<layer>`` and the scale of its
input; a scale is levels / largest value), so NCNN's own ncnn2int8 reads it too. The model equals what ncnn2int8 writes:
int8 weights, scales, requantisation between neighbouring convolutions, float16 weights elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from zoo.export.calibrate import Calibration
from zoo.export.graph import Graph
from zoo.export.ncnn_model import NcnnFormatError, NcnnLayer, NcnnModel
from zoo.export.quantize import SCHEMES, ncnn_weight_levels, weight_amax

__all__ = ['Table', 'make_table', 'match_layers', 'quantise_ncnn', 'write_table']

# layer name -> (scales of the weights, float32 one a channel or group; scale of the input)
Table = dict[str, tuple[np.ndarray, float]]


def match_layers(model: NcnnModel, graph: Graph) -> dict[str, str]:
    """Name of each NCNN weight layer to the name of the ONNX layer it came from, told by its weights.

    Raises:
        NcnnFormatError: the converter changed a weight, so that a layer has no origin.
    """
    known: dict[bytes, list[str]] = {}
    for layer in graph.layers:
        known.setdefault(np.ascontiguousarray(layer.weight, np.float32).tobytes(), []).append(layer.name)
    matched = {}
    for layer in model.weight_layers:
        origins = known.get(np.ascontiguousarray(layer.arrays['weight'], np.float32).tobytes())
        if not origins:
            raise NcnnFormatError(f'{layer.name}: its weights match no layer of the ONNX graph, so its range is unknown; '
                                  'export another precision, or report the model')
        matched[layer.name] = origins.pop(0) if len(origins) > 1 else origins[0]
    return matched


def make_table(model: NcnnModel, graph: Graph, calibration: Calibration, keep: Collection[str] = ()) -> Table:
    """Scales of every layer but those in ``keep`` (names of the ONNX graph) and those that NCNN cannot compute in 8 bits.

    Raises:
        CalibrationError, KeyError: as :func:`zoo.export.quantize.simulate_int8`.
        NcnnFormatError: as :func:`match_layers`.
    """
    keep = SCHEMES['ncnn'].kept(graph, keep)
    origins, layers = match_layers(model, graph), {layer.name: layer for layer in graph.layers}
    table = {}
    for layer in model.weight_layers:
        origin = layers[origins[layer.name]]
        if origin.name in keep:
            continue
        scales = ncnn_weight_levels(origin) / weight_amax(layer.arrays['weight'].reshape(layer.rows, -1))
        table[layer.name] = scales, 127 / calibration.range_of(origin.input)
    return table


def write_table(table: Table) -> str:
    """The table as text."""
    weights = [f'{name}_param_0 ' + ' '.join(f'{s:f}' for s in scales) for name, (scales, _) in table.items()]
    return '\n'.join(weights + [f'{name} {scale:f}' for name, (_, scale) in table.items()]) + '\n'


def quantise_ncnn(model: NcnnModel, table: Table) -> NcnnModel:
    """Make the layers of ``table``, which is of this model, int8 and store the other weights as float16 (in place)."""
    layers = [layer for layer in model.weight_layers if layer.name in table]
    for layer in layers:
        _quantise_layer(layer, *table[layer.name])
    for layer in layers:
        _fuse_requantise(model, layer, table)
    return model.to_half()


def _quantise_layer(layer: NcnnLayer, scales: np.ndarray, input_scale: float) -> None:
    scaled = layer.arrays['weight'].astype(np.float32).reshape(layer.rows, -1) * scales[:, None]
    rounded = np.trunc(scaled + np.copysign(0.5, scaled))  # NCNN's C++ rounds halves away from zero
    layer.arrays['weight'] = rounded.clip(-127, 127).astype(np.int8).ravel()
    layer.arrays['weight_scales'] = scales.astype(np.float32)
    layer.arrays['input_scale'] = np.float32([input_scale])
    layer.params[8] = '1' if layer.kind == 'ConvolutionDepthWise' else '2'


def _fuse_requantise(model: NcnnModel, layer: NcnnLayer, table: Table) -> None:
    """Let a convolution hand int8 to the convolutions that alone read it (directly or through a Split)."""
    if layer.kind == 'InnerProduct':
        return
    readers = model.consumers(layer.outputs[0])
    if len(readers) == 1 and readers[0].kind == 'Split':
        readers = [r for blob in readers[0].outputs for r in model.consumers(blob)]
    if readers and all(r.name in table and r.kind.startswith('Convolution') for r in readers):
        layer.params[8] = str(layer.number(8) + 100)
        layer.arrays['output_scale'] = np.float32([table[readers[0].name][1]])
