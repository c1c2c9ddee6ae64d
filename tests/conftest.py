"""Fixtures: real faces, from the sample photo that the insightface package ships and, where present, from ``../shared``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from plugins.files import import_file

ROOT = Path(__file__).parents[1]
PATIENCE = 600  # seconds for another process: how slow a machine may be, not how fast facezoo is
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')  # for tests that import onnxruntime before facezoo


@pytest.fixture(scope='session', autouse=True)
def _environment(tmp_path_factory):
    """Own cache folder, no network, few threads (the suite runs in parallel)."""
    os.environ['FACEZOO_CACHE'] = str(tmp_path_factory.mktemp('cache'))
    os.environ['FACEZOO_OFFLINE'] = '1'
    import torch
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder of real data beside the checkout, or ``FACEZOO_SHARED``; tests that need it skip without it."""
    folder = Path(os.environ.get('FACEZOO_SHARED', ROOT.parent / 'shared'))
    if not (folder / 'data').is_dir():
        pytest.skip('needs the real faces of ../shared (or FACEZOO_SHARED), which are not here')
    return folder


@pytest.fixture(scope='session')
def lfw_fold(shared):
    """Fold 1 of LFW: 600 pairs of 807 faces."""
    from plugins.data.sources import SubsetFaces
    from zoo.evaluate.verification import VerificationSet, load_verification_set
    lfw = load_verification_set(shared / 'data' / 'lfw_112.zip')
    used, pairs = np.unique(lfw.pairs[:600], return_inverse=True)
    return VerificationSet('lfw fold 1', SubsetFaces(lfw.faces, used), pairs.reshape(-1, 2), lfw.same[:600])


@pytest.fixture(scope='session')
def crops() -> np.ndarray:
    """Six aligned faces of six persons, uint8 RGB (6, 112, 112, 3)."""
    pytest.importorskip('insightface', reason='needs the sample photo of the insightface package')
    from zoo.pipeline.sample import sample_crops
    return sample_crops()


@pytest.fixture(scope='session')
def faces(crops) -> np.ndarray:
    """48 faces of the six persons, eight variants each (mirror, brightness, shift), uint8 RGB, person by person."""
    rng = np.random.default_rng(0)
    variants = []
    for crop in crops:
        for number in range(8):
            image = crop[:, ::-1] if number % 2 else crop
            shift = np.float32([[1, 0, rng.uniform(-4, 4)], [0, 1, rng.uniform(-4, 4)]])
            image = cv2.warpAffine(np.ascontiguousarray(image), shift, (112, 112), borderMode=cv2.BORDER_REPLICATE)
            variants.append(np.clip(image * rng.uniform(0.8, 1.2), 0, 255).astype(np.uint8))
    return np.stack(variants)


def benchmark(name: str):
    """A script of ``benchmarks/`` as a module; it imports its neighbours, as it does when it is run."""
    folder = ROOT / 'benchmarks'
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return import_file(folder / f'{name}.py')


def wait_for(condition: Callable[[], object]) -> None:
    """Until another process has come so far."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, 'it does not come'
        time.sleep(0.1)


def encode(image: np.ndarray, suffix: str = '.jpg') -> bytes:
    """RGB image to encoded bytes."""
    return cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


@pytest.fixture(scope='session')
def face_folder(faces, tmp_path_factory) -> Path:
    """The 48 faces as a folder of six identities."""
    root = tmp_path_factory.mktemp('faces')
    for number, face in enumerate(faces):
        path = root / f'person{number // 8}' / f'{number % 8}.jpg'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(face))
    return root


@pytest.fixture(scope='session')
def face_bin(faces, tmp_path_factory) -> Path:
    """A verification set of 40 pairs over the 48 faces."""
    from plugins.data.verification import write_bin
    rng = np.random.default_rng(1)
    images, same = [], []
    for number in range(40):
        person, other = rng.choice(6, 2, replace=False)
        genuine = number % 2 == 0
        a, b = rng.choice(8, 2, replace=False)
        images += [encode(faces[8 * person + a]), encode(faces[8 * (person if genuine else other) + b])]
        same.append(genuine)
    path = tmp_path_factory.mktemp('bin') / 'six.bin'
    write_bin(path, images, same)
    return path


TINY = """
config = dict(network='fdfacenet', network_args={'width': 0.25}, embedding_size=32, rec=REC, num_epoch=3, batch_size=12,
              lr=0.02, scale=16.0, margin_list=(1.0, 0.2, 0.0), val_targets=[VAL], num_workers=0, frequent=1, device='cpu',
              seed=1, output=OUT, compile=False)
