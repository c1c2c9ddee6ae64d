"""InsightFace's FaceAnalysis, unmodified, with our detector and recogniser: the same faces and embeddings as our pipeline."""

from __future__ import annotations

import numpy as np
import pytest

from plugins.preprocess import Preprocess
from zoo.evaluate.detection import overlaps
from zoo.export.pack import write_pack
from zoo.pipeline.recogniser import Pipeline
from zoo.runtime import open_embedder
from zoo.runtime.detector import open_detector

app = pytest.importorskip('insightface.app', reason='needs insightface')


@pytest.fixture(scope='module')
def analysis(detector_file, recogniser_file, tmp_path_factory):
    root = tmp_path_factory.mktemp('insightface')
    write_pack(root, 'facezoo', recogniser_file, Preprocess(), 512, 'test', detector=detector_file)
    made = app.FaceAnalysis('facezoo', root=str(root), providers=['CPUExecutionProvider'])
    made.prepare(ctx_id=-1, det_size=(640, 640), det_thresh=open_detector(detector_file).threshold)
    return made


def test_face_analysis_agrees_with_our_pipeline(analysis, detector_file, recogniser_file, picture):
    detector = open_detector(detector_file, threads=1)
    pipeline = Pipeline(detector, open_embedder(recogniser_file, threads=1), flip=False)
    ours = sorted(pipeline(picture).faces, key=lambda f: f.box[0])
    theirs = sorted(analysis.get(np.ascontiguousarray(picture[..., ::-1])), key=lambda f: f.bbox[0])
    assert len(ours) == len(theirs) == 6
    table = overlaps(np.stack([f.box for f in ours]), np.stack([f.bbox for f in theirs]))
    assert np.diag(table).min() > 0.95 and (table - np.diag(np.diag(table))).max() < 0.1
    first, second = np.stack([f.embedding for f in ours]), np.stack([f.normed_embedding for f in theirs])
    cosine = first @ second.T
    assert np.diag(cosine).min() > 0.99
    assert (cosine - np.diag(np.diag(cosine))).max() < 0.97
    eyes = np.linalg.norm(ours[0].landmarks[0] - ours[0].landmarks[1])
    assert np.abs(ours[0].landmarks - theirs[0].kps).max() < 0.05 * eyes
