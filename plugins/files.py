"""Files: written so that nothing half-written is ever seen under the final name; hashed; imported by path."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ['atomic_path', 'import_file', 'locked', 'npz_bytes', 'read_names', 'sha256_file', 'staged_files', 'write_atomic']

_LOG = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: str | os.PathLike, like: str | os.PathLike | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on any error.

    The file is flushed to disk before the rename, so a crash leaves the old file or the new one, never a part. A link stays
    one, and a file that is there already keeps its permissions, or gets those of the file ``like``.
    """
    path = Path(os.path.realpath(path))
    like = Path(like or path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.urandom(4).hex()}.part')
    # not mkstemp: what the umask of this moment leaves a new file is seen, without setting it, by creating one
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600 if like.exists() else 0o666)
    mode = os.fstat(handle).st_mode & 0o777
    os.close(handle)
    try:
        yield temporary
        with open(temporary, 'rb+') as file:
            os.fsync(file.fileno())
        os.chmod(temporary, like.stat().st_mode & 0o777 if like.exists() else mode)  # some libraries put a file of theirs there
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
    """Write ``data`` to ``path`` through :func:`atomic_path`; text as UTF-8, names of files that are not UTF-8 byte by byte."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode(errors='surrogateescape') if isinstance(data, str) else data)


@contextmanager
def staged_files(folder: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty folder inside ``folder``, made if needed; on success its files move to the same places in ``folder``.

    For files that belong together: an error leaves those that were there before. Each is moved as :func:`atomic_path` says.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # inside: a folder may be a link or another disk, to which nothing can be moved from beside it
    with tempfile.TemporaryDirectory(prefix='.staged.', dir=folder, ignore_cleanup_errors=True) as work:
        yield Path(work)
        for file in [path for path in Path(work).rglob('*') if path.is_file()]:
            with atomic_path(folder / file.relative_to(work)) as temporary:
                shutil.move(file, temporary)


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Let one program at a time work on a file or folder, where the system has such locks; the others wait.

    The hidden lock file beside it stays: if it were removed, a program that waits for it and one that comes later would hold
    two different locks.
    """
    path = Path(os.path.realpath(path))  # a link and what it points to are one
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f'.{path.name}.lock')
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's: but on network file systems reading it is enough
        handle = os.open(lock, os.O_RDONLY)
    try:
        if fcntl:
            _wait_for_lock(handle, path)
        yield
    finally:
        os.close(handle)


def _wait_for_lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _LOG.info('%s: another program is using it; waiting', path)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems have none
        _LOG.warning('%s: cannot be locked here (%s); let only one program use it at a time', path, error.strerror)


def read_names(path: str | os.PathLike) -> str:
    """A text that names files: UTF-8 whatever the system's encoding is, with or without a byte order mark; names that are not
    UTF-8 come as the file system gives them."""
    return Path(path).read_text(encoding='utf-8-sig', errors='surrogateescape')


def sha256_file(path: str | os.PathLike) -> str:
    """Lower-case hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def import_file(path: str | os.PathLike) -> ModuleType:
    """Import a Python file that is on no search path, once a process.

    Raises:
        FileNotFoundError: no such file.
    """
    path = Path(path).absolute()
    name = f'facezoo_file_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}'
    if name not in sys.modules:
        if not path.is_file():
            raise FileNotFoundError(f'{path}: no such Python file')
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def npz_bytes(arrays: Mapping) -> bytes:
    """NumPy arrays by name as the content of a compressed ``.npz``."""
    import numpy as np
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
