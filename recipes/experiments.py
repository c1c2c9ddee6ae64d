"""Run studies (many trainings that differ in one thing, one after the other) and report what came out.

  facezoo experiments run fdfacenet_ablation rec=faces --set lfw=lfw.bin --work runs/studies
  facezoo experiments run fdfacenet_ablation rec=faces --run fdfacenet --run nfacenet --seed 4    part of it
  facezoo experiments run rec=faces --set lfw=lfw.bin    all shipped studies, one after the other
  facezoo experiments status
  facezoo experiments report fdfacenet_ablation

A study is a YAML file (recipes/studies/NAME.yaml, or a path) with a recipe, the overrides of each run, and seeds. The results
of finished runs are kept in results/studies/NAME.json, and those runs are not repeated; an interrupted run goes on where it
stopped. KEY=VALUE overrides apply to all runs. If a run diverges, that is reported, the others are still run, and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np

from plugins.extras import require
from plugins.files import locked, write_atomic
from plugins.overrides import parse_overrides
from plugins.registry import suggest
from recipes.config import RecipeError, TrainConfig, load_recipe
from recipes.report import Study, pack_decisions, plot_curves, report
from zoo.commands.options import named_set, number
from zoo.datafile import read_yaml
from zoo.evaluate.embed import Collapsed
from zoo.evaluate.verification import load_verification_set, verify
from zoo.tables import format_table

__all__ = ['list_studies', 'load_study', 'run_study']

STUDIES = Path(__file__).parent / 'studies'


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='VERB')
    for verb, text in (('run', 'run what is missing'), ('status', 'which runs are done'), ('report', 'write the table')):
        sub = verbs.add_parser(verb, help=text)
        words = 'studies, and values for all runs' if verb == 'run' else 'studies'
        sub.add_argument('words', nargs='*', metavar='STUDY' + ', KEY=VALUE' * (verb == 'run'),
                         help=f'{words}; a study is the name of a shipped one, or a .yaml file; none: all shipped ones')
        sub.add_argument('--results', type=Path, default=Path('results/studies'), metavar='FOLDER', help='where results lie')
        if verb == 'report':
            sub.add_argument('--plots', action='store_true', help='draw the loss curves, too: STUDY.png beside the results')
        if verb == 'run':
            sub.add_argument('--set', action='append', default=[], type=named_set, metavar='NAME=SET',
                             help='verification set to measure on')
            sub.add_argument('--run', action='append', default=[], metavar='LABEL', help='only these runs, and their teachers')
            sub.add_argument('--seed', action='append', default=[], type=number(int, 0), metavar='N',
                             help='these seeds instead of those of the study')
            sub.add_argument('--work', type=Path, default=Path('work_dirs/studies'), metavar='FOLDER', help='for the trainings')


def run(args: argparse.Namespace) -> None:
    {'run': _run, 'status': _show_status, 'report': _write_reports}[args.verb](args)


def _run(args: argparse.Namespace) -> None:
    overrides = parse_overrides([word for word in args.words if '=' in word])
    require('torch', 'train')
    failed = []
    for study in _studies([word for word in args.words if '=' not in word]):
        failed += run_study(_part(study, args.run, tuple(args.seed)), args.results, args.work, overrides, dict(args.set))
    if failed:
        raise RuntimeError(f'all runs are done except {"; ".join(failed)}; the reasons are above')


def _show_status(args: argparse.Namespace) -> None:
    for study in _studies(args.words):
        print(f'{study.name}: {study.title}\n{_status(study, _read(study, args.results))}\n')


def _write_reports(args: argparse.Namespace) -> None:
    for study in _studies(args.words):
        rows = _read(study, args.results)
        text = report(study, rows)
        write_atomic(args.results / f'{study.name}.md', text)
        print(text)
        if args.plots:
            plot_curves(study, rows, args.results / f'{study.name}.png')


def _studies(names: list[str]) -> list[Study]:
    """All of them read before the first is worked on; the shipped ones without names."""
    return [load_study(name) for name in names or list_studies()]


def _part(study: Study, labels: list[str], seeds: tuple[int, ...]) -> Study:
    """Some runs of a study, and the runs that teach them; all runs without labels, the study's own seeds without seeds."""
    for label in labels:
        if label not in study.runs:
            raise RecipeError(f'{study.name}: no run {label!r}{suggest(label, study.runs)}')
    wanted = list(labels)
    for label in wanted:  # which grows by the teachers of teachers
        wanted += _teachers(study, label)
    runs = {label: own for label, own in study.runs.items() if not labels or label in wanted}
    return dataclasses.replace(study, runs=runs, seeds=seeds or study.seeds)


