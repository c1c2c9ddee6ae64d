"""From a weights entry of a card to a verified file: bundled, cached, or downloaded once."""

from __future__ import annotations

import http.client
import os
import urllib.request
from pathlib import Path

from plugins.files import atomic_path, sha256_file
from zoo.model_card import Weights, weights_of
from zoo.progress import progress_bar

__all__ = ['HubError', 'cache_folder', 'resolve', 'weights_path']

BUNDLED = Path(__file__).parent / 'weights'


class HubError(RuntimeError):
    """Weights cannot be had, or are not what the card says."""


def cache_folder() -> Path:
    """``$FACEZOO_CACHE``, else ``$XDG_CACHE_HOME/facezoo``, else ``~/.cache/facezoo`` (not created).

    Raises:
        HubError: none of them, since this user has no home folder.
    """
    if folder := os.environ.get('FACEZOO_CACHE'):
        return Path(folder)
    try:
        return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'facezoo'
    except RuntimeError:
        raise HubError('this user has no home folder to keep downloads in: set FACEZOO_CACHE to a folder') from None


def resolve(weights: Weights) -> Path:
    """Path of the weights file, its hash verified.

    With ``FACEZOO_OFFLINE=1`` nothing is downloaded.

    Raises:
        HubError: neither bundled, cached nor reachable, or the hash is wrong (a bad download is not kept).
    """
    path = BUNDLED / weights.file
    if not path.is_file():  # only then is a home folder needed, which a service or a container may not have
        path = cache_folder() / 'weights' / weights.file
    if path.is_file():
        _verify(path, weights, f'{path}', 'delete it and load again')
        return path
    if not weights.url:
        raise HubError(f'{weights.file} is not bundled with this installation and its card gives no URL; reinstall facezoo')
    if os.environ.get('FACEZOO_OFFLINE', '0') not in ('', '0'):
        raise HubError(f'{weights.file} is not cached in {path.parent} and FACEZOO_OFFLINE is set; '
                       f'fetch {weights.url} and put it there')
    with atomic_path(path) as temporary:
        _download(weights.url, temporary)
        _verify(temporary, weights, weights.url, 'load again')
    return path


def weights_path(name: str | os.PathLike) -> Path:
    """The weights file of a model of the zoo (``fdfacenet``, ``fdfacenet.lowquality``), verified; anything else as it is.

    Raises:
        HubError: see :func:`resolve`.
    """
    weights = weights_of(name)
    return resolve(weights) if weights else Path(name)


def _verify(path: Path, weights: Weights, source: str, remedy: str) -> None:
    found = sha256_file(path)
    if found != weights.sha256:
        raise HubError(f'{source}: sha256 is {found}, the card says {weights.sha256}: the file is truncated, damaged or not '
                       f'the one that was measured; {remedy}')


def _download(url: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=30) as response, open(target, 'wb') as file:
            total = int(response.headers.get('Content-Length', 0))
            with progress_bar(total, 'B', url.rpartition('/')[2]) as bar:
                while chunk := response.read(1 << 20):
                    file.write(chunk)
                    bar.update(len(chunk))
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise HubError(f'cannot download {url}: {str(error).strip()}') from None
