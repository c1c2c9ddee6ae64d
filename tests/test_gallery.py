"""Galleries: whole after a crash, closed to other models, one program at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import zoo
from plugins.preprocess import l2_normalise
from tests.conftest import ROOT
from zoo.cli import main
from zoo.export.job import Job
from zoo.pipeline.contract import Contract, ContractError, contract_of, patterns
from zoo.pipeline.galleries import open_gallery
from zoo.pipeline.gallery import Gallery, GalleryError
from zoo.pipeline.index import make_index
from zoo.runtime import open_embedder
from zoo.runtime.torch import TorchEmbedder


def contract() -> Contract:
    return Contract('net', {'mean': 127.5}, True, np.eye(3, 4, dtype=np.float32))


def test_round_trip(gallery, tmp_path):
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    loaded = Gallery.load(path, gallery.contract)
    assert loaded.persons == gallery.persons and len(loaded) == 6
    probes = gallery.templates()[1]
    assert loaded.search(probes, 0.5) == gallery.search(probes, 0.5) and len({m[0].name for m in loaded.search(probes, 0)}) == 6


def test_a_crash_while_saving_loses_nothing(gallery, tmp_path, monkeypatch):
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    before = path.read_bytes()

    def crash(file, **arrays):
        file.write(b'half a gallery')
        raise OSError('disk full')
    monkeypatch.setattr(np, 'savez', crash)
    with pytest.raises(OSError, match='disk full'):
        gallery.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_kill_while_saving_loses_nothing(gallery, tmp_path):
    """The process dies between the bytes, as it does when the power fails."""
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    code = ('import sys; from zoo.pipeline.gallery import Gallery\ng = Gallery.load(sys.argv[1])\n'
            'g.add("New", g.templates()[1][:1].repeat(20000, 0), list(map(str, range(20000))))\n'
            'print("now", flush=True)\nwhile True: g.save(sys.argv[1])')
    with subprocess.Popen([sys.executable, '-c', code, str(path)], stdout=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.readline()
        parts = iter(lambda: [*tmp_path.glob('.*.part')], None)
        assert next(found for found in parts if found and found[0].stat().st_size > 10 ** 6)  # in the middle of 40 MB
        process.kill()
    assert set(Gallery.load(path).persons) - {'New'} == set(gallery.persons)


def test_two_programs_do_not_overwrite_each_other(gallery, tmp_path):
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    with pytest.raises(GalleryError, match='another program'), open_gallery(path, change=True) as mine:
        with open_gallery(path, change=True) as other:
            other.remove('Person 0')
        mine.remove('Person 1')
    assert 'Person 0' not in Gallery.load(path).persons and 'Person 1' in Gallery.load(path).persons


@pytest.mark.parametrize('linked', [False, True])
def test_two_programs_that_end_together(linked, tmp_path):
    """Both have looked at the file before either has written it, but for the lock; one of them through a link."""
    pytest.importorskip('fcntl', reason='this system has no locks on files')
    path = tmp_path / 'gallery.npz'
    (tmp_path / 'linked').mkdir()
    (tmp_path / 'linked/gallery.npz').symlink_to(path)
    paths = {'Bob': path, 'Cid': tmp_path / 'linked/gallery.npz' if linked else path}
    first = Gallery(contract())
    first.add('Ann', np.eye(1, 4), ['1.jpg'])
    first.save(path)
    code = ('import sys, time; import numpy as np; from zoo.pipeline.galleries import open_gallery\n'
            'from zoo.pipeline.gallery import Gallery\n'
            'save = Gallery.save; Gallery.save = lambda *args: (time.sleep(0.5), save(*args))\n'
            'with open_gallery(sys.argv[1], change=True) as gallery:\n'
            '    gallery.add(sys.argv[2], np.eye(1, 4), ["1.jpg"]); print("ready", flush=True); sys.stdin.readline()')
    both = {name: subprocess.Popen([sys.executable, '-c', code, str(paths[name]), name], cwd=ROOT, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for name in ('Bob', 'Cid')}
    assert [program.stdout.readline() for program in both.values()] == ['ready\n'] * 2
    for program in both.values():
        program.stdin.write('\n')
        program.stdin.flush()
    said = {name: program.communicate()[1] for name, program in both.items()}
    written = [name for name, words in said.items() if not words]
    assert len(written) == 1 and sum('another program' in words for words in said.values()) == 1, said
    assert [*Gallery.load(path).persons] == ['Ann', *written]


def test_another_users_lock_is_enough(gallery, tmp_path, monkeypatch):
    """The lock file is another user's, who lets us read it."""
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    really = os.open

    def refuse(file, flags, *mode):
        if str(file).endswith('.lock') and flags & os.O_RDWR:
            raise PermissionError(13, 'Permission denied', str(file))
        return really(file, flags, *mode)

    (tmp_path / '.gallery.npz.lock').touch()
    monkeypatch.setattr(os, 'open', refuse)
    with open_gallery(path, change=True) as mine:
        mine.remove('Person 1')
    assert 'Person 1' not in Gallery.load(path).persons


