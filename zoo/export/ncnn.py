"""NCNN export: converted by pnnx (which NCNN's authors maintain), then stored in float32, float16 or int8."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from plugins.extras import require
from plugins.files import write_atomic
from zoo.export.graph import Graph
from zoo.export.ncnn_int8 import make_table, quantise_ncnn, write_table
from zoo.export.ncnn_model import NcnnFormatError, NcnnModel
from zoo.export.onnx import to_onnx
from zoo.export.search import Int8Plan, Quantiser
from zoo.runtime.ncnn import ncnn_net

__all__ = ['convert_to_ncnn', 'export_ncnn', 'run_pnnx', 'spare_winograd', 'write_ncnn', 'write_ncnn_int8']

FEATURE_MASK, NO_WINOGRAD = 31, 1 << 6  # ncnn: docs/developer-guide/layer-feat-mask.md
WINOGRAD_TILE, WINOGRAD_TILES = 4, 4  # side of a tile; how many a map must have for Winograd's algorithm to pay


def convert_to_ncnn(graph: Graph, shape: Sequence[int] | None = None) -> NcnnModel:
    """The float32 NCNN model of an ONNX graph.

    Args:
        shape: ``(3, H, W)`` to convert it with, where the graph takes any size.

    Raises:
        NcnnFormatError: pnnx failed (its log is in the message), or wrote what NCNN cannot load.
    """
    require('ncnn', 'ncnn')
    with tempfile.TemporaryDirectory() as work:
        shape = shape or graph.shapes[graph.input][1:]
        param = run_pnnx(graph.model, (1, *shape), Path(work))
        try:
            net = ncnn_net(param)
        except ValueError:  # pnnx writes layers unknown to NCNN without an error, under PyTorch's names: nn.InstanceNorm1d
            kinds = {line.split()[0] for line in param.read_text().splitlines()[2:]}
            unknown = ', '.join(sorted(kind for kind in kinds if '.' in kind)) or 'what pnnx made of it'
            raise NcnnFormatError(f'NCNN has nothing for {unknown}; use other layers, or export to ONNX') from None
        model = NcnnModel.load(param)
        spare_winograd(model, net, shape)
        return model


def spare_winograd(model: NcnnModel, net, shape: Sequence[int]) -> list[str]:
    """Forbid Winograd's algorithm to the convolutions whose maps are too small for it (in place); returns their names.

    NCNN chooses F(4x4, 3x3) for every 3x3 convolution without a stride that has enough channels. That replaces 144
    multiplications a tile by 36, but reads 36 transformed weights instead of 9. With ``t`` tiles it pays only while ``108 t``
    multiplications take longer than ``108`` floats take to come from memory. On a 4x4 map there is one tile, and FDFaceNet's
    last three convolutions, 60 % of its weights, waited for memory: results/ncnn_profile.json.

    Args:
        net: the same model, loaded.
        shape: of the input, ``(3, H, W)``.
    """
    import ncnn
    image, spared = np.zeros(shape, np.float32), []
    with net.create_extractor() as extractor:
        extractor.set_light_mode(False)  # keeps the blobs in between
        extractor.input(net.input_names()[0], ncnn.Mat(image))
        for layer in model.layers:
            if layer.kind == 'Convolution' and (layer.number(1), layer.number(3, 1)) == (3, 1):
                height, width = np.array(extractor.extract(layer.outputs[0])[1]).shape[1:]
                if -(-height // WINOGRAD_TILE) * -(-width // WINOGRAD_TILE) < WINOGRAD_TILES:
                    layer.params[FEATURE_MASK] = str(NO_WINOGRAD)
                    spared.append(layer.name)
    return spared


def run_pnnx(model, shape: Sequence[int], folder: Path) -> Path:
    """Convert an ``onnx.ModelProto`` with an input of ``shape``; returns the ``.param`` in ``folder``, its ``.bin`` beside it.

    Raises:
        NcnnFormatError: pnnx failed; its log is in the message.
    """
    pnnx = require('pnnx', 'ncnn')
    (folder / 'model.onnx').write_bytes(model.SerializeToString())
    run = subprocess.run([pnnx.EXEC_PATH, 'model.onnx', f'inputshape=[{",".join(map(str, shape))}]', 'fp16=0'], cwd=folder,
                         capture_output=True, text=True)
    param = folder / 'model.ncnn.param'
    if run.returncode or not param.exists():
        raise NcnnFormatError(f'pnnx failed ({run.returncode}): {(run.stderr or run.stdout)[-2000:]}')
    return param


def export_ncnn(model: nn.Module, folder: str | os.PathLike, name: str) -> None:
    """Write a backbone as ``folder/name.param`` and ``.bin`` in float32."""
    write_ncnn(Graph(to_onnx(model)), 'fp32', folder, name)


def write_ncnn(graph: Graph, precision: str, folder: str | os.PathLike, name: str) -> None:
    """Write ``folder/name.param`` and ``.bin`` in ``fp32``, ``fp16`` or ``bf16``.

    Args:
        graph: of the model, as :func:`zoo.export.onnx.to_onnx` makes it.
    """
    model = convert_to_ncnn(graph)
    if precision != 'fp32':
        model.to_half()  # for bf16, too, which is a way to compute: NCNN stores no such weights
    model.save(Path(folder) / f'{name}.param')


def write_ncnn_int8(quantiser: Quantiser, folder: str | os.PathLike, name: str) -> Int8Plan:
    """Write ``folder/name.param`` and ``.bin`` in 8 bits, with ``name.table`` and ``name.calibration.json``; returns how."""
    folder, plan = Path(folder), quantiser.plan('ncnn')
    model = convert_to_ncnn(quantiser.graph)
    table = make_table(model, quantiser.graph, plan.calibration, plan.keep)
    quantise_ncnn(model, table).save(folder / f'{name}.param')
    write_atomic(folder / f'{name}.table', write_table(table))
    write_atomic(folder / f'{name}.calibration.json', plan.calibration.to_json())
    return plan