def _teachers(study: Study, label: str) -> list[str]:
    """The runs of the study that teach one."""
    teachers = {**study.overrides, **(study.runs[label] or {})}.get('teachers', ())
    return [teacher[1:] for teacher in map(str, teachers) if teacher.startswith('@')]


def _status(study: Study, rows: list[dict]) -> str:
    done = {(row['run'], row['seed']) for row in rows}
    seeds = sorted({*study.seeds, *(seed for _, seed in done)})
    table = [[label, *('done' if (label, seed) in done else '-' for seed in seeds)] for label in study.runs]
    return format_table(['run', *(f'seed {seed}' for seed in seeds)], table)


def list_studies() -> list[str]:
    """Sorted names of the studies that facezoo ships."""
    return sorted(path.stem for path in STUDIES.glob('*.yaml'))


def load_study(name: str) -> Study:
    """A shipped study by name, or a YAML file.

    Raises:
        RecipeError: no such study, no YAML, or a field in it is unknown or missing.
    """
    path = Path(name) if name.endswith('.yaml') else STUDIES / f'{name}.yaml'
    if not path.is_file():
        raise RecipeError(f'unknown study {name!r}{suggest(name, list_studies())}')
    data = read_yaml(path, RecipeError)
    known = {f.name for f in dataclasses.fields(Study)}
    for key in data:
        if key not in known:
            raise RecipeError(f'{path}: unknown field {key!r}{suggest(key, known)}')
    try:
        study = Study(**{'name': path.stem, **{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}})
    except TypeError as error:
        raise RecipeError(f'{path}: {error}') from None
    for label in {label for pair in study.expect for label in pair} - set(study.runs):
        raise RecipeError(f'{path}: expect: no run {label!r}{suggest(label, study.runs)}')
    before = []
    for label in study.runs:
        for teacher in _teachers(study, label):
            if teacher not in before:
                raise RecipeError(f'{path}: {label}: teachers: no run {teacher!r} before it{suggest(teacher, before)}')
        before.append(label)
    return study


def run_study(study: Study, results: Path, work: Path, overrides: dict, sets: dict[str, str]) -> list[str]:
    """Run all runs of all seeds that have no result yet; every result is written as soon as it is there. What another process
    trains is waited for, and not run again. A run that diverges or collapses has no result, nor have those it teaches.

    Args:
        work: checkpoints and weights, in a folder for each run, seed and configuration.
        sets: verification sets by name.

    Returns:
        Which runs failed; why was said on standard error.
    """
    from recipes.trainer.run import Diverged
    for path in sets.values():
        load_verification_set(path)  # a wrong one is said before the long work
    queue, failed = _Queue(study, results, work, overrides, sets), set()
    for seed in study.seeds:
        for label in study.runs:
            if label not in queue.missing(seed):
                continue
            try:
                if lost := next((teacher for teacher in _teachers(study, label) if (teacher, seed) in failed), None):
                    raise Diverged(f'its teacher {lost!r} failed')
                queue.run(label, seed)
            except (Diverged, Collapsed) as error:  # the others of a long queue need not wait for it
                failed.add((label, seed))
                print(f'{study.name}: {label}, seed {seed}: {error}', file=sys.stderr, flush=True)
    return [f'{study.name}: {label}, seed {seed}' for label, seed in sorted(failed)]


