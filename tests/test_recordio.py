"""RecordIO: byte-equal to files that MXNet 1.9.1 wrote (tests/data/mxnet), any payload survives, damage is named."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.data import sources
from plugins.data.recordio import MAGIC, RecordError, RecordHeader, RecordReader, RecordWriter, pack, rebuild_index, unpack
from plugins.data.sources import RecordFaces, header_slack
from tests.conftest import ROOT, benchmark, encode

RECORDED = ROOT / 'tests' / 'data' / 'mxnet'
interop = benchmark('mxnet_interop')
WORD = MAGIC.to_bytes(4, 'little')
# bytes rich in whole and broken magic words at all offsets
payloads = st.lists(st.one_of(st.binary(max_size=9), st.sampled_from([WORD, WORD[:3], WORD[1:]])), max_size=6).map(b''.join)
labels = st.floats(width=32, allow_nan=False)


def write(path: Path, records: dict[int, bytes]) -> Path:
    with RecordWriter(path) as writer:
        for key, payload in records.items():
            writer.write(key, payload)
    return path


@pytest.fixture
def three(tmp_path) -> Path:
    """A file of three records, the second in two parts."""
    return write(tmp_path / 'train.rec', {0: b'first record', 1: b'abcd' + WORD + b'more', 2: b'last'})


class TestAgainstMXNet:
    def test_writes_the_same_bytes(self, tmp_path):
        interop.write_ours(tmp_path)
        assert (tmp_path / 'fz.rec').read_bytes() == (RECORDED / 'mx.rec').read_bytes()
        assert (tmp_path / 'fz.idx').read_bytes() == (RECORDED / 'mx.idx').read_bytes()

    @pytest.mark.parametrize('indexed', [True, False])
    def test_reads_the_same_records(self, indexed):
        reader = RecordReader(RECORDED / 'mx.rec', RECORDED / 'mx.idx' if indexed else None)
        assert len(reader) == len(interop.cases()) > 25
        for key, (label, number, image) in enumerate(interop.cases()):
            header, found = unpack(reader.read(key))
            assert found == image and header.id == number
            assert np.array_equal(np.float32(header.label), np.float32(label))
            assert header.flag == (len(label) if isinstance(label, list) else 0)

    def test_reads_an_im2rec_file(self):
        faces = RecordFaces(RECORDED / 'im2rec.rec')
        assert faces.header is None and len(faces) == 3 and faces.num_classes == 2
        assert sorted(faces.read(i)[1] for i in range(3)) == [0, 0, 1]
        assert all(faces.read(i)[0][:2] == b'\xff\xd8' for i in range(3))


class TestRoundTrip:
    @settings(max_examples=60, deadline=None)
    @given(st.dictionaries(st.integers(0, 2**40), payloads, min_size=1, max_size=8))
    def test_any_payload_under_any_key(self, tmp_path_factory, records):
        path = write(tmp_path_factory.mktemp('rec') / 'train.rec', records)
        reader = RecordReader(path, path.with_suffix('.idx'))
        assert {key: reader.read(key) for key in records} == records
        assert [RecordReader(path).read(i) for i in range(len(records))] == list(records.values())

    @settings(max_examples=60, deadline=None)
    @given(st.one_of(labels, st.lists(labels, min_size=1, max_size=9).map(tuple)), st.integers(0, 2**64 - 1),
           st.binary(max_size=30))
    def test_header(self, label, number, image):
        assert unpack(pack(RecordHeader(label, number), image)) == (RecordHeader(label, number), image)

    def test_keys_in_any_order_and_the_last_of_two(self, tmp_path):
        path = write(tmp_path / 'a.rec', {5: b'five', 2: b'two', 9: b'nine'})
        with open(path.with_suffix('.idx'), 'a') as file:
            file.write('5\t0\n2\t0\n')
        reader = RecordReader(path, path.with_suffix('.idx'))
        assert reader.read(2) == b'five' and reader.read(9) == b'nine' and 5 in reader and 3 not in reader

    def test_other_processes(self, three):
        reader = RecordReader(three, three.with_suffix('.idx'))
        with multiprocessing.get_context('fork').Pool(2) as pool:
            assert pool.map(reader.read, [0, 1, 2] * 20) == [reader.read(k) for k in (0, 1, 2)] * 20
        assert pickle.loads(pickle.dumps(reader)).read(1) == b'abcd' + WORD + b'more'

    @pytest.mark.parametrize(('numbers', 'keys'), [((7, 5, 9), [7, 5, 9]), ((0, 0, 0), [0, 1, 2])])
    def test_index_is_rebuilt(self, three, numbers, keys):
        """By the records' own numbers, if they have some."""
        write(three, {key: pack(RecordHeader(0.0, number), b'x' * key) for key, number in enumerate(numbers)})
        three.with_suffix('.idx').unlink()
        assert rebuild_index(three) == 3
        reader = RecordReader(three, three.with_suffix('.idx'))
        assert reader.keys.tolist() == keys and [unpack(reader.read(key))[1] for key in keys] == [b'', b'x', b'xx']

    def test_an_error_while_writing_leaves_the_old_files(self, three):
        before = three.read_bytes()
        with pytest.raises(ZeroDivisionError), RecordWriter(three) as writer:
            writer.write(0, b'new')
            raise ZeroDivisionError
        assert three.read_bytes() == before and sorted(p.name for p in three.parent.iterdir()) == ['train.idx', 'train.rec']


