"""Every reader given damaged files: it reads them or says what is wrong, and never does anything else."""

from __future__ import annotations

import io
import itertools
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zoo
from plugins.data.recordio import RecordHeader, RecordReader, RecordWriter, pack, unpack
from plugins.data.sources import TreeFaces, open_faces, read_faces
from plugins.data.verification import read_bin, read_pairs, write_bin
from plugins.preprocess import decode_image
from recipes.config import load_recipe
from tests.conftest import encode
from zoo.hub import HubError
from zoo.latency import bench_points, load_latency
from zoo.model_card import read_card
from zoo.mxnet import read_params
from zoo.weights import describe, load_weights, save_weights

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
REFUSALS = (ValueError, LookupError, FileNotFoundError, HubError)  # their messages are written for the user
FACE = encode(np.random.default_rng(0).integers(0, 255, (112, 112, 3), np.uint8))


def damage(data: bytes, cut: float, flips: list[tuple[float, int]], insert: bytes) -> bytes:
    """Some bytes changed, some inserted, the rest cut off: positions are fractions of the length."""
    changed = bytearray(data)
    for where, bit in flips:
        if changed:
            changed[int(where * (len(changed) - 1))] ^= bit
    middle = int(cut * len(changed))
    return bytes(changed[:middle] + insert + (changed[middle:] if insert else b''))


fractions = st.floats(0, 1)
damages = st.tuples(fractions, st.lists(st.tuples(fractions, st.integers(1, 255)), max_size=4), st.binary(max_size=12))


def record_bytes(folder) -> bytes:
    with RecordWriter(folder / 'valid.rec') as writer:
        for number in range(3):
            writer.write(number, pack(RecordHeader(float(number), number), FACE))
    return (folder / 'valid.rec').read_bytes()


def bin_bytes(folder) -> bytes:
    write_bin(folder / 'valid.bin', [FACE] * 4, [True, False])
    return (folder / 'valid.bin').read_bytes()


def weights_bytes(folder) -> bytes:
    save_weights(folder / 'valid.safetensors', tiny(), 'fdfacenet', {'width': 0.125})
    return (folder / 'valid.safetensors').read_bytes()


def checkpoint_bytes(_) -> bytes:
    buffer = io.BytesIO()
    torch.save(tiny().state_dict(), buffer)
    return buffer.getvalue()


def tiny():
    torch.manual_seed(0)
    return zoo.create('fdfacenet', width=0.125, num_features=16)


def read_records(path):
    reader = RecordReader(path)
    return [unpack(reader.read(int(key))) for key in reader.keys]


def read_images(path):
    source = TreeFaces(path)
    return read_faces(source, np.arange(len(source)), 112)


def card_bytes(_) -> bytes:
    return (zoo.model_card.CARDS / 'nfacenet.yaml').read_bytes()


READERS = {
    'rec': (record_bytes, '.rec', read_records),
    'bin': (bin_bytes, '.bin', read_bin),
    'image': (lambda _: FACE, '.jpg', lambda path: decode_image(path.read_bytes(), path.name)),
    'safetensors': (weights_bytes, '.safetensors', lambda path: (describe(path), load_weights(tiny(), path))),
    'checkpoint': (checkpoint_bytes, '.pt', lambda path: zoo.load('fdfacenet', weights=path, width=0.125, num_features=16)),
    'card': (card_bytes, '.yaml', read_card),
    'pairs': (lambda _: b'1\t2\nA\t1\t2\nA\t1\tB\t2\n', '.txt', lambda path: read_pairs(path.read_text('latin1'))),
    'latency': (lambda _: (zoo.latency.DATA / 'latency' / 'rk3288-paper.json').read_bytes(), '.json', load_latency),
    'bench': (lambda _: json.dumps({'results': [], 'machine': {'processor': 'x', 'date': 'y'}}).encode(), '.json',
              lambda path: bench_points(path)),
    'mxnet': (lambda _: b'\x12\x01' + bytes(6) + bytes(24), '.params', read_params),
}


@pytest.mark.parametrize('kind', READERS)
@EXAMPLES
@given(damages)
def test_damaged_files(tmp_path_factory, kind, change):
    make, suffix, read = READERS[kind]
    folder = tmp_path_factory.mktemp('fuzz')
    path = folder / f'damaged{suffix}'
    path.write_bytes(damage(make(folder), *change))
    try:
        read(path)
    except REFUSALS as error:
        assert str(error).strip(), f'{type(error).__name__} says nothing'


@pytest.mark.parametrize('kind', READERS)
def test_the_undamaged_file_is_read(tmp_path, kind):
    """Else the test above tests nothing."""
    make, suffix, read = READERS[kind]
    path = tmp_path / f'whole{suffix}'
    path.write_bytes(make(tmp_path))
    if kind == 'bench':
        with pytest.raises(ValueError, match='no rows'):
            read(path)
    elif kind != 'mxnet':
        assert read(path) is not None


@EXAMPLES
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.integers(0, 3))
def test_records_of_any_content_come_back(tmp_path_factory, payloads, magics):
    """Also those that hold the magic word, wherever it stands."""
    magic = (0xCED7230A).to_bytes(4, 'little')
    payloads = [magic * magics + payload + magic for payload in payloads]
    path = tmp_path_factory.mktemp('rec') / 'any.rec'
    with RecordWriter(path) as writer:
        for number, payload in enumerate(payloads):
            writer.write(number, payload)
    for reader in (RecordReader(path), RecordReader(path, path.with_suffix('.idx'))):
        assert [reader.read(int(key)) for key in reader.keys] == payloads


@EXAMPLES
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)))
def test_recipes_of_any_content(tmp_path_factory, value):
    path = tmp_path_factory.mktemp('recipe') / 'any.py'
    for key in ('network', 'rec', 'num_epoch', 'margin_list', 'augment', 'distill', 'lr'):
        path.write_text(f'config = {({"network": "fdfacenet", "rec": "x", "num_epoch": 1} | {key: value})!r}')
        try:
            load_recipe(str(path))
        except ValueError as error:
            assert 'any.py' in str(error)


@pytest.mark.parametrize('content', [b'', b'\0' * 64, pickle.dumps(([b'x'], [True])), b'PK\x05\x06' + bytes(18)],
                         ids=['empty', 'zeros', 'pickle', 'empty zip'])
def test_folders_and_archives_of_rubbish(tmp_path, content):
    for name, suffix in itertools.product(('faces', 'more'), ('.zip', '.jpg')):
        (tmp_path / f'{name}{suffix}').write_bytes(content)
    for path in (tmp_path, tmp_path / 'faces.zip'):
        with pytest.raises(REFUSALS):
            source = open_faces(path)
            read_faces(source, np.arange(len(source)), 112)
