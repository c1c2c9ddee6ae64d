"""Where NCNN's time goes, layer by layer, and what its options change.

  python benchmarks/ncnn_profile.py --out results/ncnn_profile.json

Needs: nothing

Layers are timed by asking one extractor for one blob after another: each request computes just the next layer, in NCNN's own
packed layout. What is compared is run in turns. ``converted`` is the network as pnnx writes it, ``exported`` as facezoo writes
it (zoo.export.ncnn.spare_winograd).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from command_line import command_line

import zoo
from plugins.files import write_atomic
from plugins.preprocess import Preprocess
from zoo.bench import Candidate, bench, machine
from zoo.export.ncnn import FEATURE_MASK, NO_WINOGRAD, export_ncnn
from zoo.export.ncnn_model import NcnnLayer, NcnnModel
from zoo.loading import build_any
from zoo.pipeline.sample import sample_crops
from zoo.tables import format_table

OPTIONS = {
    'converted': {}, 'no winograd': {'use_winograd_convolution': False},
    'winograd F(2x2) only': {'use_winograd43_convolution': False, 'use_winograd63_convolution': False},
    'no sgemm': {'use_sgemm_convolution': False}, 'no packing': {'use_packing_layout': False},
    'light mode off': {'lightmode': False}, 'bf16 storage': {'use_bf16_storage': True},
    'bf16 storage, no winograd': {'use_bf16_storage': True, 'use_winograd_convolution': False},
    'fp16 storage': {'use_fp16_storage': True},
}
RIVALS = ('shufflefacenet', 'dwfacenet_nogdc', 'mobilefacenet')
SIDES, CHANNELS = (4, 7, 8, 14, 28), ((64, 64), (128, 128), (192, 256), (256, 512))
LARGER_THAN_CACHES = 40 << 20


def load(param: Path, options: Mapping[str, bool] | None = None):
    """An ``ncnn.Net`` in float32 on one thread, with NCNN's options by their own names."""
    import ncnn
    net = ncnn.Net()
    net.opt.num_threads = 1
    plain = dict.fromkeys(('use_fp16_packed', 'use_fp16_storage', 'use_fp16_arithmetic', 'use_bf16_storage'), False)
    for name, value in {**plain, **(options or {})}.items():
        setattr(net.opt, name, value)
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix('.bin'))):
        raise ValueError(f'{param}: NCNN cannot load it')
    return net


def run(net, image: np.ndarray, blobs: list[str]) -> list[float]:
    """Milliseconds that each of ``blobs`` took after the one before it."""
    import ncnn
    times = []
    with net.create_extractor() as extractor:
        extractor.input(net.input_names()[0], ncnn.Mat(image))
        for blob in blobs:
            began = time.perf_counter()
            extractor.extract(blob, 1)  # 1: as it is, not unpacked
            times.append(1000 * (time.perf_counter() - began))
    return times


def output(net, image: np.ndarray) -> np.ndarray:
    """The embedding."""
    import ncnn
    with net.create_extractor() as extractor:
        extractor.input(net.input_names()[0], ncnn.Mat(image))
        return np.array(extractor.extract(net.output_names()[-1])[1]).ravel()


def in_turns(nets: Mapping[str, object], image: np.ndarray, blobs: list[str], rounds: int, calls: int = 4
             ) -> dict[str, np.ndarray]:
    """Times ``(rounds, blobs)`` of each net; in its turn a net runs ``calls`` times and the first one only warms the caches."""
    times = {name: [] for name in nets}
    for _ in range(rounds):
        for name, net in nets.items():
            times[name].append(np.median([run(net, image, blobs) for _ in range(calls)][1:], axis=0))
    return {name: np.array(rows) for name, rows in times.items()}


def layer_table(param: Path, image: np.ndarray, times: np.ndarray) -> list[dict]:
    """A row a layer: milliseconds, MACs, rate and bytes; ``times`` as :func:`in_turns` gives them for all outputs."""
    import ncnn
    model, net, rows = NcnnModel.load(param), load(param, {'lightmode': False}), []
    with net.create_extractor() as extractor:
        extractor.input(net.input_names()[0], ncnn.Mat(image))
        for layer, milliseconds in zip(model.layers, np.median(times, 0), strict=True):
            shape = np.array(extractor.extract(layer.outputs[0])[1]).shape
            weights = layer.arrays.get('weight', np.zeros(0)).size
            macs = weights * int(np.prod(shape[1:])) if layer.kind.startswith('Convolution') else weights
            rows.append({'layer': layer.name, 'kind': layer.kind, 'output': 'x'.join(map(str, shape)),
                         'kernel': layer.number(1) if layer.kind.startswith('Convolution') else None,
                         'stride': layer.number(3, 1) if layer.kind.startswith('Convolution') else None,
                         'ms': round(float(milliseconds), 4), 'macs': macs,
                         'gmacs_per_second': round(macs / milliseconds / 1e6, 1) if macs else None,
                         'feature_map_bytes': 4 * int(np.prod(shape)), 'weight_bytes': 4 * weights})
    return rows


