"""The two texts of a TensorRT bundle that a person reads: ``build.sh`` and ``README.md``, from templates and data."""

from __future__ import annotations

import shlex
from pathlib import Path
from string import Template

from zoo.export.gates import Judge
from zoo.export.target import Target
from zoo.jetson.bundle import DETECTOR

__all__ = ['build_script', 'bundle_readme']

TEMPLATES = Path(__file__).parent / 'templates'


def build_script(facts: dict, target: Target) -> str:
    """``build.sh``: trtexec with the options that the target's TensorRT version has.

    Args:
        facts: ``bundle.json``.
    """
    trtexec = target.runtime.trtexec
    return _fill('build.sh', {
        **_common(facts, target),
        'cases': '\n'.join(_case(name, variant, trtexec) for name, variant in facts['variants'].items()),
        'workspace': trtexec['workspace'].format(mb=target.workspace_mb), 'build_only': trtexec['build_only'],
        'measure': ' '.join(trtexec['measure']), 'with_copies': ' '.join(trtexec['copies']['with']),
        'without_copies': ' '.join(trtexec['copies']['without'])})


def _case(name: str, variant: dict, trtexec) -> str:
    """The arm of the shell's ``case`` that sets trtexec's arguments for an engine, and the shapes that it is timed at. Names of
    a graph, which may be a stranger's detector, are quoted, lest the board run them."""
    shapes = [f'{variant["input"]}:{"x".join(map(str, shape))}' for shape in variant['shapes']]
    timed = shapes[1:2] if name == DETECTOR else shapes[1:]
    lines = [f'  {name})', f'    shapes={shlex.quote(" ".join(dict.fromkeys(timed)))}']
    if variant['verdict']:
        lines.append(f'    echo "{name}: {variant["verdict"]}"')
    kept = variant['layer_precisions']
    if kept and not trtexec.get('keep'):
        lines.append(f'    # {len(kept)} nodes need a precision of their own, which this trtexec cannot be told')
        return '\n'.join([*lines, f'    exec python3 build_engine.py {name} ;;'])
    options = [f'--onnx={variant["graph"]}', *(f'--{flag.lower()}' for flag in variant['flags']),
               *(shlex.quote(f'--{end}Shapes={shape}') for end, shape in zip(('min', 'opt', 'max'), shapes, strict=True))]
    if variant.get('cache'):
        # an unfinished cache would leave layers out, a missing one would be replaced by noise without a word
        lines += [f'    cache=$(python3 build_engine.py {name} --cache-only)', '    [ -s "$cache" ] || exit 1']
        options.append('--calib="$cache"')
    if kept:
        layers = ','.join(f'{node}:{kind}' for node, kind in kept.items())
        options += [shlex.quote(option.format(layers=layers)) for option in trtexec['keep']]
    return '\n'.join([*lines, f'    set -- {" ".join(options)} ;;'])


def bundle_readme(facts: dict, target: Target, reports: dict, judge: Judge, licence: str) -> str:
    """``README.md`` of a bundle.

    Args:
        facts: ``bundle.json``; reports: the gates' report by precision.
    """
    rows = ['| precision | accuracy | TAR@FAR 1e-3 | least cosine to PyTorch |', '|---|---|---|---|',
            f'| PyTorch FP32 | {_percent(judge.baseline.accuracy)} | {_percent(judge.baseline.tar["1e-3"])} | 1 |']
    for name, report in reports.items():
        found = report['verification']['artefact']
        rows.append(f'| {name} | {_percent(found["accuracy"])} | {_percent(found["tar@1e-3"])} | '
                    f'{report["parity"]["min_cosine"]:.5f} |')
    preprocess, environment = facts['preprocess'], [f'export {key}={value}' for key, value in target.environment.items()]
    return _fill('README.md', {
        **_common(facts, target), 'facezoo': facts['facezoo'], 'system': target.system,
        'python': target.python or '3.6 or newer', 'cuda': f', CUDA {target.cuda}' if target.cuda else '',
        'power': '\n'.join(target.power.get('fastest', ('# full speed',))),
        'environment': ''.join(f'{line}\n' for line in environment), 'gate_set': judge.data.name,
        'pairs': judge.baseline.pairs, 'table': '\n'.join(rows), 'verdicts': _verdicts(facts['variants']),
        'threshold': f'{facts["threshold"]:.3f}', 'threshold_source': facts['threshold_source'],
        'files': '\n'.join(_file_rows(facts)), 'features': facts['num_features'],
        'colour': preprocess['colour'], 'mean': preprocess['mean'], 'std': preprocess['std'],
        'system_commands': _SYSTEM if DETECTOR in facts['variants'] else '', 'detector': _detector_text(facts),
        'notes': '\n'.join(f'- {note}' for note in target.notes) or '- none',
        'licence': licence or 'not stated: research use only'})


