"""Every result has one command that makes it, and one command makes them all."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from plugins.files import import_file
from tests.conftest import benchmark
from zoo.cli import COMMANDS, build_parser

ROOT = Path(__file__).parents[1]
runner = import_file(ROOT / 'benchmarks' / '__main__.py')
command_line = benchmark('command_line').command_line
ENTRIES = runner.entries()


def test_every_result_is_claimed_once():
    claimed = Counter(entry.file for entry in ENTRIES)
    for path in sorted((ROOT / 'results').glob('*.json')):
        count = claimed[f'results/{path.name}']
        assert count == 1, (f'results/{path.name} is claimed by {count} entries: name it in the docstring of the script that '
                            'makes it, above the command, or in benchmarks/commands.yaml')
    assert max(claimed.values()) == 1 and len({entry.name for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize('path', sorted((ROOT / 'results').glob('*.json')), ids=lambda path: path.stem)
def test_every_result_names_its_command(path):
    data = json.loads(path.read_text())
    assert 'command' in data, f'make it by `python -m benchmarks --only {path.stem}`, which writes the command into it'
    words = shlex.split(data['command'])
    assert not [word for word in words if re.search(r'(^|=|,)/|\.\.', word)], 'a place of one machine, or something left out'
    script = words[2].replace('.', '/') + '.py' if words[1] == '-m' else words[1]
    assert words[1] in COMMANDS if words[0] == 'facezoo' else (ROOT / script).is_file()


@pytest.mark.parametrize('entry', ENTRIES, ids=lambda entry: entry.name)
def test_entry(entry):
    """Its script exists and its commands are commands."""
    assert (ROOT / entry.script).is_file() and entry.steps
    for step in entry.steps:
        program, *words = shlex.split(step)
        assert program in ('python', 'facezoo'), step
        if program == 'facezoo':
            build_parser(words[0]).parse_args(words)
            assert words[0] in COMMANDS
        else:
            assert (ROOT / words[0]).is_file() or words[0] == '-m', step
    assert runner.missing(entry, dict.fromkeys(entry.needs or (), 'somewhere')) == [] or entry.needs is None


def test_a_docstring_registers(tmp_path):
    script = tmp_path / 'made_up.py'
    script.write_text('"""Made up.\n\n    facezoo data pack people.zip --out faces      first\n'
                      '    python benchmarks/made_up.py --faces faces --size 1          writes results/one.json\n'
                      '    python benchmarks/made_up.py --faces faces --size 2 \\\\\n        --out results/two.json\n\n'
                      'Text.\n\nNeeds: people.zip (faces of people), other (a thing\nof two lines)\n"""\n')
    one, two = runner.read_script(script)
    assert one.steps == ('facezoo data pack people.zip --out faces', 'python benchmarks/made_up.py --faces faces --size 1')
    assert two.steps == (one.steps[0], 'python benchmarks/made_up.py --faces faces --size 2 --out results/two.json')
    assert one.needs == {'people.zip': 'faces of people', 'other': 'a thing of two lines'}
    assert runner.missing(one, {'other': '/here'}) == ['people.zip (faces of people)']
    script.write_text('"""Made up.\n\n    python benchmarks/made_up.py\n\nWrites results/one.json.\n"""\n')
    unsaid, = runner.read_script(script)
    assert unsaid.needs is None and 'Needs:' in runner.missing(unsaid, {})[0]
    script.write_text('"""What another script runs."""\n')
    assert runner.read_script(script) == []


@pytest.mark.parametrize(('given', 'recorded'), [
    ('--checkout /a/clone --rounds 2', '--checkout insightface --rounds 2'),
    ('search --checkout=../clone', 'search --checkout=insightface'),
    ('--python /e/new/bin/python --python /e/old/bin/python', '--python new/bin/python --python old/bin/python'),
    ('--parts build/det,/a/build/rec --out /tmp/x.json', '--parts build/det,build/rec --out x.json'),
    ("--text 'two words'", "--text 'two words'")])
def test_a_command_is_recorded_as_given(given, recorded):
    """All arguments, and no place of this machine: the docstring's word for it."""
    doc = 'Made up.\n\n    python benchmarks/x.py --checkout insightface --python old/bin/python --python new/bin/python \\\n' \
          '        --parts build/det,build/rec\n'
    assert command_line(doc, ['/here/benchmarks/x.py', *shlex.split(given)]) == f'python benchmarks/x.py {recorded}'


def test_what_can_be_made_is_made(tmp_path, monkeypatch, capsys):
    """Steps run in order with inputs where --with says; the file then names its command; failures are told."""
    monkeypatch.setattr(runner, 'ROOT', tmp_path)
    (tmp_path / 'write.py').write_text('import json, sys\njson.dump({"from": sys.argv[1]}, open("made.json", "w"))\n')
    (tmp_path / 'fail.py').write_text('raise SystemExit(3)\n')
    made = runner.Entry('made.json', 'write.py', ('python write.py input',), {'input': 'a file'})
    entries = [made, runner.Entry('failed.json', 'fail.py', ('python fail.py', 'python write.py never'), {}),
               runner.Entry('absent.json', 'write.py', ('python write.py x',), {'no_such_thing': 'a thing'})]
    monkeypatch.setattr(runner, 'entries', lambda: entries)
    assert runner.main(['--with', f'input={tmp_path / "fail.py"}']) == 1
    assert json.loads((tmp_path / 'made.json').read_text()) == {'command': 'python write.py input',
                                                                'from': str(tmp_path / 'fail.py')}
    err = capsys.readouterr().err
    assert 'failed: failed.json' in err and 'never' not in err
    assert 'absent.json: left alone; needs no_such_thing (a thing)' in err
    assert runner.main(['--list', '--only', 'made']) == 0 and 'no: input (a file)' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        runner.main(['--only', 'maed'])
    assert "did you mean 'made'" in capsys.readouterr().err


def test_the_docs_name_the_measured_size():
    machines = json.loads((ROOT / 'results' / 'install_size.json').read_text())['machines']
    pi, pc = ([f'{machines[name][variant]["total_mb"]:.0f}' for variant in ('base', 'base + ncnn')]
              for name in ('aarch64', 'x86_64'))
    ours = machines['aarch64']['base']['packages_mb']['facezoo']
    weights = sum(path.stat().st_size for path in (ROOT / 'zoo' / 'weights').iterdir()) / 1e6
    text = ' '.join((ROOT / 'docs' / 'deployment-raspberry-pi.md').read_text().split())
    assert (f'On a Pi, {pi[0]} MB, and with NCNN {pi[1]} MB (on a PC {pc[0]} and {pc[1]};' in text
            and f'facezoo {ours} of which {weights:.1f} are trained weights' in text), 'python benchmarks/install_size.py'
