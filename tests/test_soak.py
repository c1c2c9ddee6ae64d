"""Recognition of a video does not grow: some hundred frames through the real chain; benchmarks/soak.py runs thousands.

The control leaks a kilobyte a frame and must be found by the same figures and bounds.
"""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import benchmark
from zoo.pipeline.gallery import Gallery
from zoo.pipeline.recogniser import Pipeline
from zoo.pipeline.video import VideoRecogniser
from zoo.runtime import open_embedder
from zoo.runtime.detector import open_detector

SHORT, LONG = 40, 120
BYTES, OBJECTS = 256, 0.25  # a frame that may stay: a leak of anything that belongs to a face is more


@pytest.fixture(scope='module')
def soak():
    return benchmark('soak')


@pytest.fixture(scope='module')
def pipeline(detector_file, recogniser_file):
    return Pipeline(open_detector(detector_file, threads=1, size=160), open_embedder(recogniser_file, threads=1), flip=False)


@pytest.fixture(scope='module')
def gallery(pipeline, picture):
    made = Gallery(pipeline.contract())
    for number, face in enumerate(pipeline(picture).faces):
        made.add(f'Person {number}', face.embedding, ['a'])
    return made


def kept(frames: int, pipeline, gallery, soak) -> np.ndarray:
    """Bytes (of Python and NumPy), objects, open files and threads that a recogniser keeps after so many frames.

    The last frames are black, so that no track is open; the recogniser itself is still alive.
    """
    source = soak.WanderingSource(frames, [(180, 240), (120, 160)])
    window = source.window
    source.window = lambda number, size: window(number, size) * (number < frames - 12)
    before = _process()
    recogniser = VideoRecogniser(pipeline, gallery, 0.4)
    faces = sum(len(result.scene.faces) for result in recogniser.run(source))
    assert faces > 0.7 * frames and recogniser.rates.embedded > frames / 10
    return _process() - before


def kept_per_frame(*parts) -> np.ndarray:
    """The same for each frame, from a short and a longer stream."""
    tracemalloc.start()
    try:
        kept(SHORT, *parts)  # what is made once
        return (kept(LONG, *parts) - kept(SHORT, *parts)) / (LONG - SHORT)
    finally:
        tracemalloc.stop()


def _process() -> np.ndarray:
    gc.collect()
    return np.array([tracemalloc.get_traced_memory()[0], len(gc.get_objects()), len(os.listdir('/proc/self/fd')),
                     threading.active_count()], float)


needs_proc = pytest.mark.skipif(not Path('/proc/self/fd').is_dir(), reason='counts open files by /proc, which is not here')


@needs_proc
def test_a_stream_does_not_grow(pipeline, gallery, soak):
    bytes_, objects, files, threads = kept_per_frame(pipeline, gallery, soak)
    assert bytes_ < BYTES and objects < OBJECTS and not files and not threads


@needs_proc
def test_a_leak_would_be_found(pipeline, gallery, soak, monkeypatch):
    leaked = []
    recognise = VideoRecogniser._recognise

    def leaking(self, frame, scene, crops):
        leaked.append([np.zeros(256, np.float32)])
        return recognise(self, frame, scene, crops)
    monkeypatch.setattr(VideoRecogniser, '_recognise', leaking)
    bytes_, objects, _, _ = kept_per_frame(pipeline, gallery, soak)
    assert bytes_ > 4 * BYTES and objects > 2 * OBJECTS


def test_slopes_and_their_errors(soak):
    rng = np.random.default_rng(0)

    def samples(slope: float) -> list:
        noise = np.convolve(rng.normal(size=103), np.ones(4) / 4, 'valid')
        return [soak.Sample(50 * i, 200 + slope * 50 * i / soak.HOUR + noise[i], 0, 0, 0, 0, 0) for i in range(100)]
    covered = []
    for slope in (0.0, 30.0) * 20:
        found, error = soak.growth(samples(slope), lambda s: s.rss_mb, 500)
        covered.append(abs(found - slope) <= error)
    assert np.mean(covered) >= 0.8
    found, error = soak.growth(samples(30.0), lambda s: s.rss_mb, 500)
    assert found > error > 0
