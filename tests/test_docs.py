"""The documentation: tables are those of the cards, the site builds without a warning."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from datetime import datetime, timedelta
from statistics import mean

import pytest

from tests.conftest import ROOT, benchmark
from zoo.card_page import model_page
from zoo.cli import build_parser
from zoo.model_card import card, list_models


@pytest.fixture(scope='module')
def hooks():
    spec = importlib.util.spec_from_file_location('hooks', ROOT / 'docs' / 'hooks.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_tables_are_those_of_the_cards(hooks):
    text = (ROOT / 'README.md').read_text()
    assert hooks.fill(text) == text, 'run python docs/hooks.py'
    assert '| `fdfacenet` |' in text


def test_pages_say_how_to_read_their_figures(hooks):
    page = ' '.join(hooks.measured_page().split())
    assert _result('deploy_report')['command'] in page
    assert f'the target was {_result("install_size")["target_mb"]}' in page
    assert '| times as fast | by processor time |' in page  # what is larger is better here, and worse where it says ratio
    studies = hooks.studies_page()
    assert "Student's t" in studies and all(f'| {word} |' in studies and word in studies.partition('##')[0]
                                            for word in ('reversed', 'not told apart'))


@pytest.mark.parametrize('name', list_models())
def test_page_says_what_the_card_says(name):
    page, model = model_page(card(name)), card(name)
    assert f'{model.params:,}' in page and model.paper in page.replace('\\|', '|')
    assert all(text in page for text in model.deviations)
    assert all(weights.sha256 in page and weights.licence in page for weights in model.weights.values())
    assert ('not measured here' in page) == bool(model.claims)


@pytest.mark.parametrize('tag', ['default', 'lowquality'])
def test_low_resolution_on_the_card_is_that_of_the_results(tag):
    lowres = benchmark('lowres')
    name = 'fdfacenet' if tag == 'default' else f'fdfacenet.{tag}'
    facts = json.loads(lowres.RESULT.read_text())
    measured, page = card('fdfacenet').weights[tag].metrics, model_page(card('fdfacenet'))
    assert measured['lowres'] == lowres.card_metrics(facts, name), 'run benchmarks/lowres.py, which writes both'
    assert measured['lowres']['x1']['accuracy'] == measured['lfw']['accuracy'], 'the figures are those of other weights'
    assert 'Measured on `lowres`' in page and f'| x8: accuracy | {measured["lowres"]["x8"]["accuracy"]} |' in page


def test_strangers_on_the_cards_are_those_of_the_results():
    impostors = benchmark('impostors')
    facts = json.loads(impostors.RESULT.read_text())
    for model in map(card, list_models(weights=True, task='recognition')):
        for tag, weights in model.weights.items():
            name = model.name if tag == 'default' else f'{model.name}.{tag}'
            assert weights.metrics['impostors'] == impostors.card_metrics(facts, name), 'run benchmarks/impostors.py, for both'
            assert facts['models'][name]['thresholds'] == weights.thresholds, 'the figures are those of other weights'


LINES = [(page.name, line) for page in [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
         for block in re.findall(r'```sh\n(.*?)```', page.read_text(), re.DOTALL)
         for line in block.replace('\\\n', ' ').splitlines() if 'facezoo ' in line]


@pytest.mark.parametrize(('page', 'line'), LINES)
def test_every_command_that_is_shown_parses(page, line):
    """Also those that the tests cannot run: no page names a command or an option that does not exist."""
    for part in re.split('[#>|]', line)[0].split('&&'):
        words = shlex.split(part)
        if 'facezoo' in words:
            words = words[words.index('facezoo') + 1:]
            build_parser(words[0]).parse_args(words)


def _script(page, word):
    """The one Python block of a page with a word in it."""
    text = (ROOT / 'docs' / page).read_text()
    block, = (block for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL) if word in block)
    return block


def test_visits_of_a_camera():
    """A name is logged when it has been seen in three frames, and again after an absence; strangers never are."""
    began = datetime.fromisoformat('2026-11-29T08:00:00.000+01:00')
    frames = [(0, 'Ann', None), (1, 'Ann'), (2, 'Bo'), (3, 'Ann', 'Bo'), (4, 'Ann'), (500, 'Ann'), (1000, 'Ann'), (2000, 'Ann'),
              (2001, 'Ann'), (2002, 'Ann', None)]
    lines = [json.dumps({'time': (began + timedelta(seconds=seconds)).isoformat(timespec='milliseconds'),
                         'faces': [{'name': name} for name in names]}) for seconds, *names in frames]
    run = subprocess.run([sys.executable, '-c', _script('deployment-raspberry-pi.md', 'visits')], input='\n'.join(lines),
                         capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ['2026-11-29 08:00:03+01:00 Ann', '2026-11-29 08:33:22+01:00 Ann']


def test_sorted_album(tmp_path):
    names = {'album/a/1.jpg': ['Ann', None], 'album/b/1.jpg': ['Ann', 'Bo'], 'album/2.jpg': [None]}
    for path in names:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    lines = [json.dumps({'picture': path, 'faces': [{'name': name} for name in who]}) for path, who in names.items()]
    subprocess.run([sys.executable, '-c', _script('galleries.md', 'copy2')], cwd=tmp_path, check=True, text=True,
                   input='\n'.join([*lines, json.dumps({'picture': 'album/bad.jpg', 'error': 'damaged'})]))
    out = tmp_path / 'sorted'
    copies = {str(path.relative_to(out)): path.read_text() for path in out.rglob('*.jpg')}
    assert copies == {f'{name}/{path}': path for path, who in names.items() for name in who if name}


def _result(name):
    return json.loads((ROOT / 'results' / f'{name}.json').read_text())


def _figures():
    """Page, and what it must say: figures of its prose as the results have them."""
    arm, gallery, crops = _result('arm'), _result('gallery'), _result('crop_faults')
    pi4, pi5 = arm['raspberrypi-4'], arm['raspberrypi-5']
    apart = max(pi['fp32']['to_x86']['max_abs'] for pi in (pi4, pi5))
    yield 'deployment-raspberry-pi.md', f'largest difference to x86 {1e6 * apart:.1f}e-6'
    yield 'deployment-raspberry-pi.md', (f'to PyTorch {pi5["int8"]["to_torch"]["min_cosine"]:.4f} '
                                         f'(x86: {arm["x86"]["int8"]["to_torch"]["min_cosine"]:.4f})')
    half, stored = (pi5[name]['to_torch']['min_cosine'] for name in ('fp16 with fp16_arithmetic', 'fp16'))
    yield 'deployment-raspberry-pi.md', f'falls to {half:.5f} on an emulated A76, from {stored:.6f} without'
    kept, built = (sum(gallery['cpu_seconds_to_start'][way].values()) for way in ('with the index kept', 'building the index'))
    yield 'galleries.md', f'{kept:.0f} seconds of processor time with the kept index and {built:.0f} without'
    far = gallery['exact']['far 1e-5']
    yield 'galleries.md', (f'names {100 * far["found"]:.0f} % of the known persons rightly and takes '
                           f'{100 * far["strangers_accepted"]:.0f} % of strangers')
    known = card('fdfacenet').weights['default'].metrics['holdout']
    yield 'galleries.md', f'knows {100 * known["tar@1e-5"]:.0f} % again ({100 * known["tar@1e-4"]:.0f} % at 1e-4)'
    plain, with_mirror = crops['mirror']['fdfacenet']['without']['1e-3'], crops['mirror']['fdfacenet']['with']['1e-3']
    yield 'concepts.md', (f'{1e3 * plain["far"]:.2f}e-3 where the card says 1e-3, and the TAR on those pairs '
                          f'{100 * plain["tar"]:.1f} instead of {100 * with_mirror["tar"]:.1f} %')
    now, before = (crops['misaligned'][name] for name in ('fdfacenet', 'fdfacenet_kd_faces'))
    for error, said in (('0', "of LFW's genuine pairs "), ('1.5', '')):
        yield 'train-and-distil.md', (f'{100 * now[error]["tar@1e-3"]:.1f} % {said}instead of '
                                      f'{100 * before[error]["tar@1e-3"]:.1f} %')
    for name, rows in _result('lowres')['models'].items():
        yield 'concepts.md', f'| `{name}` | ' + ' | '.join(f'{100 * row["accuracy"]:.2f} %' for row in rows.values()) + ' |'
    yield 'deployment-raspberry-pi.md', f'prints {card("fdfacenet").claims["latency_ms"]["raspberry_pi_4b_ncnn"]} ms a face'
    strangers = _result('impostors')['models']
    for title, groups in (('everybody', ['all']), ('aged 65 and more', ['aged 65 to 120']),
                          *((f'{o}: men, women', [f'{o}, men', f'{o}, women']) for o in ('White', 'Black', 'Asian', 'Indian'))):
        cells = (', '.join(f'{1e3 * strangers[name]["groups"][group]["far@1e-3"]:.1f}' for group in groups)
                 for name in ('fdfacenet', 'mobilefacenet', 'mobilefacenet96_eca', 'edgeface_xs'))
        yield 'concepts.md', f'| {title} | {" | ".join(cells)} |'
    most = max(group['far@1e-5'] for group in strangers['fdfacenet']['groups'].values())
    yield 'concepts.md', f'no group of these has more than {1e3 * most:.2f} in a thousand'
    score = card('retinaface_mnet025').weights['default'].thresholds['score']
    yield 'face-analysis.md', f'det_thresh={score:.2f}'
    chain = card('retinaface_mnet025').weights['default'].metrics['chain']['lfw_112']['recognisers']['fdfacenet']['student']
    yield 'concepts.md', f'give {100 * chain["accuracy"]:.2f} instead of 98.17 %'
    accuracy = {}
    for row in _result('studies/fdfacenet_ablation'):
        accuracy.setdefault(row['run'], []).append(100 * row['results']['lfw']['accuracy'])
    better = mean(accuracy['mobilefacenet']) - mean(accuracy['fdfacenet'])
    yield '../README.md', f'MobileFaceNet is {better:.1f} points of LFW above FDFaceNet'


@pytest.mark.parametrize(('page', 'said'), _figures())
def test_figures_in_the_prose_are_those_of_the_results(page, said):
    assert said in ' '.join((ROOT / 'docs' / page).read_text().split())


def test_site_builds_without_a_warning(tmp_path):
    pytest.importorskip('mkdocs')
    run = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path / 'site')], cwd=ROOT,
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert 'fdfacenet' in (tmp_path / 'site' / 'index.html').read_text()
    assert (tmp_path / 'site' / 'models' / 'fdfacenet' / 'index.html').is_file()