@dataclasses.dataclass(frozen=True)
class _Queue:
    """The trainings of a study; see :func:`run_study`."""

    study: Study
    results: Path
    work: Path
    overrides: dict
    sets: dict[str, str]

    def missing(self, seed: int) -> list[str]:
        """Runs without a result, and those that teach one of them and whose training is not in ``work``."""
        done = {(row['run'], row['config']) for row in _read(self.study, self.results) if row['seed'] == seed}
        missing = []
        for label in reversed(self.study.runs):  # a teacher stands before those it teaches
            config = self.config(label, seed)
            teaches = any(label in _teachers(self.study, each) for each in missing)
            if (label, _digest(config)) not in done or (teaches and not Path(config.output, 'checkpoint.pt').is_file()):
                missing.append(label)
        return missing

    def run(self, label: str, seed: int) -> None:
        """Train and measure a run, unless another command does."""
        with locked(self.config(label, seed).output):
            if label in self.missing(seed):
                print(f'{self.study.name}: {label}, seed {seed}', flush=True)
                config = self.config(label, seed)  # the other one may have left a checkpoint to go on from
                self._add({'run': label, 'seed': seed, 'config': _digest(config),
                           **_train_and_measure(config, self.study, self.sets)})

    def config(self, label: str, seed: int) -> TrainConfig:
        """What a run trains. Its folder ends with a digest of all values, so that a changed run does not meet its old
        checkpoint; teachers count by their own digest, not by where they lie."""
        own = {**self.study.overrides, **(self.study.runs[label] or {}), **self.overrides, 'seed': seed}
        if 'teachers' in own:
            own['teachers'] = [self.config(t[1:], seed).output if t.startswith('@') else t for t in own['teachers']]
        config = load_recipe(self.study.recipe, own)
        facts = {**dataclasses.asdict(config), 'teachers': [Path(teacher).name for teacher in config.teachers],
                 'resume': False, 'output': None}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
        output = self.work / self.study.name / f'{label}-{seed}-{digest}'
        return dataclasses.replace(config, output=str(output), resume=(output / 'checkpoint.pt').exists())

    def _add(self, row: dict) -> None:
        file = _file(self.study, self.results)
        with locked(file):  # other seeds may end at the same time
            rows = [old for old in _read(self.study, self.results) if (old['run'], old['seed']) != (row['run'], row['seed'])]
            write_atomic(file, json.dumps([*rows, row], indent=1) + '\n')


def _digest(config: TrainConfig) -> str:
    return config.output.rpartition('-')[2]


def _train_and_measure(config: TrainConfig, study: Study, sets: dict[str, str]) -> dict:
    import zoo
    from recipes.trainer.engine import Trainer
    from zoo.evaluate.lowres import verify_lowres
    began = time.monotonic()
    trainer = Trainer(config)
    results = dict(trainer.fit())
    embedder = zoo.open(Path(config.output) / 'last.safetensors')
    for name, path in sets.items():
        by_factor = verify_lowres(embedder, path) if study.lowres else {1: verify(embedder, path)}
        results[name] = by_factor[1].to_dict()
        if study.lowres:
            results[name]['lowres'] = {f'x{f}': result.accuracy for f, result in by_factor.items()}
        results[name]['decisions'] = {f'x{f}': pack_decisions(result.correct) for f, result in by_factor.items()}
    return {'images': trainer.images, 'precision': trainer.config.precision, 'seconds': round(time.monotonic() - began),
            'curve': _curve(config), 'results': results}


def _curve(config: TrainConfig) -> dict[str, list[float]]:
    """Training losses, means of up to 32 equal stretches, by name; ``epoch`` is where a stretch ends."""
    lines = [json.loads(line) for line in (Path(config.output) / 'log.jsonl').read_text().splitlines()]
    lines = [line for line in lines if 'lr' in line]
    if not lines:
        return {}
    stretches = np.array_split(np.arange(len(lines)), min(32, len(lines)))
    names = [name for name in lines[0] if name not in ('step', 'time', 'epoch', 'lr', 'rate')]
    return {'epoch': [round(lines[part[-1]]['epoch'], 3) for part in stretches],
            **{name: [round(float(np.mean([lines[i][name] for i in part])), 4) for part in stretches] for name in names}}


def _file(study: Study, results: Path) -> Path:
    return results / f'{study.name}.json'


def _read(study: Study, results: Path) -> list[dict]:
    path = _file(study, results)
    return json.loads(path.read_text()) if path.exists() else []