class TestDamage:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 50))
    def test_cut_anywhere(self, tmp_path_factory, length):
        path = write(tmp_path_factory.mktemp('rec') / 'train.rec', {0: b'first record', 1: b'abcd' + WORD + b'more'})
        whole = path.read_bytes()
        path.write_bytes(whole[:min(length, len(whole) - 1)])
        with pytest.raises(RecordError, match='train'):
            reader = RecordReader(path, path.with_suffix('.idx'))
            [reader.read(key) for key in (0, 1)]

    @pytest.mark.parametrize(('index', 'message'), [
        ('0\t0\n1\t999\n', r'line 2: offset 999 of key 1 is past the end of .*train.rec \(\d+ bytes\)'),
        ('0\t0\n1\t-4\n', 'line 2'), ('0\t0\nfoo\t1\n', "line 2: 'foo"), ('0\t0\n1\n', "line 2: '1'"),
        ('0\t0\n99999999999999999999\t20\n', 'line 2'), ('', 'empty index'), ('0\t1.5\n', "line 1: '0"),
    ])
    def test_bad_index(self, three, index, message):
        three.with_suffix('.idx').write_text(index)
        with pytest.raises(RecordError, match=message):
            RecordReader(three, three.with_suffix('.idx'))

    def test_index_of_another_file(self, three):
        three.with_suffix('.idx').write_text('0\t4\n')
        with pytest.raises(RecordError, match=r'no record begins at byte 4 .*does .*train.idx belong'):
            RecordReader(three, three.with_suffix('.idx')).read(0)

    @pytest.mark.parametrize(('byte', 'value', 'message'), [(0, 0, 'no record begins'), (7, 0x60, 'part 3 out of order'),
                                                            (7, 0x1f, 'cut off')])
    def test_flipped_bits(self, three, byte, value, message):
        data = bytearray(three.read_bytes())
        data[byte] = value
        three.write_bytes(data)
        with pytest.raises(RecordError, match=message):
            RecordReader(three, three.with_suffix('.idx')).read(0)

    def test_unknown_key_names_the_range(self, three):
        with pytest.raises(KeyError, match=r'no record 7 \(keys 0 to 2\)'):
            RecordReader(three, three.with_suffix('.idx')).read(7)

    def test_a_file_of_another_kind(self, three):
        three.write_bytes(b'PK\3\4 an archive')
        with pytest.raises(RecordError, match=r'no record begins at byte 0 .* damaged, or no \.rec: copy it again'):
            RecordReader(three)

    def test_empty_file(self, three):
        three.write_bytes(b'')
        with pytest.raises(RecordError, match='empty file'):
            RecordReader(three)

    def test_record_shorter_than_its_header(self):
        with pytest.raises(RecordError, match='24-byte header'):
            unpack(b'short')
        with pytest.raises(RecordError, match='announces 3 labels'):
            unpack(pack(RecordHeader((1.0, 2.0, 3.0)), b'')[:-4])


