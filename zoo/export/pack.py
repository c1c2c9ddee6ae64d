"""InsightFace model packs: what ``FaceAnalysis`` and ``model_zoo.get_model`` load, old (0.7) and new (2.x manifest).

InsightFace before 2.0 has no description of a model: it takes a file for a detector, a recogniser, ... by the shapes of its
inputs and outputs. These rules are checked here, so that a pack that is written is a pack that is understood.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from plugins.extras import require
from plugins.files import atomic_path, sha256_file, write_atomic
from plugins.preprocess import Preprocess
from zoo.export.graph import computes_in_integers
from zoo.runtime.onnx import onnx_session, require_order

__all__ = ['PackError', 'check_pack', 'is_recogniser_size', 'load_as_insightface', 'write_pack']

DETECTOR = 'detector.onnx'
_MODEL_ID = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,127}')
_OUTPUTS = {9: 'three strides with landmarks', 15: 'five strides with landmarks'}


class PackError(ValueError):
    """InsightFace would not load the pack, or would load it wrongly."""


def is_recogniser_size(size: int) -> bool:
    """Whether InsightFace takes a net for crops of so many pixels for a recogniser, and aligns faces for it."""
    return size > 0 and (size % 112 == 0 or size % 128 == 0)


def check_pack(root: str | os.PathLike, name: str, preprocess: Preprocess, detector: Path | None = None) -> Path:
    """Refuse what InsightFace would misunderstand, before anything is exported.

    Returns:
        The pack's folder, ``root/models/name`` (not created).

    Raises:
        PackError: a name, input size or normalisation that InsightFace cannot use, a detector that it would not take for one,
            or a folder that already holds other models.
    """
    size = preprocess.input_size
    if not _MODEL_ID.fullmatch(name) or f'{name}.onnx' == DETECTOR:
        raise PackError(f'{name!r} cannot name a pack; use only letters, digits, ".", "_" and "-", and not "detector"')
    if not is_recogniser_size(size):
        taken = {96: 'an attribute net', 192: 'a landmark net'}.get(size, 'no recogniser (it wants multiples of 112 or 128)')
        raise PackError(f'{name}: InsightFace takes a {size}x{size} model for {taken}; build and train it for 112x112 '
                        '(zoo.create(NETWORK, input_size=112))')
    if (preprocess.mean, preprocess.std, preprocess.colour) != (127.5, 127.5, 'RGB'):
        raise PackError(f'{name}: InsightFace feeds RGB (x - 127.5) / 127.5; this model wants {preprocess}')
    folder = Path(root) / 'models' / name
    others = sorted(path.name for path in folder.glob('*.onnx') if path.name not in (f'{name}.onnx', DETECTOR))
    if others:
        raise PackError(f'{folder} already holds {", ".join(others)}: InsightFace loads the first model of a task in '
                        'alphabetical order; choose another --out, or move these files away')
    present = folder / DETECTOR
    if present.exists() and (detector is None or sha256_file(present) != sha256_file(detector)):
        raise PackError(f'{present} is not the detector given ({detector}); give the same one, choose another --out, or '
                        'delete the file')
    if detector is not None:
        _check_detector(detector)
    return folder


def _check_detector(path: Path) -> None:
    session = onnx_session(path, 1)
    outputs = session.get_outputs()
    if len(outputs) not in _OUTPUTS:
        raise PackError(f'{path}: {len(outputs)} outputs; InsightFace knows a detector with landmarks by 9 '
                        f'({_OUTPUTS[9]}) or 15 ({_OUTPUTS[15]}): all scores, then all boxes, then all landmarks')
    ranks = {len(output.shape) for output in outputs}
    if ranks != {2}:
        raise PackError(f'{path}: outputs of {sorted(ranks)} dimensions; InsightFace 0.7 reads (K, 1), (K, 4) and (K, 10), '
                        'without a batch dimension')
    try:
        require_order(path, outputs)
    except ValueError as error:
        raise PackError(str(error)) from None
    tensors = require('onnx', 'onnx').load(str(path), load_external_data=False).graph.initializer
    if any(tensor.data_location == tensor.EXTERNAL for tensor in tensors):
        raise PackError(f'{path}: its weights lie in another file, which a pack does not include; store all in one file: '
                        'onnx.save(onnx.load(FILE), ANOTHER)')
    if computes_in_integers(path):
        raise PackError(f'{path}: a detector in 8 bits is for processors with 8-bit dot products, a pack is for any; give the '
                        'file that `facezoo export retinaface_mnet025 --to onnx` writes without --precision')


def load_as_insightface(path: Path) -> None:
    """Load a recogniser with the installed InsightFace, if there is one, as its users will.

    Raises:
        PackError: it takes it for something else.
    """
    try:
        from insightface.model_zoo import get_model
    except ImportError:
        return
    loaded = get_model(str(path), providers=['CPUExecutionProvider'])
    if type(loaded).__name__ != 'ArcFaceONNX' or (loaded.input_mean, loaded.input_std) != (127.5, 127.5):
        raise PackError(f'{path.name}: InsightFace takes it for {type(loaded).__name__}; please report the model')


def write_pack(root: str | os.PathLike, name: str, recogniser: Path, preprocess: Preprocess, num_features: int,
               licence: str, detector: Path | None = None) -> Path:
    """Write ``root/models/name/`` (``root`` is what ``FaceAnalysis(name, root=root)`` takes).

    Args:
        recogniser: ONNX file with one input and one output.
        detector: ONNX detector of InsightFace's nine-output contract. Without one the pack is for
            ``insightface.model_zoo.get_model(file)`` only: ``FaceAnalysis`` insists on a detector.

    Raises:
        PackError: see :func:`check_pack`; or the folder cannot be written.
    """
    folder = check_pack(root, name, preprocess, detector)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for target, source in {f'{name}.onnx': recogniser, **({DETECTOR: detector} if detector else {})}.items():
            with atomic_path(folder / target) as temporary:
                shutil.copyfile(source, temporary)
        tasks = {'recognition': {
            'file': f'{name}.onnx', 'sha256': sha256_file(recogniser), 'input_size': [preprocess.input_size] * 2,
            'embedding_dimension': num_features, 'preprocessing': {'mean': preprocess.mean, 'std': preprocess.std}}}
        if detector:
            tasks['detection'] = {'file': DETECTOR, 'sha256': sha256_file(detector)}
        write_atomic(folder / 'MODEL.LICENSE', licence.rstrip() + '\n')
        write_atomic(folder / 'manifest.json', json.dumps(
            {'manifest_version': 2, 'model_id': name, 'license': 'MODEL.LICENSE', 'tasks': tasks}, indent=2) + '\n')
    return folder


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PackError(f'{folder} cannot be written ({error.strerror or error}); choose another --out and pass it to '
                        'FaceAnalysis as root=') from error