def test_errors_of_galleries_on_the_command_line(gallery, tmp_path, capsys):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'text.npz').write_text('hello')
    gallery.save(tmp_path / 'good.npz')
    for file, options, words in (('none.npz', ['--list'], ['no such gallery', 'facezoo enrol', 'PEOPLE_FOLDER']),
                                 ('folder', ['--list'], ['a folder', 'GALLERY.npz PEOPLE_FOLDER']),
                                 ('text.npz', ['--list'], ['not a whole gallery', 'cut short']),
                                 ('good.npz', ['--remove', 'Person 0', '--remove', 'Zoe'], ["'Zoe'", '--list']),
                                 ('good.npz', ['--remove', 'Persn 0'], ["did you mean 'Person 0'"])):
        assert main(['enrol', str(tmp_path / file), *options]) == 1
        said = capsys.readouterr()
        assert not said.out and said.err.count('\n') == 1 and all(word in said.err for word in words), said.err
    assert len(Gallery.load(tmp_path / 'good.npz')) == 6


@pytest.mark.parametrize('damage', [lambda b: b[:-100], lambda b: b[:50], lambda b: b'', lambda b: b'PK' + b[100:]])
def test_damaged_gallery(gallery, tmp_path, damage):
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(GalleryError, match='not a whole gallery'):
        Gallery.load(path)


def test_pickles_are_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'executed'),)
    path = tmp_path / 'evil.npz'
    np.savez(path, facts=np.array([Evil()], object), probe=np.zeros(1), embeddings=np.zeros(1))
    with pytest.raises(GalleryError):
        Gallery.load(path)
    assert not (tmp_path / 'executed').exists()


def test_another_model_is_refused(gallery, tmp_path):
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    mine = gallery.contract
    for changes, word in (({'flip': False}, 'flip'), ({'preprocess': {**mine.preprocess, 'colour': 'BGR'}}, 'colour'),
                          ({'probe': np.roll(mine.probe, 1, 1)}, 'test pattern'), ({'probe': mine.probe[:, :128]}, '128')):
        with pytest.raises(ContractError, match=word):
            Gallery.load(path, Contract(**{**vars(mine), **changes}))


def test_eight_bits_of_the_same_weights_are_accepted(recogniser_file, tmp_path):
    """Their answers to the patterns differ more than those of other weights may: the weights' digest decides."""
    rows = np.eye(3, 8)
    coarse = l2_normalise(rows + 0.35 * np.roll(rows, 3, 1)).astype(np.float32)
    assert 0.9 < (rows * coarse).sum(1).min() < 0.95
    mine = Contract('net', {'mean': 127.5}, True, rows.astype(np.float32), 'abc')
    gallery = Gallery(mine)
    gallery.add('Ann', rows[:1], ['1.jpg'])
    gallery.save(tmp_path / 'g.npz')
    Gallery.load(tmp_path / 'g.npz', Contract('net8', {'mean': 127.5}, True, coarse, 'abc'))
    for weights in ('abd', ''):
        with pytest.raises(ContractError, match='test pattern'):
            Gallery.load(tmp_path / 'g.npz', Contract('net8', {'mean': 127.5}, True, coarse, weights))
    with pytest.raises(ContractError, match='test pattern'):  # something else is wrong
        Gallery.load(tmp_path / 'g.npz', Contract('net8', {'mean': 127.5}, True, np.roll(coarse, 1, 1), 'abc'))
    model = zoo.load('fdfacenet')
    assert Job(model, 'fdfacenet', None).facts['weights'] == contract_of(open_embedder('fdfacenet'), True).weights


def test_contract_tells_models_apart_and_runtimes_not(recogniser_file):
    onnx = open_embedder(recogniser_file, threads=1)
    torch_net = zoo.load('fdfacenet') if zoo.card('fdfacenet').weights else None
    probe = contract_of(onnx, True)
    assert np.abs(probe.probe @ probe.probe.T - np.eye(3)).max() < 0.99
    if torch_net:
        probe.require(contract_of(TorchEmbedder(torch_net, onnx.preprocess), True), 'a')
    with pytest.raises(ContractError):
        probe.require(contract_of(TorchEmbedder(zoo.create('fdfacenet').eval(), onnx.preprocess), True), 'b')
    assert len(np.unique(patterns(112).reshape(3, -1), axis=0)) == 3