def insightface_rec(path: Path, announced: float, images: int, persons: int = 2) -> Path:
    """A .rec in InsightFace's layout whose header announces ``announced - 1`` images."""
    picture = encode(np.zeros((112, 112, 3), np.uint8))
    records = {0: pack(RecordHeader((announced, announced + persons)), b'')}
    records |= {key: pack(RecordHeader(float((key - 1) * persons // images), key), picture) for key in range(1, images + 1)}
    records |= {images + 1 + p: pack(RecordHeader((1.0, 2.0)), b'') for p in range(persons)}
    return write(path / 'train.rec', records)


class TestHeader:
    def test_counts(self, tmp_path):
        faces = RecordFaces(insightface_rec(tmp_path, 7.0, 6))
        assert len(faces) == 6 and faces.num_classes == 2 and faces.read(5)[1] == 1 and faces.knows_classes

    @pytest.mark.parametrize('announced', [6.0, 8.0])
    def test_wrong_count_is_refused(self, tmp_path, announced):
        with pytest.raises(RecordError, match='announces'):
            RecordFaces(insightface_rec(tmp_path, announced, 6 + (announced < 7)))

    @pytest.mark.parametrize('announced', [6.0, 8.0])
    def test_float32_rounding_is_allowed_for(self, tmp_path, announced, monkeypatch):
        monkeypatch.setattr(sources, 'header_slack', lambda value: 1)
        faces = RecordFaces(insightface_rec(tmp_path, announced, 6))
        assert len(faces) == 6 and faces.num_classes == 2

    def test_slack_begins_where_float32_ends(self):
        assert [header_slack(n) for n in (5179511, 2**24 - 1, 2**24, 17091658, 2**25)] == [0, 0, 1, 1, 2]

    @pytest.mark.parametrize('images', [2**24, 2**24 + 2, 17_091_656])
    def test_more_images_than_float32_can_count(self, tmp_path, images, monkeypatch):
        """The counts of a Glint360K-sized set: every key is there, the records are made up when they are read."""
        persons, announced = 5, float(np.float32(images + 1))
        assert images % 2 or announced != images + 1

        class Reader:
            keys = np.arange(images + 1 + persons)

            def __init__(self, *paths): ...

            def __contains__(self, key): return 0 <= key < len(self.keys)

            def read(self, key):
                if not key:
                    return pack(RecordHeader((announced, float(np.float32(images + 1 + persons)))), b'')
                return pack(RecordHeader(3.0, key), b'image' if key <= images else b'')

        monkeypatch.setattr(sources, 'RecordReader', Reader)
        faces = RecordFaces(tmp_path)
        assert len(faces) == images and faces.num_classes == persons and faces.read(images - 1) == (b'image', 3)

    def test_label_that_is_no_class(self, tmp_path):
        path = write(tmp_path / 'train.rec', {0: pack(RecordHeader(float('nan')), encode(np.zeros((112, 112, 3), np.uint8)))})
        for read in (lambda: RecordFaces(path).read(0), lambda: RecordFaces(path).num_classes):
            with pytest.raises(RecordError, match=r'record 0: label nan is no class'):
                read()

    def test_property_of_something_else(self, tmp_path):
        faces = RecordFaces(write(tmp_path / 'train.rec', {0: pack(RecordHeader(3.0), b'image')}))
        (tmp_path / 'property').write_text('none')
        with pytest.raises(RecordError, match=r"property: 'none' is not \"identities,height,width\"; .* delete it"):
            faces.num_classes  # noqa: B018
        (tmp_path / 'property').unlink()
        assert faces.num_classes == 4
