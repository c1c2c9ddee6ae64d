"""Time models on this machine, in turns, so that other load on it does not decide which is faster.

  facezoo bench fdfacenet mobilefacenet --runtimes onnxruntime,ncnn --threads 1,2
  facezoo bench model.onnx ncnn_folder --batch 1,8 --json bench.json     files need no PyTorch
  facezoo bench fdfacenet mobilefacenet shufflefacenet --runtimes ncnn --plots figures/

Models without trained weights are timed untrained: the time does not depend on the weights. The ratio compares each row with
the first one, round by round. The plots against MACs, feature-map output and accuracy show only models of the zoo, at batch 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

from plugins.files import write_atomic
from zoo.bench import Candidate, bench, machine
from zoo.commands.options import number
from zoo.progress import progress_bar
from zoo.tables import format_table

RUNTIMES = ('torch', 'torch-compiled', 'onnxruntime', 'ncnn')


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('models', nargs='+', metavar='MODEL', help='names in the zoo, .onnx files or NCNN folders')
    parser.add_argument('--runtimes', default='onnxruntime,ncnn', metavar='RUNTIME,...',
                        help=f'runtimes for names in the zoo: any of {", ".join(RUNTIMES)}')
    parser.add_argument('--threads', default='1', metavar='N,...', help='threads of the runtime; each number given is timed')
    parser.add_argument('--batch', default='1', metavar='N,...', help='faces per call; each number given is timed')
    parser.add_argument('--rounds', type=number(int, 1), default=10, metavar='N', help='turns that each model takes')
    parser.add_argument('--calls', type=number(int, 1), default=10, metavar='N', help='inferences per turn')
    parser.add_argument('--json', metavar='FILE', help='write the results (in milliseconds) and facts of the machine here')
    parser.add_argument('--plots', type=Path, metavar='DIR', help='draw the times into DIR, alone and against MACs, '
                                                                  'feature-map output and LFW accuracy')


def run(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as work:
        ways = [*itertools.product(_numbers('--batch', args.batch), _numbers('--threads', args.threads))]
        candidates = [Candidate(*file, *way) for file in _files(args, Path(work)) for way in ways]
        with progress_bar(args.rounds * len(candidates), 'turns', 'bench') as bar:
            results = bench(candidates, args.rounds, args.calls, progress=bar.update)
    facts = {'machine': machine(), 'rounds': args.rounds, 'calls': args.calls, 'results': [r.to_dict() for r in results]}
    print(format_table(
        ['model', 'runtime', 'batch', 'threads', 'p50 ms', 'p90 ms', 'p99 ms', 'cpu ms', 'images/s', 'ratio', 'peak MB',
         'model MB'],
        [[r.candidate.label, r.candidate.runtime, r.candidate.batch, r.candidate.threads,
          *(f'{value:.2f}' for value in (r.p50, r.p90, r.p99, r.cpu)), f'{r.images_per_second:.0f}', f'{r.ratio:.2f}',
          f'{r.peak_mb:.0f}', f'{r.model_mb:.1f}'] for r in results]))
    print(f'\n{facts["machine"]["processor"]}, {facts["machine"]["cores"]} cores, load {facts["machine"]["load"]}')
    if args.json:  # behind the table: where a file cannot be written, the times are not lost
        write_atomic(args.json, json.dumps(facts, indent=1) + '\n')
    if args.plots:
        from zoo.bench_plots import draw_bench
        for path in draw_bench(facts, args.plots):
            print(path, file=sys.stderr)


def _files(args: argparse.Namespace, work: Path) -> list[tuple[str, str, str]]:
    """(label, path, runtime) of each model; zoo names are exported to ``work`` for the runtimes that need a file."""
    rows = []
    for model in args.models:
        if kind := _kind(Path(model)):
            rows.append((Path(model).stem, model, kind))
            continue
        for runtime in args.runtimes.split(','):
            if runtime not in RUNTIMES:
                raise ValueError(f'--runtimes {runtime}: must be one of {", ".join(RUNTIMES)}')
            rows.append((model, _export(model, runtime, work), runtime))
    return rows


def _kind(path: Path) -> str | None:
    """The runtime of an existing file or NCNN folder; None for what is to be exported first."""
    from zoo.runtime.embedder import runtime_name
    name = runtime_name(path)
    if not path.exists() or (name == 'torch' and path.is_dir()):
        return None
    return 'onnxruntime' if name == 'onnx' else name


def _export(model: str, runtime: str, work: Path) -> str:
    if runtime.startswith('torch'):
        return model
    target = work / (f'{model}.onnx' if runtime == 'onnxruntime' else f'{model}_ncnn')
    if target.exists():  # named twice, to see how far two of the same are apart
        return str(target)
    from zoo.loading import build_any
    net = build_any(model)
    if not hasattr(net, 'num_features'):
        raise ValueError(f'{model} is a detector, and bench times recognisers; `facezoo eval-detector` and `facezoo watch` '
                         'say how long detectors take')
    if runtime == 'onnxruntime':
        from zoo.export.onnx import export_onnx
        export_onnx(net, target)
        sidecar = target.with_suffix('.json')
    else:
        from zoo.export.ncnn import export_ncnn
        target.mkdir()
        export_ncnn(net, target, model)
        sidecar = target / f'{model}.json'
    sidecar.write_text(json.dumps({'preprocess': net.preprocess.to_dict()}))
    return str(target)


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(',')]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise ValueError(f'{option} {text}: write whole numbers of at least 1, separated by commas')
    return numbers
