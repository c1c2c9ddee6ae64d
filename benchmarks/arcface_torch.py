"""InsightFace's arcface_torch scripts, unmodified, run through the launcher on small data in the real formats.

    git clone --depth 1 https://github.com/deepinsight/insightface
    pip install 'facezoo[arcface-torch,insightface]'
    python benchmarks/arcface_torch.py --checkout insightface          writes results/arcface_torch.json

The faces are varied copies of the six in the sample photo that the insightface package ships: enough to show that everything
runs and that both sides compute the same, not enough to say how well a model recognises. Exit status 1 when a check fails or
when anything in the checkout has changed.

Needs: insightface (a checkout)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from command_line import command_line

ROOT = Path(__file__).parents[1]
COPIES, BATCH, PAIRS = 16, 16, 60
TINY = '''from plugins.backbones.fdfacenet import FDFaceNet
from plugins.registry import register_backbone


@register_backbone
def tiny_face(**options):
    """FDFaceNet at an eighth of its width."""
    return FDFaceNet(width=0.125, **options)
'''


@dataclass
class Bench:
    """The place of work, and what has been found so far."""

    work: Path
    checkout: Path
    report: dict = field(default_factory=dict)

    def run(self, *arguments: str, processes: int = 0) -> tuple[int, str, float]:
        """The launcher (or ``facezoo``) in the work folder: exit status, all output, seconds."""
        start = [sys.executable, '-m']
        if processes:
            start += ['torch.distributed.run', '--nproc_per_node', str(processes), '--master_port', '29517', '-m']
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'ARCFACE_TORCH': str(self.checkout), 'OMP_NUM_THREADS': '1',
                       'FACEZOO_PLUGINS': str(self.work / 'tiny_face.py'), 'XDG_CONFIG_HOME': str(self.work)}
        began = time.perf_counter()
        done = subprocess.run([*start, *arguments], cwd=self.work, env=environment, text=True, timeout=1800,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout, round(time.perf_counter() - began, 1)

    def launch(self, *arguments: str, processes: int = 0) -> tuple[int, str, float]:
        return self.run('plugins.arcface_torch', *arguments, processes=processes)

    def facezoo(self, *arguments: str) -> dict:
        """A command with ``--json``: what it answers."""
        status, text, _ = self.run('zoo.cli', *arguments, '--json')
        if status:
            raise RuntimeError(f'facezoo {" ".join(arguments)}:\n{text}')
        return json.loads(text[text.index('\n{') if not text.startswith('{') else 0:])

    def note(self, name: str, passed: bool, output: str, **found) -> None:
        self.report[name] = {'passed': bool(passed), **found}
        print(f'{"ok    " if passed else "FAILED"} {name} {found}', flush=True)
        if not passed:
            print(output[-4000:], flush=True)


# --- data

def variants() -> list[np.ndarray]:
    """Six persons, ``COPIES`` shifted, mirrored, brighter and darker copies each: uint8 RGB ``(COPIES, 112, 112, 3)``."""
    import cv2

    from zoo.pipeline.sample import sample_crops
    rng = np.random.default_rng(0)
    persons = []
    for crop in sample_crops():
        copies = []
        for number in range(COPIES):
            shift = np.float32([[1, 0, rng.uniform(-4, 4)], [0, 1, rng.uniform(-4, 4)]])
            image = np.ascontiguousarray(crop[:, ::-1] if number % 2 else crop)
            image = cv2.warpAffine(image, shift, (112, 112), borderMode=cv2.BORDER_REPLICATE)
            copies.append(np.clip(image * rng.uniform(0.8, 1.2), 0, 255).astype(np.uint8))
        persons.append(np.stack(copies))
    return persons


def write_data(work: Path) -> None:
    """``folder/`` (ImageFolder), ``rec/`` (train.rec, lfw.bin), ``broken/`` (one image damaged), ``ijb/``, ``tiny_face.py``."""
    import cv2

    from plugins.data.pack import draw_pairs, gather, pack_records, pack_verification
    from plugins.data.sources import TreeFaces
    (work / 'tiny_face.py').write_text(TINY)
    for person, copies in enumerate(variants()):
        for number, image in enumerate(copies):
            path = work / 'folder' / f'person{person}' / f'{number:02d}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image[..., ::-1])
    faces = gather([TreeFaces(work / 'folder')])
    for name in ('rec', 'broken'):
        pack_records(work / name, faces)
    pack_verification(work / 'rec' / 'lfw.bin', draw_pairs(faces, PAIRS, seed=1))
    _damage(work / 'broken')
    write_ijb(work / 'ijb', work / 'folder')


def _damage(folder: Path) -> None:
    """Overwrite the beginning of one image."""
    from plugins.data.recordio import RecordReader, unpack
    _, image = unpack(RecordReader(folder / 'train.rec', folder / 'train.idx').read(40))
    data = (folder / 'train.rec').read_bytes()
    (folder / 'train.rec').write_bytes(data.replace(image, b'\0' * len(image)))


def write_ijb(root: Path, faces: Path) -> None:
    """A tree in the layout of IJB-C: the copies are images of templates of 1 to 3 media, with landmarks slightly off."""
    import cv2

    from zoo.jetson.align import template
    rng = np.random.default_rng(2)
    (root / 'loose_crop').mkdir(parents=True)
    (root / 'meta').mkdir()
    lines, members, owner = [], [], {}
    for number, path in enumerate(sorted(faces.rglob('*.jpg'))):
        image = cv2.copyMakeBorder(cv2.imread(str(path)), 20, 20, 20, 20, cv2.BORDER_REPLICATE)
        name, tid = f'{number + 1}.jpg', number // 4 + 1
        owner[tid] = path.parent.name
        cv2.imwrite(str(root / 'loose_crop' / name), image)
        points = template(112) + 20 + rng.normal(0, 1, (5, 2))
        lines.append(f'{name} {" ".join(f"{v:.3f}" for v in points.ravel())} {rng.uniform(0.6, 1):.4f}')
        members.append(f'{name} {tid} {tid * 10 + int(rng.integers(3))}')
    pairs = [(a, b, int(owner[a] == owner[b])) for a in owner for b in owner if a < b]
    for name, content in (('name_5pts_score', lines), ('face_tid_mid', members),
                          ('template_pair_label', [f'{a} {b} {same}' for a, b, same in pairs])):
        (root / 'meta' / f'ijbc_{name}.txt').write_text('\n'.join(content) + '\n')


# --- the scripts

def settings(bench: Bench, rec: str = 'rec', **changes) -> list[str]:
    images = 6 * COPIES
    steps = images // BATCH
    values = {'rec': str(bench.work / rec), 'num_classes': 6, 'num_image': images, 'num_epoch': 2, 'batch_size': BATCH,
              'frequent': 1, 'verbose': 2 * steps, 'val_targets': ['lfw'], 'num_workers': 1, **changes}
    return [word for key, value in values.items() for word in ('--set', f'{key}={value}')]


def logged(text: str) -> dict:
    """Last step, last loss and last verification that InsightFace's log shows."""
    steps = [int(n) for n in re.findall(r'Global Step: (\d+)', text)]
    losses = [float(x) for x in re.findall(r'Loss (-?[\d.]+|nan)', text)]
    accuracies = [float(x) for x in re.findall(r'Accuracy-Flip: ([\d.]+)', text)]
    norms = [float(x) for x in re.findall(r'XNorm: ([\d.]+)', text)]
    return {'first_step': steps[0] if steps else None, 'last_step': steps[-1] if steps else None,
            'last_loss': losses[-1] if losses else None, 'accuracy': accuracies[-1] if accuracies else None,
            'xnorm': norms[-1] if norms else None}


