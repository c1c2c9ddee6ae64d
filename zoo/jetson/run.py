"""Embed faces and compare them.

  python3 run.py a.jpg b.jpg              cosine similarity of every two, and whether they are one person
  python3 run.py faces.npz --out e.npz    embeddings of many (array `faces`, uint8 RGB (N, 112, 112, 3))

Images need OpenCV (JetPack has it). They must be aligned crops, unless the bundle has a detector: then any pictures will do,
and the face in the middle of each is found and aligned.
"""

import io
import os
import sys
import zipfile

import numpy as np

from .bundle import BundleError, write_atomic
from .pictures import central_crop, read_picture
from .recogniser import unit
from .session import Session, make_parser, run_script

__all__ = ['main', 'read_faces']


def main(argv=None):
    parser = make_parser(__doc__.split('\n')[0])
    parser.add_argument('faces', nargs='+', help='pictures, or one .npz with an array `faces`')
    parser.add_argument('--precision', default='', help="precision of the engine; the bundle's default when not given")
    parser.add_argument('--out', help='write the embeddings to this .npz')
    return run_script(_run, parser.parse_args(argv))


def _run(arguments):
    session = Session(arguments.bundle)
    faces = read_faces(arguments.faces, session)
    embeddings = session.recogniser(arguments.precision)(faces)
    if arguments.out:
        content = io.BytesIO()
        np.savez(content, embeddings=embeddings)
        write_atomic(arguments.out, content.getvalue())  # under just this name, to which NumPy would add .npz
        sys.stdout.write('%s: %d embeddings of length %d\n' % (arguments.out, *embeddings.shape))
    elif len(faces) < 2:
        raise BundleError('%s: %d faces; name two to compare, or --out FILE.npz for embeddings'
                          % (arguments.faces[0], len(faces)))
    else:
        similarity = unit(embeddings).dot(unit(embeddings).T)
        threshold = session.bundle.facts['threshold']
        for i in range(len(faces) - 1):
            for j in range(i + 1, len(faces) if len(arguments.faces) > 1 else min(len(faces), i + 5)):
                sys.stdout.write('%s  %s  %.3f  %s\n' % (
                    _name(arguments.faces, i), _name(arguments.faces, j), similarity[i, j],
                    'one person' if similarity[i, j] > threshold else 'different persons'))


def _name(names, index):
    return names[index] if len(names) > 1 else '#%d' % index


def read_faces(paths, session):
    """uint8 RGB ``(N, size, size, 3)`` from image files or from one ``.npz``.

    Raises:
        BundleError: a file is missing, not an image, or of another size and nothing can be found in it.
    """
    size = session.bundle.facts['preprocess']['input_size']
    if len(paths) == 1 and paths[0].endswith('.npz'):
        if not os.path.isfile(paths[0]):
            raise BundleError('%s: no such file' % paths[0])
        try:
            arrays = dict(np.load(paths[0], allow_pickle=False))
        except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError('%s: not an .npz of arrays (%s)' % (paths[0], error)) from None
        if 'faces' not in arrays:
            raise BundleError('%s: has no array `faces`, only %s' % (paths[0], ', '.join(sorted(arrays))))
        return arrays['faces']
    faces = [read_picture(path) for path in paths]
    others = [i for i, face in enumerate(faces) if face.shape[:2] != (size, size)]
    if others and not session.has_detector:
        raise BundleError('%s: %dx%d pixels; an aligned face of %dx%d pixels is needed, or a bundle with a detector'
                          % ((paths[others[0]], *faces[others[0]].shape[1::-1], size, size)))
    detector = session.detector() if others else None
    for i in others:
        faces[i] = central_crop(faces[i], detector, size, paths[i])
    return np.stack(faces)
