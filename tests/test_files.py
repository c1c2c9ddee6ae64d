"""Files that are written whole: their permissions and links, and those that belong together."""

from __future__ import annotations

import os
import shutil
import tempfile

from plugins.data.verification import read_bin
from plugins.files import atomic_path, staged_files, write_atomic
from zoo.cli import main


def test_files_keep_their_permissions_and_links(tmp_path):
    (tmp_path / 'real.npz').write_bytes(b'old')
    (tmp_path / 'real.npz').chmod(0o600)
    (tmp_path / 'link.npz').symlink_to('real.npz')
    write_atomic(tmp_path / 'link.npz', b'new')
    assert (tmp_path / 'link.npz').is_symlink() and (tmp_path / 'real.npz').read_bytes() == b'new'
    assert (tmp_path / 'real.npz').stat().st_mode & 0o777 == 0o600


def test_a_new_file_heeds_the_umask_of_its_moment(tmp_path):
    """A program may set it when facezoo is imported already, as one that becomes a service does."""
    before = os.umask(0o077)
    try:
        for mask in (0o077, 0o022):
            os.umask(mask)
            with atomic_path(tmp_path / f'{mask}.npz') as temporary:  # as safetensors writes: through a file of its own
                os.replace(tempfile.mkstemp(dir=tmp_path)[1], temporary)
            assert (tmp_path / f'{mask}.npz').stat().st_mode & 0o777 == 0o666 & ~mask
    finally:
        os.umask(before)


def test_staged_files_keep_permissions_and_links(tmp_path):
    (tmp_path / 'real.bin').write_bytes(b'old')
    (tmp_path / 'real.bin').chmod(0o600)
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set' / 'val.bin').symlink_to('../real.bin')
    with staged_files(tmp_path / 'set') as stage:
        write_atomic(stage / 'val.bin', b'new')
        write_atomic(stage / 'holdout' / 'property', b'1')
    assert (tmp_path / 'set' / 'val.bin').is_symlink() and (tmp_path / 'real.bin').read_bytes() == b'new'
    assert (tmp_path / 'real.bin').stat().st_mode & 0o777 == 0o600
    assert {path.name for path in (tmp_path / 'set').rglob('*')} == {'val.bin', 'holdout', 'property'}


def test_a_pack_that_fails_leaves_the_old_set_whole(face_folder, tmp_path, capsys):
    """Persons of a new val.bin may be in the old training set."""
    faces, out = tmp_path / 'faces', tmp_path / 'out'
    shutil.copytree(face_folder, faces)
    command = ['data', 'pack', str(faces), '--out', str(out), '--holdout', '2', '--pairs', '40']
    assert main(command) == 0
    before = {path: path.read_bytes() for path in out.rglob('*') if path.is_file()}
    held = {person for person in faces.iterdir() if any(path.read_bytes() in read_bin(out / 'val.bin')[0]
                                                        for path in person.iterdir())}
    next(next(person for person in sorted(faces.iterdir()) if person not in held).iterdir()).write_bytes(b'no picture')
    assert main(command) == 1 and 'faces/person' in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob('*') if path.is_file()} == before
    assert {path.name for path in out.iterdir()} == {'train.rec', 'train.idx', 'property', 'val.bin', 'holdout'}
