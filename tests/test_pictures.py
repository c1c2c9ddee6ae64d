"""Reading pictures of every kind and in every state, and writing them."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from plugins.preprocess import FaceError, encode_image
from tests.conftest import encode
from zoo.pipeline.pictures import find_pictures, read_picture


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L', 'CMYK', 'P', '1'])
def test_colour_modes(mode, tmp_path):
    image = Image.new('RGB', (40, 30), (200, 100, 50)).convert(mode)
    path = tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png')
    image.save(path)
    array = read_picture(path)
    assert array.shape == (30, 40, 3) and array.dtype == np.uint8
    if mode in ('RGB', 'RGBA', 'CMYK'):
        np.testing.assert_allclose(array[5, 5].astype(int), (200, 100, 50), atol=12)


def test_sixteen_bits_become_eight():
    deep = np.full((9, 9), 40000, np.uint16)
    assert read_picture(cv2.imencode('.png', deep)[1].tobytes())[0, 0, 0] == 40000 >> 8


def test_exif_orientation_is_honoured(tmp_path):
    image = Image.fromarray(np.dstack([np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (32, 1))] * 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for suffix in ('jpg', 'png', 'webp'):
        image.save(tmp_path / f'a.{suffix}', exif=exif, quality=95)
        turned = read_picture(tmp_path / f'a.{suffix}')
        assert turned.shape == (64, 32, 3), suffix
        assert turned[0].mean() < 20 and turned[-1].mean() > 235, suffix


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new('RGB', (20, 20), colour) for colour in ('red', 'blue')]
    for suffix in ('gif', 'webp'):
        frames[0].save(tmp_path / f'a.{suffix}', save_all=True, append_images=frames[1:])
        assert read_picture(tmp_path / f'a.{suffix}')[10, 10, 0] > 200


@pytest.mark.parametrize(('data', 'message'), [(b'', 'empty'), (b'no picture at all', 'not an image'),
                                              (b'\0\0\0\x24ftypheic', 'HEIC.*convert it to JPEG')])
def test_damaged_bytes(data, message, tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_bytes(data)
    with pytest.raises(FaceError, match=rf'a\.jpg.*{message}'):
        read_picture(path)


def test_truncated_jpeg_and_png(tmp_path, picture):
    for suffix in ('.jpg', '.png'):
        path = tmp_path / f'cut{suffix}'
        path.write_bytes(encode(picture[:200, :200], suffix)[:-3000])
        with pytest.raises(FaceError, match=rf'cut{suffix}: cut short after \d+ bytes .*truncated.*copy it again'):
            read_picture(path)


def test_folders_missing_files_and_odd_arrays(tmp_path):
    with pytest.raises(FaceError, match='is a folder'):
        read_picture(tmp_path)
    with pytest.raises(FaceError, match='No such file'):
        read_picture(tmp_path / 'none.jpg')
    with pytest.raises(FaceError, match='float64'):
        read_picture(np.zeros((4, 4, 3)))
    assert read_picture(np.zeros((4, 5), np.uint8)).shape == (4, 5, 3)
    with pytest.raises(FaceError, match='no pictures'):
        find_pictures([tmp_path])


def test_pictures_of_folders_and_what_is_passed_over(tmp_path):
    for name in ('album/b/1.JPG', 'album/a.png', 'album/phone.heic', 'album/live.mov', 'album/.hidden/x.jpg', 'album/.DS_Store',
                 'else/2.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    album = tmp_path / 'album'
    (album / 'empty').mkdir()
    (album / 'linked').symlink_to(tmp_path / 'else')
    (album / 'b' / 'back').symlink_to(album)
    (album / 'gone.jpg').symlink_to(tmp_path / 'nowhere.jpg')
    found = find_pictures([album, tmp_path / 'else' / '2.jpg'])
    assert [(str(path.relative_to(tmp_path)), str(below)) for path, below in found.pictures.items()] == [
        ('album/a.png', 'a.png'), ('album/b/1.JPG', 'b/1.JPG'), ('album/linked/2.jpg', 'linked/2.jpg'), ('else/2.jpg', '2.jpg')]
    assert {reason: [str(path.relative_to(album)) for path in paths] for reason, paths in found.passed.items()} == {
        'links to a folder that it lies in': ['b/back'], 'empty folders': ['empty'], 'links to nothing': ['gone.jpg'],
        'HEIC, to be converted to JPEG first': ['phone.heic'], 'no pictures of a kind that is read': ['live.mov']}


def test_folders_that_may_not_be_read(tmp_path, monkeypatch):
    """As lost+found on a disk of pictures: it must not end the others' work."""
    (tmp_path / 'lost+found').mkdir()
    (tmp_path / 'a.jpg').touch()

    def iterdir(path, inside=Path.iterdir):  # root, as in many containers, may read everything
        if path.name == 'lost+found':
            raise PermissionError(13, 'Permission denied', str(path))
        return inside(path)
    monkeypatch.setattr(Path, 'iterdir', iterdir)
    found = find_pictures([tmp_path])
    assert [*found.pictures] == [tmp_path / 'a.jpg']
    assert found.passed == {'folders that may not be read': [tmp_path / 'lost+found']}
    with pytest.raises(PermissionError, match=r'lost\+found'):
        find_pictures([tmp_path / 'lost+found'])


def test_a_path_that_the_system_refuses_is_a_picture_that_cannot_be_read(tmp_path):
    path = tmp_path / f'{"a" * 300}.jpg'
    assert [*find_pictures([path, tmp_path / 'b.jpg']).pictures] == [path, tmp_path / 'b.jpg']
    with pytest.raises(FaceError, match=r'a\.jpg: cannot be read \(File name too long\)'):
        read_picture(path)


def test_a_bomb_is_refused_by_its_header():
    buffer = io.BytesIO()
    Image.new('1', (20000, 20000)).save(buffer, 'png')
    with pytest.raises(FaceError, match='scale it down'):
        read_picture(buffer.getvalue())


def test_a_picture_too_large_for_its_format_is_refused():
    with pytest.raises(FaceError, match=r'\.jpg.*65500'):
        encode_image(np.zeros((8, 66000, 3), np.uint8))
    assert encode_image(np.zeros((8, 66000, 3), np.uint8), '.png')
