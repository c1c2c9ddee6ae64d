"""Rates of `facezoo watch` on a video with real faces: frame by frame, in threads, frames side by side, and in real time."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from zoo.pipeline.pictures import read_picture
from zoo.pipeline.recogniser import open_pipeline
from zoo.pipeline.sample import sample_image
from zoo.pipeline.video import VideoRecogniser, VideoSource

FRAMES, SIZE = 200, (640, 360)
PACES = (25, 100)  # frames a second of the real-time plays: one that the machine keeps up with, one that it does not


def write_video(path: Path, rate: float, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> None:
    """A slow pan and zoom over the sample picture, as an MJPG file."""
    import cv2
    picture = read_picture(sample_image())[..., ::-1]
    height, width = picture.shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), rate, size)
    if not writer.isOpened():
        raise RuntimeError(f'{path}: this OpenCV cannot write MJPG videos')
    for turn in np.linspace(0, 1, frames):
        zoom = 1 - 0.25 * np.sin(np.pi * turn)
        wide, high = int(width * zoom), int(width * zoom * size[1] / size[0])
        left, top = int((width - wide) * turn), int((height - high) / 2)
        writer.write(cv2.resize(np.ascontiguousarray(picture[top:top + high, left:left + wide]), size,
                                interpolation=cv2.INTER_AREA))
    writer.release()


def video_speed(detector: Path, recogniser: Path, cores: int, score: float, repeats: int = 3) -> dict:
    """Frames a second of three ways to use the cores, in turns, medians; then lost frames and delays at each pace."""
    shared, side_by_side = (VideoRecogniser(open_pipeline(recogniser, detector, score=score, threads=cores, many=many))
                            for many in (False, True))
    ways = {'sequential': shared.run_sequentially, 'stages in threads': shared.run, 'frames side by side': side_by_side.run}
    rates = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / 'pan.avi'
        write_video(path, PACES[0])
        for _ in range(repeats):
            for way, run in ways.items():
                faces = [len(result.scene.faces) for result in run(VideoSource(path))]
                found = (side_by_side if way == 'frames side by side' else shared).rates
                rates[way].append(found.frames / found.wall)
        milliseconds, real_time = found.to_dict()['milliseconds'], {}
        for pace in PACES:
            write_video(path, pace)
            real_time[f'{pace} frames/s'] = _played(side_by_side, path)
    return {'frames': FRAMES, 'size': list(SIZE), 'faces_a_frame': [min(faces), max(faces)],
            'frames_a_second': {way: round(float(np.median(row)), 1) for way, row in rates.items()},
            'ratio_to_sequential': {way: round(float(np.median(np.array(row) / rates['sequential'])), 2)
                                    for way, row in rates.items()},
            'milliseconds_a_frame_side_by_side': milliseconds, 'real_time': real_time}


def _played(watcher: VideoRecogniser, path: Path) -> dict:
    began, delays = time.monotonic(), []
    for result in watcher.run(VideoSource(path, live=True)):
        delays.append(time.monotonic() - began - result.frame.seconds)
    half = len(delays) // 2
    return {'shown': watcher.rates.frames, 'dropped': watcher.rates.dropped,
            'median_delay_ms_first_half': round(1000 * float(np.median(delays[:half]))),
            'median_delay_ms_second_half': round(1000 * float(np.median(delays[half:])))}
