"""Searching a gallery of a million persons: exact search beside FAISS's indexes, on one thread.

    facezoo data pack faces_train.zip --holdout 500 --out build/faces
    python benchmarks/gallery.py people --faces build/faces --work build/big     # embeds, invents persons (gallery_people.py)
    python benchmarks/gallery.py build --work build/big              # every index, one after the other; some take half an hour
    python benchmarks/gallery.py search --work build/big             # on a quiet machine; writes results/gallery.json

Needs: faces_train.zip (aligned faces, a folder a person)

A probe is one new picture of an enrolled person; templates are means of three pictures. Recall@1 is the share of probes whose
first answer is that of the exact search among the same persons. It is given over all probes (the same 1000 for every index and
setting, searched in batches of 64) and over those whose best score reaches the card's threshold at FAR 1e-5 (the ones that get
a name). Latencies are measured separately: of as many single probes as 8 seconds allow, by the clock and in processor time,
which other programs disturb less; and in processor time of a batch of 64, divided by 64.

Every file in the work folder says what it was made from (faces, weights, numbers, versions, code). If anything of that differs,
`people` and `build` make the file anew, and `search` refuses it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

from command_line import command_line  # noqa: E402
from keeping import code, discard, is_kept, keep, made_from, require  # noqa: E402

from plugins.extras import installed_versions  # noqa: E402
from plugins.files import sha256_file, write_atomic  # noqa: E402

MODEL, PICTURES, PROBES, STRANGERS, BATCH = 'fdfacenet', 3, 1000, 500, 64
SECONDS = 8  # that timing the single probes of one setting may take

# name: (FAISS's name for it, its setting, the settings tried)
INDEXES = {
    **{f'exact {persons}': ('zoo.pipeline.index.ExactIndex', '', (0,)) for persons in (50_000, 200_000, 1_000_000)},
    'Flat': ('Flat', '', (0,)),
    'SQ8': ('SQ8', '', (0,)),
    'PQ256x4fs+SQ8': ('PQ256x4fs,Refine(SQ8)', 'k_factor_rf', (10, 50, 200, 500)),
    'PQ128x4fs+SQ8': ('PQ128x4fs,Refine(SQ8)', 'k_factor_rf', (50, 200, 500)),
    'RaBitQfs+SQ8': ('RaBitQfs,Refine(SQ8)', 'k_factor_rf', (50, 200, 500)),
    'IVF1024+SQ8': ('IVF1024,SQ8', 'nprobe', (16, 64, 256)),
    'HNSW32': ('HNSW32', 'efSearch', (64, 128, 256, 512, 1024)),
}
TRAIN, STEP = 100_000, 25_000  # rows that quantisers are trained on; rows added at once


def people(args: argparse.Namespace) -> None:
    """Embed real faces, fit the population, draw templates, probes and strangers, and find the exact answers."""
    import gallery_people as invented

    from zoo.pipeline.index import ExactIndex
    sources = {name: (args.faces / part, per) for name, part, per in (('train', '', 2), ('held', 'holdout', 99))}
    embeddings = {name: _embedding_facts(*source) for name, source in sources.items()}
    facts = _people_facts(embeddings, args.persons)
    if is_kept(args.work / 'templates.npy', facts):
        return
    real = [_embedded(*sources[name], args.work / f'{name}.npz', embeddings[name]) for name in sources]
    population = invented.fit(*real[0], *real[1])
    realism = invented.realism(population, *real[1])
    rng = np.random.default_rng(0)
    templates = np.lib.format.open_memmap(discard(args.work / 'templates.npy'), 'w+', np.float32,
                                          (args.persons, real[0][0].shape[1]))
    asked = np.sort(rng.choice(args.persons, PROBES, replace=False))
    probes = np.empty((PROBES, templates.shape[1]), np.float32)
    for at in range(0, args.persons, 20_000):
        centres = population.centres(min(20_000, args.persons - at), rng)
        templates[at:at + len(centres)] = population.templates(centres, PICTURES, rng)
        own = (asked >= at) & (asked < at + len(centres))
        probes[own] = population.pictures(centres[asked[own] - at], rng)
    strangers = population.pictures(population.centres(STRANGERS, rng), rng)
    exact = ExactIndex(templates)
    scores, rows = (found[:, 0] for found in exact.search(probes, 1))
    np.savez(args.work / 'asked.npz', probes=probes, asked=asked, rows=rows, scores=scores,
             strangers=exact.search(strangers, 1)[0][:, 0])
    templates.flush()
    write_atomic(args.work / 'people.json', json.dumps({'persons': args.persons, 'realism': realism,
                                                        'command': command_line(__doc__)}))
    keep(args.work / 'templates.npy', facts)


def _embedding_facts(folder: Path, per: int) -> dict:
    """What embeddings depend on."""
    from zoo.model_card import card
    return {'faces': {path.name: sha256_file(path) for path in sorted(folder.glob('train.*'))}, 'a_person': per, 'model': MODEL,
            'weights': card(MODEL).weights['default'].sha256, 'code': code(_embedded),
            'versions': installed_versions(['torch', 'numpy'])}


def _people_facts(embeddings: dict, persons: int) -> dict:
    """What templates, probes and their exact answers depend on."""
    from zoo.pipeline.index import ExactIndex
    return {'embeddings': embeddings, 'persons': persons, 'pictures': PICTURES, 'probes': PROBES, 'strangers': STRANGERS,
            'population': sha256_file(ROOT / 'benchmarks' / 'gallery_people.py'), 'code': code(people, ExactIndex),
            'versions': installed_versions(['faiss-cpu', 'numpy'])}


def _people(work: Path) -> dict:
    """What the templates in the work folder were made from.

    Raises:
        SystemExit: they are missing, or other weights, numbers, versions or code would make others.
    """
    from zoo.model_card import card
    found = made_from(work / 'templates.npy')
    embeddings = {name: {**facts, 'weights': card(MODEL).weights['default'].sha256, 'code': code(_embedded)}
                  for name, facts in found.get('embeddings', {}).items()}
    facts = _people_facts(embeddings, found.get('persons', 0))
    require(work / 'templates.npy', facts, 'run the stage people (again)')
    return facts


def _index_facts(work: Path, name: str, minutes: float) -> dict:
    """What an index that is built depends on."""
    return {'people': _people(work), 'index': INDEXES[name][0], 'rows_trained_on': TRAIN, 'rows_at_once': STEP,
            'minutes': minutes, 'code': code(build), 'versions': installed_versions(['faiss-cpu'])}


def _search_facts(work: Path, name: str) -> dict:
    """What a search's figures depend on.

    Raises:
        SystemExit: the index was made from anything else than would be now.
    """
    path = work / f'{name}.index'
    facts, built = _people(work), {}
    if not name.startswith('exact'):
        facts = _index_facts(work, name, made_from(path).get('minutes', 0))
        require(path, facts, 'run the stage build (again)')
        built = json.loads(path.with_suffix('.json').read_text())  # how far it came in its minutes
    return {'index': facts, 'built': built, 'settings': INDEXES[name][1:], 'batch': BATCH, 'seconds': SECONDS,
            'threshold': _threshold(), 'code': code(search, _open, _asked, _recall, _latency),
            'versions': installed_versions(['faiss-cpu', 'numpy'])}


def _threshold() -> float:
    from zoo.model_card import card
    return card(MODEL).weights['default'].thresholds['1e-5']


def _embedded(folder: Path, per: int, cache: Path, facts: dict) -> tuple[np.ndarray, np.ndarray]:
    """Unit-length embeddings (flip sum) of up to ``per`` pictures of each identity, and the identities."""
    from plugins.data.sources import SubsetFaces, open_faces
    from zoo.evaluate.embed import embed_faces
    from zoo.runtime import open_embedder
    if not is_kept(cache, facts):
        source = open_faces(folder)
        owner = np.array([source.read(i)[1] for i in range(len(source))])
        order = np.argsort(owner, kind='stable')
        rank = np.arange(len(owner)) - np.searchsorted(owner[order], owner[order])
        chosen = np.sort(order[(rank < per) & (owner[order] >= 0)])
        rows = embed_faces(open_embedder(MODEL, 1), SubsetFaces(source, chosen), progress=True)[0]
        np.savez(discard(cache), rows=rows.astype(np.float32), owner=owner[chosen])
        keep(cache, facts)
    data = np.load(cache)
    return data['rows'], data['owner']


def build(args: argparse.Namespace) -> None:
    """Build one index and keep it, with the time that took."""
    import faiss
    faiss.omp_set_num_threads(1)
    made = _index_facts(args.work, args.index, args.minutes)
    rows = np.load(args.work / 'templates.npy')
    index = faiss.index_factory(rows.shape[1], INDEXES[args.index][0], faiss.METRIC_INNER_PRODUCT)
    began, used = time.perf_counter(), time.process_time()
    if not index.is_trained:
        index.train(rows[:TRAIN])
    for at in range(0, len(rows), STEP):
        index.add(rows[at:at + STEP])
        print(args.index, index.ntotal, round(time.process_time() - used), 's', file=sys.stderr, flush=True)
        if time.perf_counter() - began > 60 * args.minutes:
            break
    facts = {'persons': index.ntotal, 'build_cpu_seconds': round(time.process_time() - used, 1),
             'command': command_line(__doc__)}
    path = discard(args.work / f'{args.index}.index')
    faiss.write_index(index, str(path))
    write_atomic(path.with_suffix('.json'), json.dumps(facts))
    keep(path, made)


def search(args: argparse.Namespace) -> None:
    """Print a JSON line for one index: memory, and for each setting recall and latencies."""
    import faiss
    faiss.omp_set_num_threads(1)
    _search_facts(args.work, args.index)
    before = _resident()
    index, facts = _open(args)
    facts |= {'resident_mb': round((_resident() - before) / 1e6)}
    probes, answers, sure = _asked(args.work, facts['persons'])
    name, setting, values = INDEXES[args.index]
    rows = []
    for value in values:
        if setting:
            faiss.ParameterSpace().set_index_parameter(index, setting, value)
        rows.append({setting or 'setting': value, **_recall(index, probes, answers, sure), **_latency(index, probes)})
    print(json.dumps({'faiss': name} | facts | {'settings': rows}))


def start(args: argparse.Namespace) -> None:
    """Print what a program that opens the gallery waits for, in processor seconds: first without, then with a kept index."""
    from zoo.pipeline.contract import Contract
    from zoo.pipeline.gallery import Gallery
    path, rows = args.work / 'gallery.npz', np.load(args.work / 'templates.npy', mmap_mode='r')
    facts = {'people': _people(args.work), 'code': code(start, Gallery)}
    if not is_kept(path, facts):
        discard(path)
        names = [f'{number:07}' for number in range(len(rows))]
        Gallery(Contract('net', {}, True, np.eye(3, rows.shape[1], dtype=np.float32)), names, rows, names).save(path)
        keep(path, facts)
    probe, found = np.load(args.work / 'asked.npz')['probes'][:1], {}
    Path(f'{path}.index').unlink(missing_ok=True)
    for name in ('building the index', 'with the index kept'):
        began = time.process_time()
        gallery = Gallery.load(path)
        loaded = time.process_time()
        gallery.search(probe, 0.5)
        found[name] = {'load': round(loaded - began, 1), 'first_search': round(time.process_time() - loaded, 1)}
        del gallery
    print(json.dumps(found | {'peak_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


def _open(args: argparse.Namespace):
    import faiss
    if args.index.startswith('exact'):
        from zoo.pipeline.index import ExactIndex
        persons = int(args.index.split()[1])
        return ExactIndex(np.load(args.work / 'templates.npy', mmap_mode='r')[:persons].copy()), {'persons': persons}
    path = args.work / f'{args.index}.index'
    return faiss.read_index(str(path)), {**json.loads(path.with_suffix('.json').read_text()),
                                         'file_mb': round(path.stat().st_size / 1e6)}


def _asked(work: Path, persons: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All probes, the exact search's answer to each among the first so many persons, and whether it reaches FAR 1e-5."""
    from zoo.pipeline.index import ExactIndex
    data, templates = np.load(work / 'asked.npz'), np.load(work / 'templates.npy', mmap_mode='r')
    probes, rows, scores = (data[key] for key in ('probes', 'rows', 'scores'))
    if persons < len(templates):
        scores, rows = (found[:, 0] for found in ExactIndex(templates[:persons]).search(probes, 1))
    return probes, rows, scores >= _threshold()