def single_layer(folder: Path, channels: tuple[int, int], mask: int):
    """A net of one 3x3 convolution."""
    into, out = channels
    weight = np.random.default_rng(0).normal(0, 0.05, into * out * 9).astype(np.float32)
    numbers = {0: out, 1: 3, 11: 3, 4: 1, 5: 1, 6: weight.size, FEATURE_MASK: mask}
    layer = NcnnLayer('Convolution', 'conv', ['in0'], ['out0'], {key: str(value) for key, value in numbers.items()},
                      {'weight': weight, 'bias': np.zeros(out, np.float32)})
    param = folder / f'{into}_{out}_{mask}.param'
    NcnnModel([NcnnLayer('Input', 'in0', [], ['in0'], {}), layer]).save(param)
    return load(param)


def winograd_table(rounds: int) -> list[dict]:
    """Time with Winograd over time without it for single convolutions, weights in the caches (warm) and not (cold)."""
    rows, filler = [], np.zeros(LARGER_THAN_CACHES, np.uint8)
    with tempfile.TemporaryDirectory() as work:
        for channels in CHANNELS:
            nets = {mask: single_layer(Path(work), channels, mask) for mask in (0, NO_WINOGRAD)}
            for side in SIDES:
                image = np.random.default_rng(1).normal(0, 1, (channels[0], side, side)).astype(np.float32)
                warm = in_turns(nets, image, ['out0'], rounds)
                cold = {mask: [] for mask in nets}
                for _ in range(rounds):
                    for mask, net in nets.items():
                        filler += 1
                        cold[mask].append(run(net, image, ['out0']))
                ratios = [float(np.median(np.array(times[0]) / np.array(times[NO_WINOGRAD]))) for times in (warm, cold)]
                rows.append({'side': side, 'channels': list(channels), 'tiles': (-(-side // 4)) ** 2,
                             'ratio_warm': round(ratios[0], 2), 'ratio_cold': round(ratios[1], 2),
                             'ms_cold_winograd': round(float(np.median(cold[0])), 3),
                             'ms_cold_without': round(float(np.median(cold[NO_WINOGRAD])), 3)})
    return rows


def write_variants(name: str, folder: Path) -> dict[str, Path]:
    """``exported`` and ``converted`` files of a model."""
    model, params = build_any(name), {}
    for variant in ('exported', 'converted'):
        params[variant] = folder / f'{name}_{variant}' / f'{name}.param'
        params[variant].parent.mkdir()
    export_ncnn(model, params['exported'].parent, name)
    converted = NcnnModel.load(params['exported'])
    for layer in converted.layers:
        layer.params.pop(FEATURE_MASK, None)
    converted.save(params['converted'])
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='fdfacenet')
    parser.add_argument('--rounds', type=int, default=12)
    parser.add_argument('--out', type=Path, default=Path('results/ncnn_profile.json'))
    args = parser.parse_args()
    image = Preprocess()(sample_crops()[:1])[0]
    with tempfile.TemporaryDirectory() as work:
        params = write_variants(args.model, Path(work))
        rivals = {name: write_variants(name, Path(work))['exported'] for name in RIVALS}
        candidates = [Candidate(f'{args.model} ({variant})', str(path.parent), 'ncnn') for variant, path in params.items()]
        candidates += [Candidate(name, str(path.parent), 'ncnn') for name, path in rivals.items()]
        whole = bench(candidates, args.rounds, calls=8)
        blobs = [layer.outputs[0] for layer in NcnnModel.load(params['exported']).layers]
        times = in_turns({variant: load(path) for variant, path in params.items()}, image, blobs, args.rounds)
        tables = {variant: layer_table(path, image, times[variant]) for variant, path in params.items()}
        nets = {name: load(params['converted'], options) for name, options in OPTIONS.items()}
        nets['exported'] = load(params['exported'])
        found = {name: rows[:, 0] for name, rows in in_turns(nets, image, blobs[-1:], args.rounds).items()}
        outputs = {name: output(net, image) for name, net in nets.items()}
    reference = outputs['converted']
    options = {name: {'ms': round(float(np.median(ms)), 3), 'ratio': round(float(np.median(ms / found['converted'])), 3),
                      'cosine': float(outputs[name] @ reference / np.linalg.norm(outputs[name]) / np.linalg.norm(reference))}
               for name, ms in found.items()}
    report = {'command': command_line(__doc__), 'model': args.model, 'rounds': args.rounds,
              'threads': 1, 'weights': zoo.card(args.model).weights['default'].sha256, 'layers': tables,
              'whole': [result.to_dict() for result in whole], 'options': options, 'winograd': winograd_table(args.rounds),
              'machine': machine()}
    write_atomic(args.out, json.dumps(report, indent=1) + '\n')
    for variant, rows in tables.items():
        print(f'{variant}:')
        print(format_table(['layer', 'ms', 'GMAC/s'], [[r['layer'], r['ms'], r['gmacs_per_second'] or ''] for r in rows]))
    print(format_table(['option', *next(iter(options.values()))], [[name, *row.values()] for name, row in options.items()]))
    print(format_table(['model', 'ms', 'MB'], [[r.candidate.label, f'{r.p50:.2f}', f'{r.peak_mb:.0f}'] for r in whole]))


if __name__ == '__main__':
    main()
