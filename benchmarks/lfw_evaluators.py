"""Real LFW through InsightFace's own evaluator, unmodified, and through facezoo's: same weights, same pairs, same numbers.

    python benchmarks/lfw_evaluators.py --checkout insightface --set lfw_112.zip

Writes results/lfw_evaluators.json; exit status 1 when an accuracy differs.

Needs: insightface (a checkout), lfw_112.zip (LFW, aligned)
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from command_line import command_line

import zoo
from plugins.arcface_torch import bridge, checkout
from plugins.data.verification import write_bin
from zoo.evaluate.verification import load_verification_set, verify
from zoo.runtime.torch import TorchEmbedder

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkout', required=True)
    parser.add_argument('--set', required=True, help='folder or zip with pairs.txt')
    parser.add_argument('--model', default='fdfacenet')
    args = parser.parse_args()
    model, data = zoo.load(args.model), load_verification_set(args.set)
    began = time.perf_counter()
    ours = verify(TorchEmbedder(model, model.preprocess), data)
    seconds = [time.perf_counter() - began]
    peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / 'lfw.bin'
        write_bin(path, [data.faces.read(int(i))[0] for i in data.pairs.ravel()], data.same)
        bridge.prepare(checkout.locate(args.checkout), 'train_v2.py')
        from eval import verification
        began = time.perf_counter()
        with torch.no_grad():
            accuracy, deviation, xnorm = _test(verification, path, model)
        seconds.append(time.perf_counter() - began)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    found = {'facezoo': {'accuracy': ours.accuracy, 'std': ours.std, 'xnorm': ours.xnorm},
             'insightface': {'accuracy': float(accuracy), 'std': float(deviation), 'xnorm': float(xnorm)}}
    facts = {'command': command_line(__doc__), 'model': args.model,
             'pairs': len(data.same), 'flip': True, **found, 'seconds': dict(zip(found, seconds, strict=True)),
             'peak_mb_of_the_process_after': dict(zip(found, peaks, strict=True))}
    print(json.dumps(facts, indent=1))
    (ROOT / 'results' / 'lfw_evaluators.json').write_text(json.dumps(facts, indent=1) + '\n')
    return int(abs(ours.accuracy - accuracy) > 1e-9)


def _test(verification, path: Path, model: torch.nn.Module) -> tuple[float, float, float]:
    """Flip-sum accuracy, its deviation and XNorm, as InsightFace's callback computes them."""
    _, _, accuracy, deviation, xnorm, _ = verification.test(verification.load_bin(str(path), (112, 112)), model, 64, 10)
    return accuracy, deviation, xnorm


if __name__ == '__main__':
    sys.exit(main())
