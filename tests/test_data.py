"""Folders, archives, records and verification sets: made, read back, and refused when damaged."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch

from plugins.data import pack, recordio, sources
from plugins.data.recordio import RecordError, RecordHeader, RecordReader, RecordWriter, unpack
from plugins.data.recordio import pack as pack_record
from plugins.data.sources import MemoryFaces, TreeFaces, fingerprint, open_faces, read_faces
from plugins.data.verification import BinError, read_bin, read_pairs, write_bin
from plugins.preprocess import FaceError, PictureNorm, Preprocess, decode_image, encode_image
from tests.conftest import encode
from zoo.cli import main


@pytest.fixture(scope='module')
def face_zip(face_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp('zip') / 'faces.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        for file in sorted(face_folder.rglob('*.jpg')):
            archive.write(file, f'labelled/{file.relative_to(face_folder)}')
        archive.writestr('unlabelled/x.jpg', next(face_folder.rglob('*.jpg')).read_bytes())
        archive.writestr('labelled/quality.csv', 'file,score\nperson0/0.jpg,0.1\nperson0/1.jpg,0.9\n')
    return path


def test_folder_and_zip_are_the_same(face_folder, face_zip):
    folder, archive = open_faces(face_folder), open_faces(f'{face_zip}/labelled')
    assert (len(folder), folder.num_classes, folder.classes) == (48, 6, archive.classes)
    assert [folder.read(i) for i in range(48)] == [archive.read(i) for i in range(48)]
    again = pickle.loads(pickle.dumps(archive))  # as a spawned loader worker gets it
    assert again.read(5) == archive.read(5)
    assert open_faces(f'{face_zip}/unlabelled').read(0)[1] == -1


def test_fingerprint_tells_images_and_labels(face_folder, face_zip, tmp_path, monkeypatch):
    """The same for the same faces in a folder, an archive or records; another for one label, or one image's size."""
    def recorded(name: str, labels: list[int]) -> str:
        with RecordWriter(tmp_path / name) as writer:
            for key, label in enumerate(labels):
                writer.write(key, pack_record(RecordHeader(float(label)), folder.read(key)[0]))
        return fingerprint(open_faces(tmp_path / name))

    folder = open_faces(face_folder)
    labels = folder.labels.tolist()
    same = fingerprint(folder)
    assert same == fingerprint(open_faces(f'{face_zip}/labelled')) == recorded('same.rec', labels)
    assert same != recorded('other.rec', [*labels[1:], 5])
    monkeypatch.setattr(sources, '_SAMPLE', 2)
    shutil.copytree(face_folder, tmp_path / 'copy')
    assert fingerprint(open_faces(tmp_path / 'copy')) == fingerprint(folder)
    with open(tmp_path / 'copy' / 'person2' / '3.jpg', 'ab') as file:
        file.write(b'more')
    assert fingerprint(open_faces(tmp_path / 'copy')) != fingerprint(folder)


def test_pack_unpack_round_trip(face_folder, face_zip, tmp_path, capsys):
    assert main(['data', 'pack', f'{face_zip}/labelled', '--unlabelled', f'{face_zip}/unlabelled', '--min-quality', '0.3',
                 '--out', str(tmp_path / 'rec')]) == 0
    records = open_faces(tmp_path / 'rec')
    labels = [records.read(i)[1] for i in range(len(records))]
    assert len(records) == 49 and records.num_classes == 6
    assert labels == [0] * 7 + [p for p in range(1, 6) for _ in range(8)] + [-1, -1]  # the badly rated one is unknown
    assert (tmp_path / 'rec/property').read_text() == '6,112,112\n'
    # InsightFace's layout: record 0 says where the identity records are, each of which says where its images are
    reader = RecordReader(tmp_path / 'rec/train.rec', tmp_path / 'rec/train.idx')
    assert unpack(reader.read(0))[0].label == (50.0, 56.0)
    assert unpack(reader.read(51))[0].label == (8.0, 16.0)
    assert main(['data', 'unpack', str(tmp_path / 'rec'), '--out', str(tmp_path / 'out')]) == 0
    capsys.readouterr()
    assert main(['data', 'unpack', str(tmp_path / 'rec'), '--out', str(tmp_path / 'out')]) == 1
    assert 'out is not empty, and would mix these images with what it holds' in capsys.readouterr().err
    assert len(open_faces(tmp_path / 'out')) == 49
    assert main(['data', 'info', str(tmp_path / 'rec'), '--json']) == 0
    assert '"identities": 6' in capsys.readouterr().out


