"""NCNN models on the processors of the Raspberry Pi 4 and 5, emulated: do they compute there what they compute here?

Emulation (qemu's user mode, without root or a chroot) shows what is computed, but not how fast. It needs an aarch64 system tree
with Python, and wheels for it:

    apt-get install qemu-user-static debootstrap
    debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 trixie boot
    for deb in boot/var/cache/apt/archives/*.deb; do dpkg-deb -x $deb arm64; done
    pip install --target packages --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 \\
        --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \\
        --python-version 3.13 --implementation cp ncnn==1.0.20261020 numpy pyyaml
    python benchmarks/arm.py --qemu qemu-aarch64-static --system arm64 --packages packages --calib faces.zip

Each model (fdfacenet in fp32, fp16, bf16 and int8 with the board's own options; and in FP16 arithmetic, which these options
leave off) embeds the sample faces through ``zoo.open`` on each processor, and is compared with PyTorch, and with NCNN on this
machine with the same options. On the first face all layers are compared. Two checks show where differences come from:

* the 8-bit depthwise layer is compared with its sum in integers, done here in float64;
* single 3x3 depthwise layers in FP16 arithmetic are compared with the convolution, and with what NCNN's kernel does according
  to its source: convdw3x3s2_pack8_fp16sa_neon loads r14 and r24, the last taps of the second of two columns, through the
  pointer to row 0 (``[%1]`` for ``[%2]`` and ``[%3]``). It handles columns in fours, then in twos: wrong where width % 4 is 2
  or 3.

Writes results/arm.json after every measurement; an interrupted run continues with what is missing.

Needs: qemu-aarch64-static (the emulator), arm64 (the system tree), packages (its wheels), faces.zip (aligned faces)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from command_line import command_line

from plugins.files import write_atomic
from plugins.preprocess import l2_normalise
from zoo.export.ncnn_model import NcnnLayer, NcnnModel
from zoo.export.target import target

ROOT = Path(__file__).parents[1]
RESULT = ROOT / 'results' / 'arm.json'
NAME = 'fdfacenet'
BOARDS = ('raspberrypi-4', 'raspberrypi-5')
PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8')
ARITHMETIC = 'fp16 with fp16_arithmetic'
# channels, side of the input, stride: outputs 28, 14, 7, 14 and 28 wide. 27 is odd: its last taps fall on the padding
DEPTHWISE = ((64, 56, 2), (64, 28, 2), (64, 14, 2), (64, 27, 2), (64, 28, 1))


@dataclass(frozen=True)
class Side:
    """A way to run benchmarks/arm_worker.py: this machine, or a processor under emulation."""

    name: str
    command: tuple[str, ...]
    packages: str = ''

    def run(self, work: Path, **job) -> dict[str, np.ndarray]:
        """What the worker wrote; ``facts`` are its versions."""
        (work / 'job.json').write_text(json.dumps(job))
        began = time.time()
        done = subprocess.run([*self.command, str(ROOT / 'benchmarks' / 'arm_worker.py'), str(work / 'job.json'),
                               str(work / 'out.npz')], text=True, stdout=subprocess.PIPE,
                              env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), self.packages])),
                                   'OMP_NUM_THREADS': '1'})
        if done.returncode:
            raise RuntimeError(f'{self.name}: the worker ended with {done.returncode} on {job}')
        print(f'{self.name}: {job["kind"]} {job.get("model", "")} {time.time() - began:.0f} s', file=sys.stderr, flush=True)
        with np.load(work / 'out.npz') as found:
            return {**found, 'facts': json.loads(done.stdout.splitlines()[-1])}


def write_models(folder: Path, calib: str) -> tuple[np.ndarray, np.ndarray]:
    """Export all precisions below ``folder``; returns faces, uint8 RGB (N, 112, 112, 3), and PyTorch's embeddings (N, D)."""
    import zoo
    from zoo.export.calibrate import calibration_faces
    from zoo.export.graph import Graph
    from zoo.export.job import CALIBRATION_FACES
    from zoo.export.ncnn import write_ncnn, write_ncnn_int8
    from zoo.export.onnx import to_onnx
    from zoo.export.search import Quantiser
    from zoo.pipeline.sample import sample_crops
    from zoo.runtime.torch import TorchEmbedder
    model, faces = zoo.load(NAME), sample_crops()
    graph = Graph(to_onnx(model))
    for precision in PRECISIONS:
        (folder / precision).mkdir(parents=True)
        if precision == 'int8':
            quantiser = Quantiser(graph, calibration_faces(calib, CALIBRATION_FACES, faces.shape[1]), model.preprocess)
            write_ncnn_int8(quantiser, folder / precision, NAME)
        else:
            write_ncnn(graph, precision, folder / precision, NAME)
        (folder / precision / f'{NAME}.json').write_text(json.dumps({'preprocess': model.preprocess.to_dict()}))
    return faces, TorchEmbedder(model, model.preprocess, NAME)(faces)