def _recall(index, probes: np.ndarray, answers: np.ndarray, sure: np.ndarray) -> dict:
    """Shares of all probes, and of the ``sure`` ones, whose first answer is the exact search's."""
    found = np.concatenate([index.search(probes[at:at + BATCH], 1)[1][:, 0] for at in range(0, len(probes), BATCH)])
    same = found == answers
    return {'probes': len(probes), 'recall': round(float(same.mean()), 4), 'sure': int(sure.sum()),
            'recall_sure': round(float(same[sure].mean()), 4)}


def _latency(index, probes: np.ndarray) -> dict:
    """Milliseconds of as many single probes as :data:`SECONDS` allow, at least 30, and of a batch."""
    index.search(probes[:8], 1)
    took, cpu, began = [], [], time.perf_counter()
    while len(took) < len(probes) and (len(took) < 30 or time.perf_counter() - began < SECONDS):
        at, used = time.perf_counter(), time.thread_time()
        index.search(probes[len(took):len(took) + 1], 1)
        cpu.append(1000 * (time.thread_time() - used))
        took.append(1000 * (time.perf_counter() - at))
    batches = []
    for _ in range(3):
        used = time.thread_time()
        index.search(probes[:BATCH], 1)
        batches.append(1000 * (time.thread_time() - used) / len(probes[:BATCH]))
    return {'timed': len(took), 'p50_ms': round(float(np.median(took)), 2),
            'cpu_p50_ms': round(float(np.median(cpu)), 2), 'cpu_p99_ms': round(float(np.percentile(cpu, 99)), 2),
            'batch_cpu_ms_a_probe': round(float(np.median(batches)), 2)}