def test_holdout_shares_no_identity(face_folder, tmp_path, capsys):
    assert main(['data', 'pack', str(face_folder), '--out', str(tmp_path), '--holdout', '2', '--pairs', '40']) == 0
    images, same = read_bin(tmp_path / 'val.bin')
    records = open_faces(tmp_path)
    assert len(records) == 32 and records.num_classes == 4
    training = {records.read(i)[0] for i in range(32)}
    assert not training & set(images)
    assert same.sum() == 20 and len(same) == 40
    assert main(['data', 'pack', str(face_folder), '--out', str(tmp_path)]) == 1
    assert 'val.bin: its persons, held out' in capsys.readouterr().err and len(open_faces(tmp_path)) == 32


def test_a_small_holdout_says_how_many_pairs_it_can_give(face_folder, tmp_path, capsys):
    """Two persons of eight pictures give 56 pairs of one person, and nobody has to ask for 6000."""
    command = ['data', 'pack', str(face_folder), '--out', str(tmp_path), '--holdout', '2']
    assert main(command) == 1
    assert '2 identities give 56 pairs of one person, and 6000 pairs need 3000; take --pairs from 20 to 100,' in \
        capsys.readouterr().err
    assert main([*command, '--pairs', '19']) == 1 and '--pairs from 20 to' in capsys.readouterr().err
    assert main([*command[:-1], '1']) == 1 and '--holdout' in capsys.readouterr().err
    assert not (tmp_path / 'val.bin').exists()
    for asked, written in ((100, 100), (57, 40)):
        assert main([*command, '--pairs', str(asked)]) == 0
        assert f'val.bin: {written} pairs of 2 other' in capsys.readouterr().out
        assert len(read_bin(tmp_path / 'val.bin')[1]) == written


def test_only_the_identities_with_most_images(face_folder, tmp_path, capsys):
    out = tmp_path / 'small'
    for name in ('person1', 'person4'):
        shutil.copytree(face_folder / name, tmp_path / 'more' / name)
    sources = [str(face_folder), str(tmp_path / 'more')]
    assert main(['data', 'pack', *sources, '--out', str(out), '--identities', '2']) == 0
    assert '32 images, 2 identities' in capsys.readouterr().out
    assert main(['data', 'pack', *sources, '--out', str(tmp_path / 'x'), '--identities', '9']) == 1
    assert 'cannot keep 9 identities: there are 6' in capsys.readouterr().err


@pytest.mark.parametrize(('options', 'words'), [
    (['--pairs', '400'], 'give --holdout N, too'), (['--seed', '0'], 'give --holdout N, too'),
    (['--identities', '2', '--unlabelled', 'more'], 'leave out one option')])
def test_packing_passes_no_option_over(options, words, face_folder, tmp_path, capsys):
    assert main(['data', 'pack', str(face_folder), '--out', str(tmp_path), *options]) == 1
    assert words in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_index_can_be_rebuilt(face_folder, tmp_path):
    main(['data', 'pack', str(face_folder), '--out', str(tmp_path)])
    index = (tmp_path / 'train.idx').read_text()
    (tmp_path / 'train.idx').unlink()
    assert main(['data', 'index', str(tmp_path / 'train.rec')]) == 0
    assert (tmp_path / 'train.idx').read_text() == index


def test_impossible_requests_say_why(face_folder, tmp_path):
    faces = pack.gather([TreeFaces(face_folder)])
    with pytest.raises(FaceError, match='cannot hold out 6 of 6'):
        pack.split_identities(faces, 6)
    with pytest.raises(FaceError, match=r'pairs of one person.*--pairs'):
        pack.draw_pairs(faces, 6000)
    for read, place, error, said in ((open_faces, tmp_path, FaceError, 'no images .* below this folder'),
                                     (open_faces, tmp_path / 'nothing', FileNotFoundError, 'no folder'),
                                     (TreeFaces, tmp_path / 'nothing', FaceError, 'no images: there is no such folder')):
        with pytest.raises(error, match=said):
            read(place)


