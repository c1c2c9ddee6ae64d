"""Folders of persons to galleries: what is refused, what is doubtful, and what a later run may not spoil."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from plugins.preprocess import FaceError
from tests.conftest import encode
from zoo.pipeline.enrol import enrol_folder
from zoo.pipeline.gallery import Gallery


def test_enrolment_reports_what_it_refuses(pipeline, people, picture, tmp_path):
    shutil.copytree(people, tmp_path / 'p')
    (tmp_path / 'p' / 'Person 0' / 'group.jpg').write_bytes(encode(picture))
    (tmp_path / 'p' / 'Person 0' / 'empty.jpg').write_bytes(b'')
    (tmp_path / 'p' / 'Person 0' / 'wall.png').write_bytes(encode(np.full((90, 90, 3), 99, np.uint8), '.png'))
    shutil.copy(people / 'Person 4' / 'a.png', tmp_path / 'p' / 'Person 0' / 'other.png')
    shutil.copytree(people / 'Person 4', tmp_path / 'p' / ' ')
    gallery = Gallery(pipeline.contract())
    done = enrol_folder(pipeline, gallery, tmp_path / 'p', threshold=0.5)
    assert {path.parent.name for path in done.passed["in nobody's folder"]} == {' '}
    assert len(gallery) == 6 and len(done.enrolled['Person 0']) == 3
    reasons = {path.rpartition('/')[2]: why for path, why in done.refused}
    assert set(reasons) == {'group.jpg', 'empty.jpg', 'wall.png'}
    assert 'similar size' in reasons['group.jpg'] and 'empty' in reasons['empty.jpg'] and 'no face' in reasons['wall.png']
    assert any(path.endswith('other.png') for path, _ in done.doubtful)
    assert all('Person 0' in path for path, _ in done.doubtful)
    with pytest.raises(FaceError, match='NAME'):
        enrol_folder(pipeline, gallery, tmp_path / 'p' / 'Person 1')
    with pytest.raises(FaceError, match='no such folder'):
        enrol_folder(pipeline, gallery, tmp_path / 'none')


def test_a_later_enrolment_neither_replaces_nor_poisons(pipeline, people, tmp_path, monkeypatch):
    def day(folder: str, **pictures) -> None:
        for name, source in pictures.items():
            (tmp_path / folder / 'people' / 'Ann').mkdir(parents=True, exist_ok=True)
            shutil.copy(people / source, tmp_path / folder / 'people' / 'Ann' / f'{name}.png')

    def enrol(folder: str):
        monkeypatch.chdir(tmp_path / folder)
        return enrol_folder(pipeline, gallery, 'people', threshold=0.5)
    gallery = Gallery(pipeline.contract())
    day('one', a='Person 0/a.png')
    day('two', a='Person 0/b.png')
    day('three', b='Person 1/a.png')
    day('four', **dict.fromkeys('cdefgh', 'Person 2/a.png'))  # they agree with each other
    assert enrol('one').doubtful == enrol('one').doubtful == enrol('two').doubtful == []
    pictures = [str(tmp_path / folder / 'people' / 'Ann' / 'a.png') for folder in ('one', 'two')]
    assert gallery.persons == {'Ann': pictures}  # the first folder's was enrolled twice, and is there once
    for folder, count in (('three', 1), ('four', 6)):
        done = enrol(folder)
        assert [path for path, _ in done.doubtful] == done.enrolled['Ann'] and len(done.doubtful) == count
    (tmp_path / 'two' / 'people' / 'Ann' / 'link.png').symlink_to(pictures[1])
    assert enrol('two').enrolled == {'Ann': pictures[1:]} and len(gallery.persons['Ann']) == 9