def test_add_replace_remove():
    gallery = Gallery(contract())
    gallery.add('Ann', np.eye(2, 4), ['1.jpg', '2.jpg'])
    gallery.add('Bob', np.eye(4)[3:], ['1.jpg'])
    gallery.add('Ann', np.eye(4)[2:3], ['2.jpg'])  # the same picture again
    assert gallery.persons == {'Ann': ['1.jpg', '2.jpg'], 'Bob': ['1.jpg']}
    match = gallery.search(np.eye(4)[2], 0.5)[0][0]
    assert match.name == 'Ann' and match.score == pytest.approx(2 ** -0.5)
    assert [m.name for m in gallery.search(np.eye(4)[3], 0.5, top=5)[0]] == ['Bob', 'Ann']
    with pytest.raises(GalleryError, match="'Anne'; did you mean 'Ann'"):
        gallery.remove('Bob', 'Anne')
    assert len(gallery) == 2 and gallery.remove('Ann') == [2] and len(gallery) == 1
    with pytest.raises(GalleryError, match="'Ann'"):
        gallery.remove('Ann')
    with pytest.raises(GalleryError, match='zero or not finite'):
        gallery.add('Eve', np.zeros((1, 4)), ['e.jpg'])
    with pytest.raises(GalleryError, match='4 numbers'):
        gallery.add('Eve', np.ones((1, 3)), ['e.jpg'])
    with pytest.raises(GalleryError, match='name'):
        gallery.add(' ', np.ones((1, 4)), ['e.jpg'])
    with pytest.raises(GalleryError, match='Eve: no face'):  # it would get the template of the next person
        gallery.add('Eve', np.ones((0, 4)), [])
    with pytest.raises(GalleryError, match=r"Eve: several faces.*'camera'"):  # all but one would be lost
        gallery.add('Eve', np.eye(3, 4), ['camera', 'door', 'camera'])
    assert gallery.persons == {'Bob': ['1.jpg']}
    assert Gallery(contract()).search(np.eye(4)[:2], 0.5) == [[], []]


def test_who_is_enrolled_during_a_search_is_found_by_the_next_one(monkeypatch):
    """By another thread, as beside a camera: the index of the persons before must not outlive the change."""
    gallery = Gallery(contract(), ['Ann'], np.eye(1, 4, dtype=np.float32), ['1.jpg'])
    enrolling = threading.Thread(target=gallery.add, args=('Bob', np.eye(4)[3:], ['1.jpg']))

    def slow(persons, rows, *kept):
        made = make_index(persons, rows, *kept)
        enrolling.start()
        enrolling.join(0.2)
        return made
    monkeypatch.setattr('zoo.pipeline.index.make_index', slow)
    assert gallery.search(np.eye(4)[3], 0.5)[0][0].name == 'Ann'
    enrolling.join()
    monkeypatch.undo()
    assert gallery.search(np.eye(4)[3], 0.5)[0][0].name == 'Bob'


def test_a_name_has_one_spelling(tmp_path):
    composed, apart = 'Jos\u00e9', 'Jose\u0301'  # as Linux and as macOS give the folder's name
    gallery = Gallery(contract(), [apart], np.eye(1, 4), ['0.jpg'])
    gallery.add(f' {composed} ', np.eye(4)[1:2], ['1.jpg'])
    gallery.add(apart, np.eye(4)[2:3], ['2.jpg'])
    assert gallery.persons == {composed: ['0.jpg', '1.jpg', '2.jpg']}
    assert gallery.remove(f'{apart}\n') == [3] and not len(gallery)


def test_a_score_at_the_threshold_is_unknown():
    """A threshold is the score of a stranger: whoever reaches just that is one."""
    made = Gallery(contract())
    made.add('one', np.eye(1, 4, dtype=np.float32), ['one.jpg'])
    found = [made.search(np.eye(1, 4, dtype=np.float32), threshold)[0][0] for threshold in (1.0, 0.9999)]
    assert [(match.score, match.known) for match in found] == [(1.0, False), (1.0, True)]


def test_embeddings_of_any_length_are_searched_as_cosines():
    """A network's own embeddings are not of unit length, and a stranger's must not score 5."""
    made = Gallery(contract())
    made.add('one', np.eye(1, 4), ['one.jpg'])
    (match,), = made.search(np.float32([3, 4, 0, 0]), 0.7)
    assert match.score == pytest.approx(0.6) and not match.known
    assert made.search(np.zeros((1, 4)), 0.1)[0][0].score == 0 and made.search([], 0.1) == []
    for wrong, words in ((np.full((1, 4), np.nan), 'not finite'), (np.float32([[np.inf, 0, 0, 0]]), 'not finite'),
                         (np.ones((2, 5)), r'\(2, 5\).*4 numbers a face'), (np.ones((1, 1, 4)), '4 numbers a face')):
        with pytest.raises(GalleryError, match=words):
            made.search(wrong, 0.5)