def compare(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Least cosine and largest difference of embeddings (N, D)."""
    cosines = (l2_normalise(found.astype(np.float64)) * l2_normalise(expected.astype(np.float64))).sum(1)
    return {'min_cosine': round(float(cosines.min()), 8), 'max_abs': _short(np.abs(found - expected).max())}


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what was expected."""
    expected = np.asarray(expected, np.float64).ravel()
    return _short(np.linalg.norm(found.ravel() - expected) / np.linalg.norm(expected))


def _short(value: float) -> float:
    return float(f'{value:.3g}')


def layer_report(found: dict, expected: dict) -> dict[str, dict]:
    """Of each layer's output on the first face, the relative difference (if ``expected``) and how it was stored."""
    return {key.removeprefix('layer/'): {
        **({'to_x86': relative(value, expected[key])} if expected else {}), 'stored': stored(value)}
        for key, value in found.items() if key.startswith('layer/')}


def stored(values: np.ndarray) -> str:
    """The narrowest float that represents all values: tells in what form a blob was kept between layers."""
    if not (values.view(np.uint32) & 0xFFFF).any():
        return 'bf16'
    with np.errstate(over='ignore'):
        return 'fp16' if (values.astype(np.float16) == values).all() else 'fp32'


def integer_depthwise(layer: NcnnLayer, x: np.ndarray) -> np.ndarray:
    """An 8-bit depthwise layer whose kernel covers its whole input (C, K, K): integer sum, scaled in float64, (C,)."""
    scaled = x.reshape(len(x), -1) * layer.arrays['input_scale']
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).clip(-127, 127).astype(np.int64)
    sums = (rounded * layer.arrays['weight'].reshape(rounded.shape)).sum(1)
    scale = layer.arrays['input_scale'].astype(np.float64) * layer.arrays['weight_scales'].astype(np.float64)
    return sums / scale + layer.arrays['bias']


def depthwise_cases() -> dict[str, np.ndarray]:
    """Inputs and weights of DEPTHWISE, in values that FP16 represents."""
    rng, cases = np.random.default_rng(0), {}
    for number, (channels, side, _) in enumerate(DEPTHWISE):
        cases[f'x{number}'] = rng.standard_normal((channels, side, side)).astype(np.float16).astype(np.float32)
        cases[f'w{number}'] = (rng.standard_normal((channels, 9)) / 3).astype(np.float16).astype(np.float32)
    return cases


def depthwise_reference(x: np.ndarray, weight: np.ndarray, stride: int, as_in_source: bool = False) -> np.ndarray:
    """3x3 depthwise convolution with padding 1 of (C, H, W); ``as_in_source``: as the stride-2 kernel's source reads."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    height, width = ((side - 1) // stride + 1 for side in x.shape[1:])
    taps = {(r, c): padded[:, r:r + stride * (height - 1) + 1:stride, c:c + stride * (width - 1) + 1:stride].copy()
            for r in range(3) for c in range(3)}
    if as_in_source and stride == 2 and width % 4 >= 2:
        column = width // 4 * 4 + 1  # the second of the pair that follows the fours
        for row in (1, 2):
            taps[row, 2][:, :, column] = taps[0, 2][:, :, column]
    return sum(weight[:, 3 * r + c, None, None] * tap for (r, c), tap in taps.items())


def depthwise_errors(side: Side, work: Path) -> list[dict]:
    cases = depthwise_cases()
    np.savez(work / 'cases.npz', **cases)
    found, rows = side.run(work, kind='depthwise', tensors=str(work / 'cases.npz'), strides=[c[2] for c in DEPTHWISE]), []
    for number, (channels, extent, stride) in enumerate(DEPTHWISE):
        right, read = (depthwise_reference(cases[f'x{number}'], cases[f'w{number}'], stride, wrong) for wrong in (False, True))
        rows.append({'channels': channels, 'input': extent, 'output': right.shape[2], 'stride': stride,
                     'packed': relative(found[f'{number}/packed'], right), 'plain': relative(found[f'{number}/plain'], right),
                     'packed_to_kernel_as_its_source_reads': relative(found[f'{number}/packed'], read)})
    return rows


def judge(found: dict, expected: np.ndarray, here: dict, int8: NcnnModel) -> dict:
    """One model on one side against PyTorch's embeddings and, on a board, against what this machine found."""
    report = {'ran_on': found['facts'], 'to_torch': compare(found['embeddings'], expected)}
    if here is not found:
        if found['facts']['ncnn'] != here['facts']['ncnn']:
            raise RuntimeError(f'NCNN {found["facts"]["ncnn"]} there, {here["facts"]["ncnn"]} here: install one version')
        report['to_x86'] = compare(found['embeddings'], here['embeddings'])
    report['layers'] = layer_report(found, {} if here is found else here)
    pairs = zip(int8.layers, int8.layers[1:], strict=False)
    errors = {layer.name: relative(found[f'layer/{layer.name}'], integer_depthwise(layer, found[f'layer/{before.name}']))
              for before, layer in pairs if layer.kind == 'ConvolutionDepthWise'}
    return report | ({'depthwise_to_integers': errors} if found['int8'] else {})