def train(bench: Bench) -> None:
    """A shipped recipe as it is but for its data; the last verification is on the weights that are saved."""
    recipe = 'configs/fdfacenet_ms1mv3'
    common = ['train_v2.py', recipe]
    status, text, seconds = bench.launch(*settings(bench, save_all_states=True), *common)
    found = logged(text)
    weights = bench.work / 'work_dirs' / 'fdfacenet_ms1mv3' / 'model.pt'
    bench.note('single process, fdfacenet_ms1mv3', status == 0 and found['last_step'] == 12 and weights.is_file()
               and found['accuracy'] is not None, text, seconds=seconds, shims=_shims(text), **found)
    bench.note('verification callback on this SciPy', found['accuracy'] is not None, text, accuracy=found['accuracy'])
    ours = bench.facezoo('eval', str(weights), '--network', 'fdfacenet', '--set', str(bench.work / 'rec' / 'lfw.bin'))
    same = abs(ours['accuracy'] - found['accuracy']) < 1e-5 and abs(ours['xnorm'] - found['xnorm']) < 1e-3
    bench.note("the same weights in facezoo's evaluator", same, str(ours),
               insightface=[found['accuracy'], found['xnorm']], facezoo=[round(ours['accuracy'], 5), round(ours['xnorm'], 6)])
    status, text, seconds = bench.launch(*settings(bench, num_epoch=3, resume=True), *common)
    found = logged(text)
    bench.note('resume', status == 0 and found['first_step'] > 12 and found['last_step'] == 18, text, seconds=seconds, **found)