def test_wrong_crop_size_says_how_to_align(face_folder, tmp_path, faces):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'x.png').write_bytes(encode(faces[0][:100], '.png'))
    with pytest.raises(FaceError, match=r'112x100 pixels.*align'):
        read_faces(open_faces(tmp_path), [0], 112)


def png_that_claims(side: int) -> bytes:
    data = bytearray(encode(np.zeros((8, 8, 3), np.uint8), '.png'))
    data[16:24] = struct.pack('>2I', side, side)
    data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(('data', 'message'), [
    (b'', 'empty file'), (b'no image', 'not an image'), (b'\xff\xd8\xff\xe0', 'not an image'),
    (png_that_claims(100_000), 'cannot be decoded')], ids=['empty', 'text', 'cut', 'huge'])
def test_damaged_images_are_named(data, message):
    with pytest.raises(FaceError, match=f'x.jpg: {message}'):
        decode_image(data, 'x.jpg')


def test_cut_jpeg_is_noticed(faces):
    whole = encode(faces[0])
    assert decode_image(whole).shape == (112, 112, 3)
    with pytest.raises(FaceError, match=r'cut\.jpg: (not an image|.*truncated)'):
        decode_image(whole[:len(whole) // 2], 'cut.jpg')
    decode_image(whole + b'trailing bytes of some camera' * 9)


# --- .bin ------------------------------------------------------------------------------------------------------------------

def test_bin_round_trip(face_bin, tmp_path):
    images, same = read_bin(face_bin)
    write_bin(tmp_path / 'again.bin', images, same)
    again, same_again = read_bin(tmp_path / 'again.bin')
    assert again == images and (same_again == same).all()


def test_bin_as_insightface_writes_it(tmp_path):
    for protocol in range(6):
        for images in ([b'a', b'b'], [np.frombuffer(b'a', np.uint8), np.frombuffer(b'b', np.uint8)]):
            (tmp_path / 'x.bin').write_bytes(pickle.dumps((images, [True]), protocol))
            assert read_bin(tmp_path / 'x.bin')[0] == [b'a', b'b']


def test_bin_of_python_2(tmp_path):
    # cPickle of Python 2, protocol 2: strings are 8-bit
    (tmp_path / 'x.bin').write_bytes(b'\x80\x02]q\x01(U\x02\xff\xd8q\x02U\x02\xff\xd9q\x03e]q\x04\x88a\x86q\x05.')
    assert read_bin(tmp_path / 'x.bin')[0] == [b'\xff\xd8', b'\xff\xd9']


class Evil:
    def __reduce__(self):
        return os.system, ('touch /tmp/facezoo_was_here',)


@pytest.mark.parametrize('content', [Evil(), ([Evil(), b''], [True]), ([b'', b''], Evil())])
def test_bin_that_tries_to_run_code(tmp_path, content):
    (tmp_path / 'evil.bin').write_bytes(pickle.dumps(content))
    with pytest.raises(BinError, match=r'system.*not trustworthy'):
        read_bin(tmp_path / 'evil.bin')
    assert not os.path.exists('/tmp/facezoo_was_here')


@pytest.mark.parametrize(('content', 'message'), [
    (b'', 'not a verification'), (b'garbage', 'not a verification'), (pickle.dumps(([b'a'], [True])), '1 images for 1 pairs'),
    (pickle.dumps(([], [])), '0 images'), (pickle.dumps(7), 'not a verification'), (b'PK\n', r'\(\S+: [^\n]+\); it may be cut'),
    *[(pickle.dumps(pair), 'must hold a list of encoded images, then one of booleans') for pair in (
        ([1, 2], [True]), (['a', 'b'], [True]), (2, [True]), ([b'a', b'b'], ['different']), ([b'a', b'b'], [[True], []]))]])
def test_damaged_bin(tmp_path, content, message):
    (tmp_path / 'x.bin').write_bytes(content)
    with pytest.raises(BinError, match=message):
        read_bin(tmp_path / 'x.bin')


def test_cut_bin(face_bin, tmp_path):
    (tmp_path / 'x.bin').write_bytes(face_bin.read_bytes()[:5000])
    with pytest.raises(BinError, match='cut short'):
        read_bin(tmp_path / 'x.bin')


# --- pairs.txt -------------------------------------------------------------------------------------------------------------

def test_pairs():
    text = '10\t300\nA_B\t1\t4\nA_B\t2\tC\t3\n'
    assert read_pairs(text) == [('A_B/A_B_0001', 'A_B/A_B_0004', True), ('A_B/A_B_0002', 'C/C_0003', False)]
    with pytest.raises(FaceError, match='line 2'):
        read_pairs('10 300\nA B\n')
    with pytest.raises(FaceError, match='no pairs'):
        read_pairs('')


def test_pairs_folder_to_bin(crops, tmp_path):
    for person in 'AB':
        for number in (1, 2):
            path = tmp_path / 'set' / person / f'{person}_{number:04d}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(crops['AB'.index(person)], '.png'))
    (tmp_path / 'set/pairs.txt').write_text('1 1\nA 1 2\nA 1 B 2\n')
    assert main(['data', 'pairs', str(tmp_path / 'set'), '--out', str(tmp_path / 'set.bin')]) == 0
    images, same = read_bin(tmp_path / 'set.bin')
    assert len(images) == 4 and same.tolist() == [True, False]
    (tmp_path / 'set/pairs.txt').write_text('A 1 3\n')
    assert main(['data', 'pairs', str(tmp_path / 'set'), '--out', str(tmp_path / 'other.bin')]) == 1


# --- disk and preprocessing ------------------------------------------------------------------------------------------------

def test_full_disk_loses_nothing(face_folder, tmp_path, monkeypatch):
    main(['data', 'pack', str(face_folder), '--out', str(tmp_path)])
    before = (tmp_path / 'train.rec').read_bytes()
    class Full(io.FileIO):
        def write(self, data):
            if self.tell() > 20_000:
                raise OSError(28, 'No space left on device')
            return super().write(data)

    real = open
    def limited(path, mode='r', **kwargs):
        return Full(path, mode) if mode == 'wb' else real(path, mode, **kwargs)

    monkeypatch.setattr(recordio, 'open', limited, raising=False)
    assert main(['data', 'pack', str(face_folder), '--out', str(tmp_path)]) == 1
    assert (tmp_path / 'train.rec').read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.name.endswith('.part')]


def test_preprocess(crops):
    x = Preprocess()(crops)
    assert x.shape == (6, 3, 112, 112) and x.dtype == np.float32 and x.min() >= -1 and x.max() <= 1
    assert x[0, 0, 3, 5] == pytest.approx((crops[0, 3, 5, 0] - 127.5) / 127.5)
    bgr = Preprocess(colour='BGR')(crops)
    assert (bgr[:, ::-1] == x).all()
    with pytest.raises(FaceError, match='align the faces'):
        Preprocess()(crops[:, :96])
    with pytest.raises(FaceError, match='float32'):
        Preprocess()(crops.astype(np.float32))


def test_memory_faces_name_their_origin():
    assert MemoryFaces([b'x'], 'lfw.bin').name(0) == 'lfw.bin, image 0'


def test_record_faces_need_a_matching_index(face_folder, tmp_path):
    main(['data', 'pack', str(face_folder), '--out', str(tmp_path)])
    lines = (tmp_path / 'train.idx').read_text().splitlines(keepends=True)
    (tmp_path / 'train.idx').write_text(''.join(lines[:20]))
    with pytest.raises(RecordError, match='announces 48 images'):
        open_faces(tmp_path)


def test_a_damaged_archive_is_named(face_zip, tmp_path):
    with zipfile.ZipFile(face_zip) as archive:
        member = archive.infolist()[3]
    data = bytearray(face_zip.read_bytes())
    data[member.header_offset + 30 + len(member.filename) + 100] ^= 255
    (tmp_path / 'faces.zip').write_bytes(data)
    with pytest.raises(FaceError, match=rf'faces\.zip/{member.filename}: Bad CRC.*copy or download'):
        TreeFaces(tmp_path / 'faces.zip').read_file(member.filename)


def test_images_of_two_sizes_are_not_packed(face_folder, tmp_path):
    (tmp_path / 'faces' / 'a').mkdir(parents=True)
    for name, size in (('1.png', 112), ('2.png', 96)):
        (tmp_path / 'faces' / 'a' / name).write_bytes(encode_image(np.zeros((size, size, 3), np.uint8), '.png'))
    with pytest.raises(FaceError, match=r'2\.png: 96x96 pixels, the images before it have 112x112'):
        pack.pack_records(tmp_path / 'out', pack.gather([TreeFaces(tmp_path / 'faces')]))
    assert not (tmp_path / 'out' / 'train.rec').exists()


def test_what_systems_leave_beside_pictures_is_no_picture(face_folder, tmp_path):
    face = next(face_folder.rglob('*.jpg')).read_bytes()
    with zipfile.ZipFile(tmp_path / 'mac.zip', 'w') as archive:
        for name in ('anna/1.jpg', '__MACOSX/anna/._1.jpg', 'anna/.hidden.jpg'):
            archive.writestr(name, face if name == 'anna/1.jpg' else b'no picture')
    assert (TreeFaces(tmp_path / 'mac.zip').names, TreeFaces(tmp_path / 'mac.zip').classes) == (['anna/1.jpg'], ['anna'])


def test_linked_identities_are_found(face_folder, tmp_path):
    """As torchvision's ImageFolder finds them: a set that is put together of links lost persons without a word."""
    (tmp_path / 'set').mkdir()
    for person in sorted(face_folder.iterdir()):
        if person.is_dir():
            (tmp_path / 'set' / person.name).symlink_to(person)
    (tmp_path / 'set' / 'again').symlink_to(tmp_path / 'set')  # round in circles
    assert TreeFaces(tmp_path / 'set').names == TreeFaces(face_folder).names


@pytest.mark.parametrize('name', ['lost+found', '.Trash-1000', 'anna'])
def test_folders_that_may_not_be_read(crops, tmp_path, monkeypatch, name):
    """A disk's own at its root are nobody's pictures; any other would be a person who is lost without a word."""
    look = os.scandir

    def refuse(path):
        if os.path.basename(path) == name:
            raise PermissionError(13, 'Permission denied', str(path))
        return look(path)
    for folder in ('ben', name):
        (tmp_path / folder).mkdir()
    (tmp_path / 'ben' / '1.jpg').write_bytes(encode(crops[0]))
    monkeypatch.setattr('os.scandir', refuse)
    if name == 'anna':
        with pytest.raises(PermissionError, match='anna'):
            TreeFaces(tmp_path)
    else:
        assert TreeFaces(tmp_path).names == ['ben/1.jpg']


def test_names_of_one_number_are_two_persons(face_folder, tmp_path):
    """Each person's faces lie together in the file, also when two folders are called 7 and 007."""
    face = next(face_folder.rglob('*.jpg')).read_bytes()
    for place in ('a', 'b'):
        for name in ('7', '007', '²'):
            path = tmp_path / place / name / '1.jpg'
            path.parent.mkdir(parents=True)
            path.write_bytes(face)
    pack.pack_records(tmp_path / 'rec', pack.gather(TreeFaces(tmp_path / place) for place in ('a', 'b')))
    records = open_faces(tmp_path / 'rec')
    assert [records.read(i)[1] for i in range(len(records))] == [0, 0, 1, 1, 2, 2]


def test_quality_that_nobody_wrote_down(face_folder):
    with pytest.raises(FaceError, match=r'no quality\.csv'):
        pack.gather([TreeFaces(face_folder)], min_quality=0.5)


def test_quality_of_other_images(face_folder, tmp_path):
    """Named otherwise than the images are, none was taken out, and nothing said so."""
    shutil.copytree(face_folder / 'person0', tmp_path / 'person0')
    for prefix in ('faces/', './', ''):
        (tmp_path / 'quality.csv').write_text(f'file,score\n{prefix}person0/3.jpg,0.1\n')
        if prefix:
            with pytest.raises(FaceError, match=rf"quality\.csv rates '{prefix}person0/3\.jpg' .* as 'person0/0\.jpg'"):
                pack.gather([TreeFaces(tmp_path)], min_quality=0.5)
    assert [face.person for face in pack.gather([TreeFaces(tmp_path)], min_quality=0.5)].index(None) == 3


@pytest.mark.parametrize('norm', [Preprocess(), Preprocess(mean=127.0, std=128.0, colour='BGR'),
                                  PictureNorm((123.0, 117.0, 104.0), 1.0, 'BGR')], ids=['RGB', 'BGR', 'picture'])
def test_training_and_deployment_prepare_alike(norm, crops):
    np.testing.assert_allclose(norm.tensor(torch.from_numpy(crops)).numpy(), norm(crops), atol=1e-5)
