"""Does the engine compute what was exported, how well, and how fast? Builds what is missing.

  python3 verify.py                    the default precision, and the detector if the bundle has one
  python3 verify.py fp16,int8          side by side
  python3 verify.py fp16 --out tx2.json    for `facezoo deploy-report --measured tx2.json`

Compares each engine with what the original model makes of the bundle's own faces or picture; exit status 1 when one differs.
"""

import json
import sys
import time

import numpy as np

from .board import clocks, power_mode
from .bundle import DETECTOR, BundleError, write_atomic
from .detector import agrees, compare
from .recogniser import unit
from .session import Session, make_parser, run_script

__all__ = ['main']

PERCENTILES = (50, 90, 99)


def main(argv=None):
    parser = make_parser(__doc__.split('\n')[0])
    parser.add_argument('precision', nargs='?', default='', help='fp32, fp16, int8, detector, or several with commas')
    parser.add_argument('--seconds', type=float, default=3.0, help='how many seconds to measure each latency for')
    parser.add_argument('--out', help='write the results to this JSON file')
    return run_script(_run, parser.parse_args(argv))


def _run(arguments):
    session = Session(arguments.bundle)
    facts = session.bundle.facts
    samples = _samples(session.bundle)
    report = {'model': facts['model'], 'target': facts['target'], 'board': session.board, 'power_mode': power_mode(),
              'clocks_before': clocks(), 'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()), 'engines': {}}
    sys.stdout.write('%s on %s, TensorRT %s, power mode: %s\n' % (
        facts['model'], session.board['device'], session.board['tensorrt'], report['power_mode'] or 'unknown'))
    failed = False
    for name in session.engines(arguments.precision):
        variant = session.bundle.variant(name)
        if name == DETECTOR:
            detector = session.detector()
            report[DETECTOR] = result = _check_detector(detector, session.bundle, variant, arguments.seconds)
            detector.engine.close()
        else:
            recogniser = session.recogniser(name)
            report['engines'][name] = result = _check(recogniser, samples, variant['accept'], facts['threshold'])
            result['latency_ms'] = _latencies(recogniser.engine, arguments.seconds)
            recogniser.engine.close()
        _print(name, result, variant)
        failed = failed or not result['passed']
    report['clocks_after'] = clocks()
    if arguments.out:
        write_atomic(arguments.out, (json.dumps(_finite(report), indent=1, sort_keys=True) + '\n').encode())
    return int(failed)


def _finite(value):
    """Nested mappings without NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _samples(bundle):
    with np.load(bundle.path('samples.npz'), allow_pickle=False) as arrays:
        samples = {name: arrays[name] for name in arrays.files}
    expected = unit(samples['embeddings'])
    similarity = expected.dot(expected.T)
    if np.median(similarity[~np.eye(len(expected), dtype=bool)]) > 0.9:
        raise BundleError('samples.npz: all faces have nearly the same embedding, so a comparison would prove nothing')
    return samples


def _check(recogniser, samples, accept, threshold):
    """Cosines to the expected embeddings, alone as in a batch, and right decisions on the bundle's pairs at its threshold."""
    found, expected = unit(recogniser(samples['faces'])), unit(samples['embeddings'])
    single = unit(recogniser(samples['faces'][:1]))
    cosines = (found * expected).sum(1)
    result = {'mean_cosine': float(cosines.mean()), 'min_cosine': float(cosines.min()), 'accept_mean_cosine': accept,
              'batch_difference': float(np.abs(single - found[:1]).max()), 'faces': len(found)}
    for name, embeddings in (('accuracy', found), ('expected_accuracy', expected)):
        first, second = (embeddings[samples['pairs'][:, i]] for i in (0, 1))
        accepted = (first * second).sum(1) > threshold
        result[name] = float((accepted == samples['same']).mean())
    result['pairs'] = len(samples['same'])
    result['passed'] = bool(np.isfinite(cosines).all() and cosines.mean() >= accept and (single * found[:1]).sum() >= accept)
    return result


def _check_detector(detector, bundle, variant, seconds):
    """Agreement with the detections that were expected on the bundle's picture, and latency at the common size."""
    with np.load(bundle.path(variant['sample']), allow_pickle=False) as sample:
        result = compare(tuple(sample[key] for key in ('boxes', 'landmarks', 'scores')), detector(sample['picture']))
    result['passed'] = agrees(result, variant['accept'])
    shape = variant['shapes'][1]
    result['latency_ms'] = {'%dx%d, %s copies' % (shape[3], shape[2], 'with' if copies else 'without'):
                            _percentiles(detector.engine.measure(shape, copies, seconds)) for copies in (True, False)}
    return result


def _latencies(engine, seconds):
    return {'batch %d, %s copies' % (batch, 'with' if copies else 'without'):
            _percentiles(engine.measure((batch, *engine.largest[1:]), copies, seconds))
            for batch in sorted({1, engine.largest[0]}) for copies in (True, False)}


def _percentiles(times):
    row = {'p%d' % p: round(float(np.percentile(times, p)), 4) for p in PERCENTILES}
    row['runs'] = len(times)
    return row


def _print(name, result, variant):
    write = sys.stdout.write
    verdict = 'passed' if result['passed'] else 'FAILED: the engine does not compute the exported model'
    write('\n%s: %s\n' % (name, verdict))
    if variant['verdict']:
        write('  %s\n' % variant['verdict'])
    if name == DETECTOR:
        write('  %(found)d of %(faces)d faces found, least overlap of the boxes %(min_iou).3f, largest landmark error '
              '%(landmark_error).3f of the eye distance\n' % result)
    else:
        write('  cosine to the original: mean %(mean_cosine).5f (at least %(accept_mean_cosine).5f), '
              'least %(min_cosine).5f, %(faces)d faces; the first face differs by %(batch_difference).5f when alone\n' % result)
        write('  decisions: %.2f %% right on %d pairs (original: %.2f %%)\n'
              % (100 * result['accuracy'], result['pairs'], 100 * result['expected_accuracy']))
    for what, row in sorted(result['latency_ms'].items()):
        write('  %-24s p50 %8.3f  p90 %8.3f  p99 %8.3f ms (%d runs)\n'
              % (what, row['p50'], row['p90'], row['p99'], row['runs']))