def _shims(text: str) -> list[str]:
    return re.findall(r'^  ([a-z0-9-]+) {2,}', text, re.MULTILINE)


def train_variants(bench: Bench) -> None:
    """The other ways to train, with a network of the user's own (FACEZOO_PLUGINS) at an eighth of the width."""
    ways = {'PartialFC 0.5': {'sample_rate': 0.5}, 'ImageFolder': {'rec': 'folder', 'val_targets': []},
            'two processes (torchrun)': {}}
    for name, changes in ways.items():
        processes = 2 if 'torchrun' in name else 0
        status, text, seconds = bench.launch(*settings(bench, network='tiny_face', output=str(bench.work / 'out'), **changes),
                                             'train_v2.py', 'configs/fdfacenet_ms1mv3', processes=processes)
        found = logged(text)
        steps = 2 * (6 * COPIES // (BATCH * max(1, processes)))
        bench.note(name, status == 0 and found['last_step'] == steps and np.isfinite(found['last_loss']), text,
                   seconds=seconds, **found)
    status, text, seconds = bench.launch(*settings(bench, 'broken', network='tiny_face', output=str(bench.work / 'out')),
                                         'train_v2.py', 'configs/fdfacenet_ms1mv3')
    said = next((line.strip().replace(f'{bench.work}/', '') for line in text.splitlines() if 'record 40' in line), None)
    bench.note('a broken image ends the training', status != 0 and 'record 40' in text and seconds < 600, text,
               seconds=seconds, said=said)


def ijb(bench: Bench) -> None:
    """eval_ijbc.py and onnx_ijbc.py against ``facezoo ijb`` on the same tree."""
    weights, tree = bench.work / 'work_dirs' / 'fdfacenet_ms1mv3' / 'model.pt', str(bench.work / 'ijb')
    status, text, seconds = bench.launch('eval_ijbc.py', '--model-prefix', str(weights), '--image-path', tree,
                                         '--result-dir', str(bench.work), '--network', 'fdfacenet', '--batch-size', '16')
    _compare_ijb(bench, 'eval_ijbc.py', status, text, seconds, bench.work / 'insightface' / 'ijbc.npy',
                 str(weights), '--network', 'fdfacenet')
    folder = bench.work / 'onnx'
    folder.mkdir()
    status, text, _ = bench.launch('torch2onnx.py', str(weights), '--output', str(folder / 'model.onnx'),
                                   '--network', 'fdfacenet')
    bench.note('torch2onnx.py', status == 0 and (folder / 'model.onnx').is_file(), text)
    status, text, seconds = bench.launch('onnx_ijbc.py', '--model-root', str(folder), '--image-path', tree)
    _compare_ijb(bench, 'onnx_ijbc.py', status, text, seconds, folder / 'IJBC_result' / 'IJBC.npy', str(folder / 'model.onnx'))


def _compare_ijb(bench: Bench, name: str, status: int, text: str, seconds: float, scores: Path, *model: str) -> None:
    """InsightFace's table and scores against ours."""
    row = next((line for line in text.splitlines() if re.match(r'\|.*ijbc', line, re.IGNORECASE)), '')
    theirs = [float(x) for x in re.findall(r'\| *(\d+\.\d\d) ', row)]
    ours = bench.facezoo('ijb', *model, '--root', str(bench.work / 'ijb'), '--scores', str(bench.work / 'ours.npy'))
    tar = [round(100 * value, 2) for key, value in ours.items() if key.startswith('tar@')]
    found: dict = {'seconds': seconds, 'insightface': theirs, 'facezoo': tar}
    if scores.is_file():
        found['largest_score_difference'] = float(np.abs(np.load(scores) - np.load(bench.work / 'ours.npy')).max())
        found['spread_of_scores'] = float(np.ptp(np.load(scores)))
    close = found.get('largest_score_difference', 1.0) < 1e-3 < found.get('spread_of_scores', 0.0)
    bench.note(name, status == 0 and theirs == tar and close, text, **found)


def small_scripts(bench: Bench) -> None:
    weights = str(bench.work / 'work_dirs' / 'fdfacenet_ms1mv3' / 'model.pt')
    status, text, _ = bench.launch('inference.py', '--network', 'fdfacenet', '--weight', weights)
    numbers = re.findall(r'-?\d+\.\d+(?:e-?\d+)?', text[text.find('[['):])
    bench.note('inference.py', status == 0 and len(numbers) == 512, text, numbers=len(numbers))
    status, text, _ = bench.launch('flops.py', 'fdfacenet')
    found = {unit: float(value) for value, unit in re.findall(r'^([\d.]+) (GFLOPs|Mparams)$', text, re.MULTILINE)}
    bench.note('flops.py', status == 0 and len(found) == 2, text, **found)


# --- the report

def fingerprint(folder: Path) -> str:
    """Of all names and contents below a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob('*') if path.is_file() and '.git' not in path.parts):
        digest.update(f'{path.relative_to(folder)}\0'.encode() + path.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    import importlib.metadata
    import platform
    names = ('torch', 'torchvision', 'numpy', 'scipy', 'scikit-learn', 'onnx', 'onnxruntime', 'insightface')
    found = {name: importlib.metadata.version(name) for name in names}
    return {'python': platform.python_version(), **found, 'machine': f'{platform.machine()}, {os.cpu_count()} cores, no GPU'}


def write_report(bench: Bench, finished: bool) -> None:
    """After every step, so that a run that was cut short says how far it came."""
    from plugins.arcface_torch.checkout import COMMIT
    report = {'command': command_line(__doc__), 'date': time.strftime('%Y-%m-%d'),
              'finished': finished, 'arcface_torch': f'deepinsight/insightface {COMMIT}', 'versions': versions(),
              'data': f'6 persons of a sample photo, {COPIES} varied copies each; {PAIRS} pairs; says nothing about accuracy',
              'checks': bench.report}
    (ROOT / 'results').mkdir(exist_ok=True)
    (ROOT / 'results' / 'arcface_torch.json').write_text(json.dumps(report, indent=2) + '\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkout', required=True, help='insightface, or its recognition/arcface_torch')
    args = parser.parse_args()
    from plugins.arcface_torch.checkout import locate
    checkout = locate(args.checkout)
    before = fingerprint(checkout)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(Path(work), checkout)
        write_data(bench.work)
        for step in (train, train_variants, ijb, small_scripts):
            try:
                step(bench)
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                bench.note(step.__name__, False, str(error))
            write_report(bench, finished=False)
    bench.note('checkout unchanged, byte for byte', fingerprint(checkout) == before, '', sha256=before)
    write_report(bench, finished=True)
    return 0 if all(check['passed'] for check in bench.report.values()) else 1


if __name__ == '__main__':
    sys.exit(main())
