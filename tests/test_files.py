"""Files that are written whole: their permissions and links."""

from __future__ import annotations

import os
import tempfile

from plugins.files import atomic_path, write_atomic


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
