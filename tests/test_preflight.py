"""What the launcher says before InsightFace's trainer starts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from plugins.arcface_torch.preflight import check_training
from plugins.data.pack import gather, pack_records
from plugins.data.recordio import RecordHeader, RecordWriter, pack
from plugins.data.sources import RecordFaces, TreeFaces
from plugins.data.verification import write_bin
from plugins.preprocess import FaceError
from tests.conftest import encode

BASE = {'margin_list': (1.0, 0.5, 0.0), 'network': 'r50', 'resume': False, 'output': None, 'embedding_size': 512,
        'sample_rate': 1, 'fp16': False, 'batch_size': 128, 'optimizer': 'sgd', 'lr': 0.1, 'weight_decay': 5e-4,
        'momentum': 0.9, 'verbose': 2000, 'frequent': 10, 'gradient_acc': 1, 'num_workers': 2, 'using_wandb': False,
        'dali': False}


@pytest.fixture
def base(monkeypatch) -> dict:
    """InsightFace's configs/base.py."""
    module = ModuleType('configs.base')
    module.config = dict(BASE)
    monkeypatch.setitem(sys.modules, 'configs.base', module)
    return module.config


@pytest.fixture
def check(base, face_folder):
    config = {'rec': str(face_folder), 'num_classes': 6, 'num_image': 48, 'num_epoch': 2, 'warmup_epoch': 0,
              'val_targets': [], 'batch_size': 16}

    def run(**changes):
        changed = {**config, **changes}
        return check_training({key: value for key, value in changed.items() if value is not ...}, Path('arcface_torch'))
    return run


def test_good(check):
    assert check() == []


@pytest.mark.parametrize(('changes', 'message'), [
    ({'num_image': 49}, 'num_image=49 in the recipe, but .* holds 48'), ({'num_epoch': ...}, 'the recipe lacks num_epoch'),
    ({'num_classes': 5}, 'num_classes=5 in the recipe, but .* holds 6'),
    ({'warmup_epoch': 2}, 'warmup_epoch=2 is not below'),
    ({'margin_list': (0.9, 0.4, 0.0)}, 'train_v2.py knows'), ({'optimizer': 'lion'}, 'knows only sgd and adamw'),
    ({'margin_list': (1.0, 0.3, 0.2)}, 'ignores the others'), ({'margin_list': (0.9, 0.0, 0.2)}, 'ignores the others'),
    ({'verbose': 0}, 'verbose=0: train_v2.py divides'), ({'gradient_acc': 0}, 'gradient_acc=0: train_v2.py divides'),
    ({'batch_size': 64}, 'less than one batch'), ({'network_args': {'width': 0.5}}, 'register a backbone')])
def test_stops(check, changes, message):
    with pytest.raises(FaceError, match=message):
        check(**changes)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'momentum': 0.95}, 'does not heed momentum=0.95'), ({'using_wandb': True}, 'goes on without W&B'),
    ({}, 'train_v2.py writes to ms1mv3_arcface_r50')])
def test_keys_that_it_has_and_does_not_heed(check, base, changes, message):
    if not changes:
        base['output'] = 'ms1mv3_arcface_r50'  # InsightFace's own
    notes = check(**changes)
    assert len(notes) == 1 and message in notes[0]


def test_notes_of_a_run(check):
    """train_v2.py reads `notes`, though its configs/base.py has none."""
    assert check(using_wandb=True, notes='first try') == []


def test_several_processes_without_a_batch(check, monkeypatch):
    """The loader of each would give none, and a network without a step of training would be saved."""
    monkeypatch.setenv('WORLD_SIZE', '3')
    assert check() == []
    monkeypatch.setenv('WORLD_SIZE', '4')
    with pytest.raises(FaceError, match='batch of 16 in each of 4 processes'):
        check()


def test_notes(check):
    notes = check(val_targets=['lfw', 'agedb_30'], schedule='step')
    assert sum("does not know schedule='step'" in note for note in notes) == 1
    assert sum('no verification on' in note for note in notes) == 2


@pytest.mark.parametrize('move', ['person3/album', '.thumbnails', 'empty'])
def test_folders_that_insightface_counts_otherwise(check, faces, tmp_path, move):
    for number, face in enumerate(faces[:12]):
        path = tmp_path / 'faces' / f'person{number // 2}' / f'{number}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(face))
    settings = {'rec': str(tmp_path / 'faces'), 'num_image': 12, 'batch_size': 4}
    assert check(**settings) == []
    odd = tmp_path / 'faces' / move
    if move == 'person3/album':
        (odd.parent).rename(tmp_path / 'album')
        odd.parent.mkdir()
        (tmp_path / 'album').rename(odd)
    else:
        odd.mkdir()
    with pytest.raises(FaceError, match=f"they differ in .*'{move.partition('/')[0]}'"):
        check(**settings)


