"""What benchmarks/arm.py runs on an emulated board and on this machine alike: facezoo's own NCNN runtime, without torch.

    python benchmarks/arm_worker.py JOB.json OUT.npz
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np


def embed(model: str, faces: str, options: dict) -> dict[str, np.ndarray]:
    """Embeddings of all faces (``embeddings``) and every layer's output on the first (``layer/NAME``)."""
    import ncnn

    from zoo.export.ncnn_model import NcnnModel
    from zoo.runtime import open_embedder
    embedder, images = open_embedder(model, threads=1, **options), np.load(faces)
    found = {'embeddings': embedder(images)}
    image = embedder.preprocess(images[:1])[0]  # a name of its own: ncnn.Mat does not keep the array alive
    with embedder.net.create_extractor() as extractor:
        extractor.set_light_mode(False)  # keeps the blobs in between
        extractor.input(embedder.net.input_names()[0], ncnn.Mat(image))
        for layer in NcnnModel.load(next(Path(model).glob('*.param'))).layers:
            status, output = extractor.extract(layer.outputs[0])
            if status:
                raise RuntimeError(f'{model}: NCNN returned {status} at {layer.name}')
            found[f'layer/{layer.name}'] = np.array(output)
    return found


def depthwise(tensors: str, strides: list[int]) -> dict[str, np.ndarray]:
    """Single 3x3 depthwise layers with padding 1 in FP16 arithmetic: output ``N/packed`` and ``N/plain`` of case N, whose
    input and weights are ``xN`` (C, H, W) and ``wN`` (C, 9) of the file ``tensors``."""
    from zoo.export.ncnn_model import NcnnLayer, NcnnModel
    cases, found = np.load(tensors), {}
    with tempfile.TemporaryDirectory() as folder:
        for number, stride in enumerate(strides):
            x, weight = cases[f'x{number}'], cases[f'w{number}']
            numbers = {0: len(weight), 1: 3, 11: 3, 12: 1, 13: stride, 14: 1, 2: 1, 3: stride, 4: 1, 5: 1, 6: weight.size,
                       7: len(weight)}
            layer = NcnnLayer('ConvolutionDepthWise', 'dw', ['in0'], ['out0'], {k: str(v) for k, v in numbers.items()},
                              {'weight': weight.ravel(), 'bias': np.zeros(len(weight), np.float32)})
            param = Path(folder) / f'{number}.param'
            NcnnModel([NcnnLayer('Input', 'in0', [], ['in0'], {}), layer]).save(param)
            for name, packing in (('packed', True), ('plain', False)):
                found[f'{number}/{name}'] = _run(param, x, packing)
    return found


def _run(param: Path, x: np.ndarray, packing: bool) -> np.ndarray:
    import ncnn

    from zoo.runtime.ncnn import ncnn_net
    net = ncnn_net(param, threads=1, fp16_storage=True, fp16_arithmetic=True, packing=packing)
    with net.create_extractor() as extractor:
        extractor.input('in0', ncnn.Mat(x))
        return np.array(extractor.extract('out0')[1])


JOBS = {'embed': embed, 'depthwise': depthwise}


def main() -> None:
    import ncnn
    job, out = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]
    np.savez(out, **JOBS[job.pop('kind')](**job))
    print(json.dumps({'machine': platform.machine(), 'python': platform.python_version(), 'ncnn': ncnn.__version__,
                      'numpy': np.__version__}))


if __name__ == '__main__':
    main()
