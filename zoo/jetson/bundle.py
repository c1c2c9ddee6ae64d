"""The folder that was unpacked from a bundle's tar: ``bundle.json``, its files and their hashes, the engines built from it."""

import hashlib
import json
import os
import tempfile

__all__ = ['Bundle', 'BundleError', 'sha256_file', 'write_atomic']

FORMAT = 1


class BundleError(ValueError):
    """The bundle is incomplete, damaged, or does not offer what was asked for."""


class Bundle:
    """An unpacked bundle.

    Attributes:
        folder: where it lies.
        facts: ``bundle.json``: model, target, preprocess, variants by precision, batch, ...

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

    def variant(self, precision):
        """What an engine of a precision is built from.

        Raises:
            BundleError: this bundle was exported without it.
        """
        variants = self.facts['variants']
        if precision not in variants:
            raise BundleError('this bundle has no %r, only %s; export it with --precision %s'
                              % (precision, ', '.join(sorted(variants)), precision))
        return variants[precision]

    def engine_path(self, precision):
        """Where the engine of a precision is kept."""
        return self.path(os.path.join('engines', precision + '.plan'))

    def key(self, precision, board):
        """Everything that an engine depends on, as a flat mapping of strings.

        Args:
            board: ``tensorrt`` (version), ``compute_capability`` and ``device`` of this machine.
        """
        variant, facts = self.variant(precision), self.facts
        files = {'graph': variant['graph'], 'cache': variant.get('cache')}
        key = {name: facts['sha256'][file] if file else '' for name, file in files.items()}
        key.update({'precision': precision, 'flags': ' '.join(variant['flags']), 'batch': str(facts['batch']),
                    'layer_precisions': json.dumps(variant.get('layer_precisions', {}), sort_keys=True)})
        key.update({name: str(board[name]) for name in ('tensorrt', 'compute_capability', 'device')})
        return key

    def engine_problem(self, precision, key):
        """Why the engine on disk cannot be used, or an empty string when it can."""
        path = self.engine_path(precision)
        if not os.path.isfile(path):
            return 'there is none'
        try:
            with open(path + '.json') as file:
                found = json.load(file)
            differing = [name for name in sorted(key) if found['key'].get(name) != key[name]]
            if differing:
                return '; '.join('%s was %s, is %s' % (name, str(found['key'].get(name))[:40], key[name][:40] or 'none')
                                 for name in differing)
            if found['sha256'] != sha256_file(path):
                return 'the file was changed or cut off'
        except (OSError, ValueError, KeyError, TypeError):
            return 'nothing says what it was built from'
        return ''

    def keep_engine(self, precision, key, plan, seconds):
        """Store an engine with what it was built from; ``plan`` is None when the file is in place already (trtexec)."""
        path = self.engine_path(precision)
        if plan is not None:
            write_atomic(path, bytes(plan))
        facts = {'key': key, 'sha256': sha256_file(path), 'build_seconds': round(seconds, 1)}
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
