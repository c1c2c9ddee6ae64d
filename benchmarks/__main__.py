"""All results, tables and figures: lists which command makes each, its age and what it needs; or makes them again.

    python -m benchmarks --list                                     every result
    python -m benchmarks                                            makes those whose inputs are here, one by one
    python -m benchmarks --only loading --with faces=DIR            one of them, its input named
    python -m benchmarks --only claims,startup

A script registers itself by its docstring, which names the result (results/NAME.json) and shows the commands that make it in an
indented block. A line `Needs: WORD (what it is), WORD (...)` lists the words in these commands that stand for something you
must have first (`Needs: nothing` if there is no such word). Results that a command of facezoo makes without a script are listed
in benchmarks/commands.yaml. Measure speed on a quiet machine. Exit status 1 when a command that was started failed.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from plugins.files import write_atomic
from plugins.registry import suggest
from zoo.tables import format_table

ROOT = Path(__file__).parents[1]
COMMANDS = Path(__file__).with_name('commands.yaml')
MADE = r'\b(?:results|zoo/data)/\w+\.(?:json|csv)'  # how a docstring names a file that its script makes


@dataclass(frozen=True)
class Entry:
    """A file that a command makes.

    Attributes:
        file: relative to the checkout.
        script: what registers it, relative to the checkout.
        steps: command lines, run in the checkout one after the other; none where there is no such way.
        needs: words of the steps that stand for something that has to be had first, with what it is; None: nobody says.
        copy: what the last step makes, when that is not ``file`` itself.
    """

    file: str
    script: str
    steps: tuple[str, ...]
    needs: Mapping[str, str] | None
    copy: str | None = None

    @property
    def name(self) -> str:
        return Path(self.file).stem


def entries() -> list[Entry]:
    """All of them, by the name of the file."""
    listed = [Entry(row['file'], str(COMMANDS.relative_to(ROOT)), tuple(row['steps']), row.get('needs', {}), row.get('copy'))
              for row in yaml.safe_load(COMMANDS.read_text())]
    scripts = sorted(set(COMMANDS.parent.glob('*.py')) - {Path(__file__)})
    return sorted([*listed, *(entry for script in scripts for entry in read_script(script))], key=lambda entry: entry.name)


def read_script(script: Path) -> list[Entry]:
    """What a script's docstring registers; nothing when it names no result and no command of its own."""
    name, doc = f'benchmarks/{script.name}', ast.get_docstring(ast.parse(script.read_text())) or ''
    own, doc = f'python {name}', re.sub(r'\s*\\\n\s*', ' ', doc)
    files = list(dict.fromkeys(re.findall(MADE, doc)))
    lines = [line.strip() for line in doc.splitlines() if line.startswith('  ') and line.strip().startswith((own, 'facezoo '))]
    if not files or not any(line.startswith(own) for line in lines):
        return []
    said = re.search(r'^Needs: (.*?)(?:\n\n|\Z)', doc, re.MULTILINE | re.DOTALL)
    needs = said and dict(re.findall(r'(\S+) \(([^)]*)\)', ' '.join(said[1].split())))
    steps = ()
    if borrowed := re.search(r'^Models: those of (\S+)$', doc, re.MULTILINE):
        other, = read_script(script.with_name(borrowed[1]))
        steps, needs = other.steps[:-1], {**other.needs, **(needs or {})}
    return [Entry(file, name, (*steps, *_steps(lines, file, own)), needs) for file in files]


def _steps(lines: list[str], file: str, own: str) -> list[str]:
    """The lines that lead to ``file``: up to the one that names it, else up to the script's first; none that names another."""
    last = next((i for i, line in enumerate(lines) if file in line),
                next(i for i, line in enumerate(lines) if line.startswith(own)))
    return [re.split(r'\s{3,}|\s+#', line)[0] for i, line in enumerate(lines[:last + 1])
            if i == last or not re.search(MADE, line)]