"""


@pytest.fixture
def recipe(tmp_path, face_folder, face_bin):
    """A function that writes a tiny recipe and loads it with overrides."""
    from recipes.config import load_recipe

    def make(**overrides):
        path = tmp_path / 'tiny.py'
        path.write_text(f'REC, VAL, OUT = {str(face_folder)!r}, {str(face_bin)!r}, {str(tmp_path / "run")!r}' + TINY)
        return load_recipe(str(path), overrides)
    return make


def training_log(config) -> list[dict]:
    """What a training has logged, line by line."""
    return [json.loads(line) for line in Path(config.output, 'log.jsonl').read_text().splitlines()]


def settled(name: str, faces: np.ndarray, **kwargs):
    """An untrained backbone whose BatchNorm has the statistics of ``faces``: different faces get different embeddings, and
    every activation has the range it would have in use. In evaluation mode, with its preprocessing."""
    import torch

    import zoo
    from plugins.preprocess import Preprocess
    torch.manual_seed(0)
    model = zoo.create(name, **kwargs)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean over all batches
    with torch.no_grad():
        model.train()(torch.from_numpy(Preprocess()(faces)))
    model.preprocess = Preprocess()
    return model.eval()


@pytest.fixture(scope='session')
def small_net(faces):
    """A small FDFaceNet that tells faces apart."""
    return settled('fdfacenet', faces, width=0.25, num_features=64)


@pytest.fixture(scope='session')
def picture() -> np.ndarray:
    """The group photo with six faces, uint8 RGB (886, 1280, 3)."""
    pytest.importorskip('insightface', reason='needs the sample photo of the insightface package')
    from zoo.pipeline.pictures import read_picture
    from zoo.pipeline.sample import sample_image
    return read_picture(sample_image())


@pytest.fixture(scope='session')
def detector_file(tmp_path_factory) -> Path:
    """The bundled detector as ONNX."""
    import zoo
    from zoo.export.detector import export_detector
    path = tmp_path_factory.mktemp('detector') / 'retinaface_mnet025.onnx'
    export_detector(zoo.load('retinaface_mnet025'), 'retinaface_mnet025', 'onnx', path)
    return path


@pytest.fixture(scope='session')
def recogniser_file(tmp_path_factory) -> Path:
    """A recogniser as ONNX: the bundled FDFaceNet, or an untrained one while there is none."""
    import zoo
    from zoo.export.onnx import export_onnx
    trained = zoo.card('fdfacenet').weights
    path = tmp_path_factory.mktemp('recogniser') / 'fdfacenet.onnx'
    export_onnx(zoo.load('fdfacenet') if trained else zoo.create('fdfacenet').eval(), path)
    return path


@pytest.fixture(scope='session')
def cudart(tmp_path_factory) -> Path:
    """A folder with a libcudart.so whose device memory is host memory."""
    compiler = shutil.which('cc') or shutil.which('gcc')
    if not compiler:
        pytest.skip('needs a C compiler for the stand-in of libcudart')
    folder = tmp_path_factory.mktemp('cuda')
    source = ROOT / 'tests' / 'board' / 'cudart.c'
    subprocess.run([compiler, '-shared', '-fPIC', '-o', folder / 'libcudart.so', source], check=True)
    return folder


@pytest.fixture(scope='session')
def pipeline(detector_file, recogniser_file):
    """The bundled detector and recogniser, as ONNX files."""
    from zoo.pipeline import open_pipeline
    return open_pipeline(recogniser_file, detector_file, threads=1)


@pytest.fixture(scope='session')
def people(pipeline, picture, tmp_path_factory):
    """A folder with two pictures of each of the six persons of the group photo, cut out with some surroundings."""
    root = tmp_path_factory.mktemp('people')
    for number, face in enumerate(sorted(pipeline(picture).faces, key=lambda f: f.box[0])):
        left, top, right, bottom = face.box
        for name, border in (('a', 0.45), ('b', 0.6)):
            wide, high = border * (right - left), border * (bottom - top)
            cut = picture[max(0, int(top - high)):int(bottom + high), max(0, int(left - wide)):int(right + wide)]
            cut = cut[:, ::-1] if name == 'b' else cut
            path = root / f'Person {number}' / f'{name}.png'
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode(cut, '.png'))
    return root


@pytest.fixture(scope='session')
def gallery(pipeline, people):
    """The six persons of the group photo; tests that change a gallery take a copy."""
    from zoo.pipeline.enrol import enrol_folder
    from zoo.pipeline.gallery import Gallery
    made = Gallery(pipeline.contract())
    enrol_folder(pipeline, made, people)
    return made


@pytest.fixture(scope='session')
def video(tmp_path_factory):
    """40 frames of a bright square that moves, leaves after 20 frames and comes back elsewhere after 32."""
    path = tmp_path_factory.mktemp('video') / 'square.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 20, (160, 120))
    if not writer.isOpened():
        pytest.skip('this OpenCV cannot write mp4 videos')
    for number in range(40):
        frame = np.full((120, 160, 3), 20, np.uint8)
        if number < 20 or number >= 32:
            x = 10 + 3 * number if number < 20 else 20
            frame[40:80, x:x + 40] = 220
        writer.write(frame)
    writer.release()
    return path
