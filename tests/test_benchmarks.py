"""Every result has one command that makes it, and one command makes them all."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter

import numpy as np
import pytest

from plugins.files import import_file
from tests.conftest import ROOT, benchmark
from zoo.cli import COMMANDS, build_parser

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
    ('--faces /a/faces', '--faces faces'),
    ("--text 'two words'", "--text 'two words'")])
def test_a_command_is_recorded_as_given(given, recorded):
    """All arguments, and no place of this machine: the docstring's word for it."""
    doc = ('Made up.\n\n    facezoo data pack --faces pictures.zip\n    python benchmarks/x.py --checkout insightface \\\n'
           '        --python old/bin/python --python new/bin/python --parts build/det,build/rec --out results/x.json\n')
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
    with pytest.raises(SystemExit):
        runner.main(['--with', 'input'])
    assert '--with input: write WORD=PATH' in capsys.readouterr().err


def test_ijb_refuses_an_agreement_at_the_ends():
    """Two sides that find everything, or nothing, agree whatever they do."""
    ijb, between = benchmark('ijb'), [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    ijb.refuse_ends({'facezoo': {'tar': between}, 'insightface': {'tar': between}})
    for end, change in ((0.0, 'smaller'), (1.0, 'larger')):
        with pytest.raises(SystemExit, match=f'^insightface: TAR {end:g} at FAR 1e-06: .*make NOISE .*{change}'):
            ijb.refuse_ends({'facezoo': {'tar': between}, 'insightface': {'tar': [end, *between[1:]]}})


@pytest.mark.parametrize(('score', 'pairs', 'agree'), [(1e-7, 0, True), (1e-7, 1, True), (1e-7, 2, False), (1e-5, 0, False)])
def test_ijb_tolerates_rounding_only(score, pairs, agree):
    same = np.arange(2000) < 1000
    scores = {'facezoo': np.zeros(2000), 'insightface': np.full(2000, score)}
    found = {'facezoo': {'tar': [0.5, 0.6]}, 'insightface': {'tar': [0.5, 0.6 + pairs / 1000]}}
    assert benchmark('ijb').agreement(found, scores, same)['agree'] is agree


def test_ijb_noise_leaves_some_out():
    """Ours at a two-hundredth of the size: TAR rises with FAR and stays between 0 and 1."""
    ijb = benchmark('ijb')
    tar = ijb.ours(ijb.lists(0.005), ijb.imported('facezoo', ''))[1]
    ijb.refuse_ends({'facezoo': {'tar': tar}})
    assert tar == sorted(tar) and tar[0] < tar[-1]


def test_a_kept_file_is_used_for_the_same_facts_only(tmp_path):
    keeping, path = benchmark('keeping'), tmp_path / 'kept'
    facts = {'rows': 3, 'faces': {'train.rec': 'a' * 64}, 'settings': (1, 2)}
    path.write_text('made')
    assert not keeping.is_kept(path, facts)  # nobody said what it was made from
    keeping.keep(path, facts)
    assert keeping.is_kept(path, facts) and keeping.require(path, facts, '') is None
    for other in (facts | {'rows': 4}, facts | {'faces': {'train.rec': 'b' * 64}}, facts | {'more': 1}, {'rows': 3}):
        assert not keeping.is_kept(path, other)
    with pytest.raises(SystemExit, match=r'kept: made from other rows; build it again'):
        keeping.require(path, facts | {'rows': 4}, 'build it again')
    keeping.discard(path).write_text('half')
    assert not keeping.is_kept(path, facts)
    keeping.keep(path, facts)
    path.unlink()
    assert not keeping.is_kept(path, facts)
    assert keeping.code(test_entry) != keeping.code(test_entry, runner.make)


def test_gallery_recall_is_over_all_probes():
    """However long a search takes: recall counts every probe, the timing as many as there is time for."""
    gallery = benchmark('gallery')
    probes, answers = np.eye(200, dtype=np.float32), np.arange(200)

    class Wrong:
        """Answers 0 to the last quarter, where a search that looks at the first ones only is right."""

        def search(self, asked, top):
            rows = asked.argmax(1)[:, None]
            return rows, np.where(rows < 150, rows, 0)
    found = gallery._recall(Wrong(), probes, answers, answers >= 100)
    assert found == {'probes': 200, 'recall': 0.75, 'sure': 100, 'recall_sure': 0.5}
    assert gallery._latency(Wrong(), probes)['timed'] <= 200


def test_gallery_refuses_what_other_people_left(tmp_path, monkeypatch):
    """Another number of probes, other code or other weights: the templates are made again, not searched."""
    gallery, keeping = benchmark('gallery'), benchmark('keeping')
    with pytest.raises(SystemExit, match='run the stage people'):
        gallery._people(tmp_path)
    (tmp_path / 'train.rec').write_bytes(b'faces')
    embeddings = {'train': gallery._embedding_facts(tmp_path, 2)}
    (tmp_path / 'templates.npy').write_bytes(b'')
    keeping.keep(tmp_path / 'templates.npy', gallery._people_facts(embeddings, 50))
    assert gallery._people(tmp_path)['persons'] == 50
    with monkeypatch.context() as changed, pytest.raises(SystemExit, match='made from other probes'):
        changed.setattr(gallery, 'PROBES', 7)
        gallery._people(tmp_path)
    keeping.keep(tmp_path / 'templates.npy', gallery._people_facts({'train': embeddings['train'] | {'weights': 'old'}}, 50))
    with pytest.raises(SystemExit, match='made from other embeddings'):
        gallery._people(tmp_path)
    (tmp_path / 'train.rec').write_bytes(b'other faces')
    assert gallery._embedding_facts(tmp_path, 2) != embeddings['train']


def test_each_side_trains_first_in_turn():
    assert benchmark('training').turns('abc', 4) == [[*'abc'], [*'bca'], [*'cab'], [*'abc']]


def test_the_docs_name_the_measured_size():
    machines = json.loads((ROOT / 'results' / 'install_size.json').read_text())['machines']
    pi, pc = ([f'{machines[name][variant]["total_mb"]:.0f}' for variant in ('base', 'base + ncnn', 'runtime')]
              for name in ('aarch64', 'x86_64'))
    ours = machines['aarch64']['base']['packages_mb']['facezoo']
    weights = sum(path.stat().st_size for path in (ROOT / 'zoo' / 'weights').iterdir()) / 1e6
    text = ' '.join((ROOT / 'docs' / 'deployment-raspberry-pi.md').read_text().split())
    assert (f'On a Pi facezoo takes {pi[0]} MB, with NCNN {pi[1]} MB, with all of `runtime` {pi[2]} MB (on a PC {pc[0]}, '
            f'{pc[1]} and {pc[2]};' in text
            and f'facezoo {ours} of which {weights:.1f} are trained weights' in text), 'python benchmarks/install_size.py'