def date_of(entry: Entry) -> str:
    """When the file was made: what it says itself, else when it was last committed; ``-`` while there is none."""
    path = ROOT / entry.file
    if not path.exists():
        return '-'
    data = json.loads(path.read_text()) if path.suffix == '.json' else {}
    said = data.get('date') or data.get('created') or data.get('machine', {}) if isinstance(data, dict) else {}
    said = said.get('date') if isinstance(said, dict) else said
    if said:
        return said[:10]
    log = subprocess.run(['git', 'log', '-1', '--format=%cs', '--', entry.file], cwd=ROOT, capture_output=True, text=True)
    return log.stdout.strip() or '-'


def missing(entry: Entry, given: Mapping[str, str]) -> list[str]:
    """What has to be had before the entry can be made here, in words."""
    if entry.needs is None:
        return [f'what {entry.script} says: its docstring has no line `Needs:`']
    return [f'{word} ({what})' for word, what in entry.needs.items()
            if word not in given and not (ROOT / word).exists() and not shutil.which(word)]


def make(entry: Entry, given: Mapping[str, str]) -> int:
    """Run the steps; the exit status of the first that fails, else 0, and then the file names its command."""
    for step in entry.steps:
        # not resolve(): an environment's python is a link, and what it points to knows nothing of the environment
        words = [os.path.abspath(given[word]) if word in given else word for word in shlex.split(step)]
        python = {'python': [], 'facezoo': ['-m', 'zoo.cli']}[words[0]]
        print(f'+ {step}', file=sys.stderr, flush=True)
        status = subprocess.run([sys.executable, *python, *words[1:]], cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)})
        if status.returncode:
            return status.returncode
    path = ROOT / entry.file
    if entry.copy:
        shutil.copy(ROOT / entry.copy, path)
    if path.suffix == '.json' and 'command' not in (data := json.loads(path.read_text())):
        write_atomic(path, json.dumps({'command': entry.steps[-1], **data}, indent=1) + '\n')
    return 0


def table(chosen: list[Entry], given: Mapping[str, str]) -> str:
    today, rows = datetime.date.today(), []
    for entry in chosen:
        date, lacks = date_of(entry), missing(entry, given)
        age = f'{(today - datetime.date.fromisoformat(date)).days} days' if date[:1].isdigit() else ''
        rows.append([entry.file, date, age, 'yes' if not lacks and entry.steps else 'no: ' + ', '.join(lacks)])
    return '\n'.join([format_table(['file', 'made', 'age', 'can be made here'], rows), '',
                      *(f'{entry.file}\n  ' + '\n  '.join(entry.steps) for entry in chosen)])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser('python -m benchmarks', description=__doc__.partition('\n')[0],
                                     epilog=__doc__.partition('\n')[2], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--list', action='store_true', help='show files, ages and commands, and make nothing')
    parser.add_argument('--only', metavar='NAME,...', help='these results; all by default')
    parser.add_argument('--with', dest='given', action='append', default=[], metavar='WORD=PATH',
                        help='where something is that a command needs; may be repeated')
    args = parser.parse_args(argv)
    known = {entry.name: entry for entry in entries()}
    names = args.only.split(',') if args.only else list(known)
    for name in names:
        if name not in known:
            parser.error(f'no result is called {name!r}{suggest(name, known)}')
    for item in args.given:
        if '=' not in item:
            parser.error(f'--with {item}: write WORD=PATH')
    chosen, given = [known[name] for name in names], dict(item.split('=', 1) for item in args.given)
    if args.list:
        print(table(chosen, given))
        return 0
    failed = []
    for entry in chosen:
        if lacks := missing(entry, given):
            print(f'{entry.file}: left alone; needs {", ".join(lacks)}', file=sys.stderr)
        elif make(entry, given):
            failed.append(entry.file)
    print(f'failed: {", ".join(failed)}' if failed else 'nothing failed', file=sys.stderr)
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())
