"""NCNN export through pnnx (the converter that NCNN's authors maintain)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from torch import nn

from plugins.extras import require
from plugins.files import atomic_path
from zoo.export.onnx import export_onnx

__all__ = ['export_ncnn']


def export_ncnn(model: nn.Module, folder: str | os.PathLike, name: str) -> None:
    """Write ``folder/name.param`` and ``folder/name.bin`` with float32 weights.

    Raises:
        RuntimeError: pnnx failed (its log is in the message), or wrote what NCNN cannot load.
    """
    pnnx = require('pnnx', 'ncnn')
    require('ncnn', 'ncnn')
    height, width = model.input_size
    with tempfile.TemporaryDirectory() as work:
        onnx_path = Path(work) / 'model.onnx'
        export_onnx(model, onnx_path)
        run = subprocess.run([pnnx.EXEC_PATH, onnx_path.name, f'inputshape=[1,3,{height},{width}]', 'fp16=0'],
                             cwd=work, capture_output=True, text=True)
        param, weights = Path(work) / 'model.ncnn.param', Path(work) / 'model.ncnn.bin'
        if run.returncode or not param.exists():
            raise RuntimeError(f'pnnx failed ({run.returncode}): {(run.stderr or run.stdout)[-2000:]}')
        for source, suffix in ((param, '.param'), (weights, '.bin')):
            with atomic_path(Path(folder) / f'{name}{suffix}') as temporary:
                temporary.write_bytes(source.read_bytes())
    from zoo.runtime.ncnn import ncnn_net
    ncnn_net(Path(folder) / f'{name}.param')  # pnnx writes layers unknown to NCNN without an error