def _resident() -> int:
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


STAGES = {'people': people, 'build': build, 'search': search, 'start': start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('stage', choices=STAGES)
    parser.add_argument('--work', type=Path, required=True, help='folder for some gigabytes')
    parser.add_argument('--faces', type=Path, help='what `facezoo data pack --holdout` wrote')
    parser.add_argument('--persons', type=int, default=1_000_000)
    parser.add_argument('--index', choices=INDEXES, help='only this one')
    parser.add_argument('--minutes', type=float, default=60, help='stop building an index after so long, with fewer persons')
    parser.add_argument('--out', type=Path, default=ROOT / 'results' / 'gallery.json', help='what search writes')
    args = parser.parse_args()
    if args.stage == 'people' and not args.faces:
        parser.error('people needs --faces')
    args.work.mkdir(parents=True, exist_ok=True)
    if args.stage in ('people', 'start') or args.index:
        STAGES[args.stage](args)
    elif args.stage == 'build':
        for name in INDEXES:
            if not name.startswith('exact') and not is_kept(args.work / f'{name}.index',
                                                            _index_facts(args.work, name, args.minutes)):
                _child('build', args, '--index', name, '--minutes', str(args.minutes))
    else:
        report(args)


def _child(stage: str, args: argparse.Namespace, *options: str) -> str:
    """A stage in a process of its own, on one thread."""
    return subprocess.run([sys.executable, __file__, stage, '--work', str(args.work), *options], check=True, text=True,
                          stdout=subprocess.PIPE, env={**os.environ, 'OMP_NUM_THREADS': '1'}).stdout


def report(args: argparse.Namespace) -> None:
    """Search every index that was built, and write what was found."""
    _people(args.work)
    data, people_ = np.load(args.work / 'asked.npz'), json.loads((args.work / 'people.json').read_text())
    found = {}
    for name in INDEXES:
        if not (int(name.split()[1]) <= people_['persons'] if name.startswith('exact') else
                (args.work / f'{name}.index').exists()):
            continue
        done, facts = args.work / f'{name}.found', _search_facts(args.work, name)  # an interrupted search goes on
        if not is_kept(done, facts):
            discard(done).write_text(_child('search', args, '--index', name))
            keep(done, facts)
        found[name] = json.loads(done.read_text())
        print(name, json.dumps(found[name]), flush=True)
    import gallery_people

    from zoo.bench import machine
    from zoo.model_card import card
    thresholds = card(MODEL).weights['default'].thresholds
    right = data['rows'] == data['asked']
    report = {'command': command_line(__doc__), 'people_made_by': people_.pop('command'), 'machine': machine(),
              'versions': installed_versions(['faiss-cpu', 'numpy']), 'model': MODEL,
              'conditions': 'one thread; the machine did other work meanwhile, so that processor time counts, not the clock',
              'embeddings': 'invented: ' + ' '.join(gallery_people.__doc__.split('\n\n', 1)[1].split()),
              **people_, 'pictures_a_template': PICTURES, 'probes': len(right),
              'recall_of': f'the same {len(right)} probes for every index and setting', 'strangers': len(data['strangers']),
              'exact': {'rank1': round(float(right.mean()), 4), **{f'far {far}': {
                  'threshold': threshold, 'found': round(float((right & (data['scores'] >= threshold)).mean()), 4),
                  'strangers_accepted': round(float((data['strangers'] >= threshold).mean()), 4)}
                  for far, threshold in thresholds.items()}}, 'indexes': found,
              'cpu_seconds_to_start': json.loads(_child('start', args))}
    write_atomic(args.out, json.dumps(report, indent=2) + '\n')


if __name__ == '__main__':
    main()
