"""Embedder and detector on NCNN's Python binding."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from plugins.extras import require
from plugins.preprocess import PictureNorm
from zoo.runtime.embedder import read_sidecar, score_of, usable_cores

__all__ = ['NcnnDetector', 'NcnnEmbedder', 'ncnn_net']


class NcnnEmbedder:
    """A recogniser in NCNN's ``.param``/``.bin``; faces are run one by one, as NCNN does.

    Args:
        path: the ``.param`` file, or a folder with one.
        options: of :func:`ncnn_net`, instead of the sidecar's.

    Raises:
        FileNotFoundError: the ``.param`` or the ``.bin`` is missing.
        ValueError: a detector, several ``.param`` files, a sidecar of other files, or NCNN refuses the pair.
        RuntimeError: NCNN cannot run it.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 0, **options) -> None:
        param = _find_param(Path(path))
        self.name = str(path)
        self.sidecar, self.preprocess = read_sidecar(param)
        if 'strides' in self.sidecar:
            raise ValueError(f'{path} is a detector, which embeds no faces; give a recogniser')
        options = {**self.sidecar.get('options', {}), **options}
        self.net = ncnn_net(param, **{**options, 'threads': threads or options.get('threads', 0)})
        self._input, self._output = self.net.input_names()[0], self.net.output_names()[-1]
        size = self.preprocess.input_size
        self.num_features = self(np.zeros((1, size, size, 3), np.uint8)).shape[1]

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        import ncnn
        rows = []
        for image in self.preprocess(faces):
            with self.net.create_extractor() as extractor:
                extractor.input(self._input, ncnn.Mat(image))
                status, output = extractor.extract(self._output)
                if status:
                    raise RuntimeError(f'{self.name}: NCNN returned {status}; the model may not fit its .bin')
                rows.append(np.array(output).reshape(-1))
        return np.stack(rows) if rows else np.empty((0, self.num_features), np.float32)


class NcnnDetector:
    """A detector in NCNN's ``.param``/``.bin`` as :class:`zoo.runtime.detector.DetectorNet`; pictures are run one by one.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as :class:`NcnnEmbedder`; the sidecar of a detector says its strides.
    """

    SIZES = (1, 4, 10)  # numbers an anchor: scores, boxes, landmarks

    def __init__(self, path: str | os.PathLike, threads: int = 0, **options) -> None:
        param = _find_param(Path(path))
        self.name = str(path)
        self.sidecar, _ = read_sidecar(param)
        if 'strides' not in self.sidecar:
            raise ValueError(f'{param}: its .json does not say "strides"; export the detector again with `facezoo export`')
        self.strides, self.preprocess = tuple(self.sidecar['strides']), PictureNorm()
        self.score, self.side = score_of(self.sidecar), None
        self.net = ncnn_net(param, threads=threads, **options)
        self._input, self._outputs = self.net.input_names()[0], self.net.output_names()

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:
        import ncnn
        rows = []
        for image in self.preprocess(pictures):
            with self.net.create_extractor() as extractor:
                extractor.input(self._input, ncnn.Mat(image))
                found = [extractor.extract(name) for name in self._outputs]
                if any(status for status, _ in found):
                    raise RuntimeError(f'{self.name}: NCNN returned {[status for status, _ in found]}')
                maps = [np.array(output) for _, output in found]
            sizes = np.repeat(self.SIZES, len(self.strides))
            rows.append([m.transpose(1, 2, 0).reshape(-1, size) for m, size in zip(maps, sizes, strict=True)])
        return [np.stack(level) for level in zip(*rows, strict=True)]


def ncnn_net(param: Path, threads: int = 0, fp16_storage: bool = False, fp16_arithmetic: bool = False,
             bf16_storage: bool = False, int8: bool = True, packing: bool = True, powersave: int = 0):
    """An ``ncnn.Net`` with explicit numeric options (NCNN's own defaults turn half precision on where the CPU has it).

    Args:
        powersave: 0 all cores, 1 the small ones, 2 the big ones of a big.LITTLE processor.

    Raises:
        FileNotFoundError: the ``.bin`` is missing.
        ValueError: NCNN refuses the pair.
    """
    ncnn = require('ncnn', 'runtime')
    weights = param.with_suffix('.bin')
    if not weights.is_file():
        raise FileNotFoundError(f'{weights}: the weights that belong to {param.name} are missing')
    if powersave:
        ncnn.set_cpu_powersave(powersave)
    net = ncnn.Net()
    net.opt.num_threads = threads or usable_cores()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = fp16_storage
    net.opt.use_fp16_arithmetic = fp16_arithmetic
    net.opt.use_bf16_storage = bf16_storage
    net.opt.use_int8_inference = int8
    net.opt.use_packing_layout = packing
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise ValueError(f'{param}: NCNN cannot load it with {weights.name}')
    return net


def _find_param(path: Path) -> Path:
    if path.is_dir():
        params = sorted(path.glob('*.param'))
        if len(params) != 1:
            raise ValueError(f'{path}: {len(params)} .param files ({[p.name for p in params]}); name the one you want')
        return params[0]
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such NCNN model')
    return path