class Report:
    """results/arm.json, written after every measurement: an interrupted run goes on where it was.

    What was measured with other weights or versions is dropped.
    """

    def __init__(self, facts: dict) -> None:
        before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        self.data = before if all(before.get(key) == value for key, value in facts.items()) else facts

    def measure(self, side: str, name: str, measurement: Callable[[], dict | list]) -> None:
        entries = self.data.setdefault(side, {})
        if name not in entries:
            entries[name] = measurement()
            self.data['date'] = time.strftime('%Y-%m-%d')
            write_atomic(RESULT, json.dumps(self.data, indent=1) + '\n')
            print(side, name, 'measured', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--qemu', required=True, nargs='+', help='qemu-aarch64-static; further versions repeat one check')
    parser.add_argument('--system', required=True, metavar='DIR', help='aarch64 system tree with Python 3.13')
    parser.add_argument('--packages', required=True, metavar='DIR', help='aarch64 wheels of ncnn, numpy and pyyaml, installed')
    parser.add_argument('--calib', required=True, metavar='FACES', help='aligned faces to calibrate 8 bits on')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_all(Path(folder), args)


def run_all(work: Path, args: argparse.Namespace) -> None:
    """Export, then measure what the report lacks; what tells most comes first."""
    def emulated(board: str, qemu: str) -> Side:
        cpu = target(board).cpu
        return Side(cpu, (qemu, '-cpu', cpu, '-L', args.system, f'{args.system}/usr/bin/python3.13'), args.packages)

    def run(side: Side, name: str) -> dict:
        precision = name.split()[0]
        found = side.run(work, kind='embed', model=str(work / 'models' / precision), faces=str(work / 'faces.npy'),
                         options=options[name])
        return {**found, 'int8': precision == 'int8'}

    faces, expected = write_models(work / 'models', args.calib)
    np.save(work / 'faces.npy', faces)
    unit = l2_normalise(expected)
    spread = float(np.median((unit @ unit.T)[~np.eye(len(unit), dtype=bool)]))
    if spread > 0.9:
        raise SystemExit(f'different faces have a median cosine of {spread:.3f}: agreement would prove nothing')
    variants = target(BOARDS[0]).runtime.variants
    options = {'int8': dict(variants['int8']), 'fp32': dict(variants['fp32']), 'fp16': dict(variants['fp16']),
               ARITHMETIC: {**variants['fp16'], 'fp16_arithmetic': True}, 'bf16': dict(variants['bf16'])}
    int8 = NcnnModel.load(work / 'models' / 'int8' / f'{NAME}.param')
    here = {name: run(Side('x86', (sys.executable,)), name) for name in options}
    report = Report(_facts(faces, spread, options, work / 'models', here['fp32']['facts'], args.qemu[0]))
    last = BOARDS[-1]
    for qemu in args.qemu:
        report.measure('depthwise_3x3_in_fp16_arithmetic', f'{target(last).cpu}, {_version(qemu)}',
                       lambda qemu=qemu: depthwise_errors(emulated(last, qemu), work))
    for name in options:
        report.measure('x86', name, lambda name=name: judge(here[name], expected, here[name], int8))
        for board in BOARDS:
            report.measure(board, name, lambda name=name, board=board: judge(
                run(emulated(board, args.qemu[0]), name), expected, here[name], int8))


def _facts(faces: np.ndarray, spread: float, options: dict, models: Path, versions: dict, qemu: str) -> dict:
    import torch

    from zoo.model_card import card
    return {'command': command_line(__doc__), 'model': NAME, 'weights': card(NAME).weights['default'].sha256,
            'faces': len(faces), 'median_cosine_of_different_faces': round(spread, 4), 'options': options,
            'bytes': {p: sum(f.stat().st_size for f in (models / p).glob(f'{NAME}.[pb]*')) for p in PRECISIONS},
            'versions': {'torch': torch.__version__, 'ncnn': versions['ncnn'], 'qemu': _version(qemu)}}


def _version(qemu: str) -> str:
    return subprocess.run([qemu, '--version'], capture_output=True, text=True, check=True).stdout.splitlines()[0]


if __name__ == '__main__':
    main()