def test_dali_reads_every_record(check, face_folder, tmp_path):
    pack_records(tmp_path, gather([TreeFaces(face_folder)]))
    assert check(rec=str(tmp_path)) == []
    for rec in (tmp_path, face_folder):
        with pytest.raises(FaceError, match=r'dali=True: .*shuffle_rec\.py'):
            check(rec=str(rec), dali=True)
    records = RecordFaces(tmp_path)
    payloads = [pack(records.header_of(index), records.read(index)[0]) for index in range(len(records))]
    with RecordWriter(tmp_path / 'shuffled' / 'train.rec') as writer:
        for key, payload in enumerate(payloads):
            writer.write(key, payload)
    assert check(rec=str(tmp_path / 'shuffled'), dali=True) == []


def test_face_that_would_be_a_header(check, crops, tmp_path):
    """MXNet's im2rec writes such (--pack-label); of these four InsightFace would train on records 1 and 2."""
    with RecordWriter(tmp_path / 'train.rec') as writer:
        for key, label in enumerate((3.0, 0.0, 1.0, 2.0)):
            writer.write(key, pack(RecordHeader((label, 0.5), key), encode(crops[0])))
    with pytest.raises(FaceError, match=r'train\.rec, record 0: a face with a list of labels'):
        check(rec=str(tmp_path), num_image=4, num_classes=4, batch_size=2)


@pytest.mark.parametrize(('labels', 'message'), [
    ((0.0, 1.0, 3.0, 2.0), r'record 2: label 3 is no class from 0 to num_classes - 1 = 2'),
    ((0.0, 1.5, 1.0, 2.0), r'record 1: label 1\.5 is no class'),
    ((0.0, 1.0, 2.0, -1.0), r'record 3: label -1 \(a face of unknown identity, which only `facezoo train` can use\)')])
def test_labels_that_are_no_class(check, crops, tmp_path, labels, message):
    with RecordWriter(tmp_path / 'train.rec') as writer:
        for key, label in enumerate(labels):
            writer.write(key, pack(RecordHeader(label, key), encode(crops[0])))
    with pytest.raises(FaceError, match=message):
        check(rec=str(tmp_path), num_image=4, num_classes=3, batch_size=2)


def test_larger_crops(check, faces, tmp_path):
    """`facezoo train` makes 224x224 ones smaller; InsightFace would train, or break off, on them as they are."""
    for number, face in enumerate(faces[:4]):
        path = tmp_path / f'person{number // 2}' / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(np.kron(face, np.ones((2, 2, 1), np.uint8)), '.png'))
    with pytest.raises(FaceError, match='224x224 pixels, and InsightFace'):
        check(rec=str(tmp_path), num_image=4, num_classes=2, batch_size=2)


def test_path_of_a_verification_set(check, face_bin):
    """`facezoo train` takes one; InsightFace adds .bin to it, finds nothing and is silent."""
    assert any('no verification on' in note for note in check(val_targets=[str(face_bin)]))


@pytest.mark.parametrize('name', ['faces.zip', 'train.rec'])
def test_no_folder(check, tmp_path, name):
    """`facezoo train` takes an archive, and train.rec itself."""
    (tmp_path / name).write_bytes(b'')
    with pytest.raises(FaceError, match='takes folders only'):
        check(rec=str(tmp_path / name))


def test_verification_set_that_would_end_the_training(check, face_folder, tmp_path, crops):
    """InsightFace divides by the pairs of each kind in each of ten folds: zero in a set with all of one kind first."""
    (tmp_path / 'faces').mkdir()
    for person in face_folder.iterdir():
        (tmp_path / 'faces' / person.name).symlink_to(person)
    data = encode(crops[0])
    for name, same in (('mixed', [True, False] * 10), ('sorted', [True] * 10 + [False] * 10), ('few', [True, False] * 4)):
        write_bin(tmp_path / 'faces' / f'{name}.bin', [data] * (2 * len(same)), same)
    (tmp_path / 'faces' / 'cut.bin').write_bytes((tmp_path / 'faces' / 'mixed.bin').read_bytes()[:-9])
    assert check(rec=str(tmp_path / 'faces'), val_targets=['mixed']) == []
    for name, message in (('sorted', 'pairs of one person, or pairs of two'), ('few', 'its 8 pairs'), ('cut', 'cut short')):
        with pytest.raises(FaceError, match=message):
            check(rec=str(tmp_path / 'faces'), val_targets=[name])


def test_what_insightface_does_not_read_does_not_stop_it(check):
    notes = check(milestones=[7.0, 9.25])  # beyond num_epoch: wrong for facezoo's trainer, nothing to this one
    assert len(notes) == 1 and 'does not know milestones=[7.0, 9.25]' in notes[0]
