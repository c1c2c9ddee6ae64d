"""The folder that was unpacked from a bundle's tar: ``bundle.json``, its files and their hashes, the engines built from it."""

import hashlib
import json
import os
import tempfile

__all__ = ['DETECTOR', 'FORMAT', 'Bundle', 'BundleError', 'sha256_file', 'write_atomic']

FORMAT = 1
DETECTOR = 'detector'


class BundleError(ValueError):
    """The bundle is incomplete, damaged, or does not offer what was asked for."""


class Bundle:
    """An unpacked bundle.

    Attributes:
        folder: where it lies.
        facts: ``bundle.json``: model, target, preprocess, variants (by precision, and ``detector``), ...

    Raises:
        BundleError: a file is missing or not the one that was exported.
    """

    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        path = self.path('bundle.json')
        if not os.path.isfile(path):
            raise BundleError('%s: no bundle.json there; unpack the bundle again, and run the scripts from its folder' % folder)
        try:
            with open(path) as file:
                self.facts = json.load(file)
            announced = self.facts['format']
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError('%s: cannot be read (%s); unpack the bundle again' % (path, error)) from None
        if announced != FORMAT:
            raise BundleError('%s: format %r, these scripts read format %d; use the scripts of the same bundle'
                              % (path, announced, FORMAT))
        for name, digest in sorted(self.facts['sha256'].items()):
            if not os.path.isfile(self.path(name)):
                raise BundleError('%s: %s is missing; the bundle was not unpacked completely' % (self.folder, name))
            if sha256_file(self.path(name)) != digest:
                raise BundleError('%s: %s is not the file that was exported (sha256 differs); copy the bundle again'
                                  % (self.folder, name))

    def path(self, name):
        """Path of a file of the bundle."""
        return os.path.join(self.folder, name)

    def variant(self, name):
        """What an engine is built from: the recogniser's of a precision, or the ``detector``'s.

        Raises:
            BundleError: this bundle was exported without it.
        """
        variants = self.facts['variants']
        if name not in variants:
            raise BundleError('this bundle has no %r, only %s; export it with %s' % (
                name, ', '.join(sorted(variants)), '--detector FILE' if name == DETECTOR else '--precision ' + name))
        return variants[name]

    def engine_path(self, name):
        """Where an engine is kept."""
        return self.path(os.path.join('engines', name + '.plan'))

    def _key(self, name, board):
        """Everything that an engine depends on, as a flat mapping of strings."""
        variant, files = self.variant(name), self.facts['sha256']
        key = {kind: files[variant[kind]] if variant.get(kind) else '' for kind in ('graph', 'cache')}
        key.update({'engine': name, 'flags': ' '.join(variant['flags']), 'shapes': json.dumps(variant['shapes']),
                    'layer_precisions': json.dumps(variant['layer_precisions'], sort_keys=True)})
        key.update({fact: str(board[fact]) for fact in ('tensorrt', 'compute_capability', 'device')})
        return key

    def engine_problem(self, name, board):
        """Why the engine on disk cannot be used, or an empty string when it can.

        Args:
            board: what :func:`board.describe` found.
        """
        path, key = self.engine_path(name), self._key(name, board)
        if not os.path.isfile(path):
            return 'there is none'
        try:
            with open(path + '.json') as file:
                found = json.load(file)
            differing = [fact for fact in sorted(key) if found['key'].get(fact) != key[fact]]
            if differing:
                return '; '.join('%s was %s, is %s' % (fact, str(found['key'].get(fact))[:40], key[fact][:40] or 'none')
                                 for fact in differing)
            if found['sha256'] != sha256_file(path):
                return 'the file was changed or cut off'
        except (OSError, ValueError, KeyError, TypeError):
            return 'nothing says what it was built from'
        return ''

    def keep_engine(self, name, board, plan, seconds):
        """Store an engine with what it was built from; ``plan`` is None when the file is in place already (trtexec)."""
        path = self.engine_path(name)
        if plan is not None:
            write_atomic(path, bytes(plan))
        facts = {'key': self._key(name, board), 'sha256': sha256_file(path), 'build_seconds': round(seconds, 1)}
        write_atomic(path + '.json', (json.dumps(facts, indent=1, sort_keys=True) + '\n').encode())


def sha256_file(path):
    """Lower-case hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path, data):
    """Write bytes so that the old file or the new one is there, never a part."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        os.makedirs(folder)
    handle, temporary = tempfile.mkstemp(prefix='.part-', dir=folder)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
