"""InsightFace model packs: what ``FaceAnalysis`` and ``model_zoo.get_model`` load, old (0.7) and new (2.x manifest)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from plugins.files import atomic_path, sha256_file, write_atomic
from plugins.preprocess import Preprocess

__all__ = ['PackError', 'write_pack']


class PackError(ValueError):
    """InsightFace would not load the pack, or would load it wrongly."""


def write_pack(root: str | os.PathLike, name: str, recogniser: Path, preprocess: Preprocess, num_features: int,
               licence: str, detector: Path | None = None) -> Path:
    """Write ``root/models/name/`` (``root`` is what ``FaceAnalysis(name, root=root)`` takes).

    Args:
        recogniser: ONNX file with one input and one output.
        detector: ONNX detector of InsightFace's nine-output contract. Without one the pack is for
            ``insightface.model_zoo.get_model(file)`` only: ``FaceAnalysis`` insists on a detector.

    Raises:
        PackError: InsightFace routes models by input shape, and would take this one for something else; or the folder holds
            another model already.
    """
    size = preprocess.input_size
    if size < 112 or size % 16 or (size % 112 and size % 128) or size == 192:
        raise PackError(f'{name}: InsightFace takes a {size}x{size} model for something else (96 is an attribute net, 192 a '
                        'landmark net); build the recogniser for 112x112')
    if (preprocess.mean, preprocess.std, preprocess.colour) != (127.5, 127.5, 'RGB'):
        raise PackError(f'{name}: InsightFace feeds RGB (x - 127.5) / 127.5; this model wants {preprocess}')
    folder = Path(root) / 'models' / name
    folder.mkdir(parents=True, exist_ok=True)
    planned = {f'{name}.onnx': recogniser, **({'detector.onnx': detector} if detector else {})}
    others = sorted(path.name for path in folder.glob('*.onnx') if path.name not in planned)
    if others:
        raise PackError(f'{folder} already holds {", ".join(others)}: InsightFace loads the first model of a task in '
                        'alphabetical order; choose another name or move them away')
    for target, source in planned.items():
        with atomic_path(folder / target) as temporary:
            shutil.copyfile(source, temporary)
    recognition = {'file': f'{name}.onnx', 'sha256': sha256_file(recogniser), 'input_size': [size, size],
                   'embedding_dimension': num_features, 'preprocessing': {'mean': preprocess.mean, 'std': preprocess.std}}
    tasks = {'recognition': recognition}
    if detector:
        tasks['detection'] = {'file': 'detector.onnx', 'sha256': sha256_file(detector)}
    write_atomic(folder / 'MODEL.LICENSE', licence.rstrip() + '\n')
    write_atomic(folder / 'manifest.json', json.dumps(
        {'manifest_version': 2, 'model_id': name, 'license': 'MODEL.LICENSE', 'tasks': tasks}, indent=2) + '\n')
    return folder