_SYSTEM = """python3 recognise.py people a.jpg          # who is in a picture; people/NAME/*.jpg are the persons to know
python3 recognise.py people --camera 0     # who is in front of a camera
"""


def _detector_text(facts: dict) -> str:
    found = facts['variants'].get(DETECTOR)
    if not found:
        return ('There is no detector in this bundle: `run.py` takes aligned faces. Export with `--detector` to have faces '
                'found, too.')
    height, width = found['shapes'][1][2:]
    return (f'The detector takes pictures of any shape, scaled down to {found["shapes"][2][2]} pixels; its engine is tuned for '
            f'{width}x{height} (16:9). The lowest score that counts as a face is {found["score"]:g}. Licence of its weights: '
            f'{found["licence"] or "not stated"}')


def _verdicts(variants: dict) -> str:
    return ''.join(f'\n**{name}: {variant["verdict"]}.**\n' for name, variant in variants.items() if variant['verdict'])


_OPTIONAL = ('model_int8.onnx', 'model_fp16.onnx', 'int8.calib', 'calibration.json', 'calibration_qdq.json', 'detector.onnx',
             'detector.npz')


def _file_rows(facts: dict) -> list[str]:
    known = {
        'model.onnx': 'the network, opset 13, dynamic batch', 'model_int8.onnx': 'the same with Q/DQ pairs: explicit 8 bits',
        'model_fp16.onnx': 'the same in FP16 types', 'int8.calib': 'INT8 scales of every tensor; `build_engine.py` adds those '
        'of tensors that TensorRT makes itself',
        'calibration.json': 'how the scales of `int8.calib` were found, and on which faces (hash)',
        'calibration_qdq.json': 'how the scales in `model_int8.onnx` were found, and on which faces (hash)',
        'samples.npz': 'faces of the gate set, their pairs, and the embeddings that PyTorch gives them',
        'build.sh': 'builds with trtexec',
        'build_engine.py': "builds with TensorRT's Python binding", 'verify.py': 'checks and measures an engine',
        'run.py': 'embeds and compares faces',
        'recognise.py': 'names the faces in pictures or in front of a camera; needs the detector',
        'detector.onnx': "the detector, with InsightFace's outputs",
        'detector.npz': 'a picture, and the faces that the detector finds in it',
        'facezoo_jetson/': 'what the scripts use; import it in your own program',
        'bundle.json': 'everything above as data, with sha256 of the graph, the calibration and the samples'}
    return [f'| `{name}` | {text} |' for name, text in known.items()
            if name in facts['sha256'] or name not in _OPTIONAL]


def _common(facts: dict, target: Target) -> dict:
    return {'model': facts['model'], 'device': target.summary, 'tensorrt': facts['tensorrt'], 'default': facts['default'],
            'choices': ' | '.join(facts['variants']), 'input': facts['input'], 'output': facts['output'],
            'side': facts['preprocess']['input_size'], 'batch': facts['batch']}


def _percent(fraction: float) -> str:
    return f'{100 * fraction:.2f} %'


def _fill(name: str, values: dict) -> str:
    return Template((TEMPLATES / name).read_text()).substitute({key: str(value) for key, value in values.items()})
