"""Does the recognition of videos leak memory, objects, open files or threads? Thousands of frames, sampled on the way.

    facezoo export retinaface_mnet025 --to onnx --out build/det.onnx
    facezoo export fdfacenet --to onnx --out build/rec.onnx
    python benchmarks/soak.py --detector build/det.onnx --recogniser build/rec.onnx          # writes results/soak.json

Needs: nothing

Two runs in one process: first one recogniser on one endless source whose frames change in size and number of faces (a week of a
camera), then the same pipeline on one video file after another (as in a service). Frames are windows that wander over the group
photo of the insightface package. Memory is the resident part that belongs to no file. Slopes are least-squares fits to the
samples after the warm-up, with twice the standard error, corrected for the correlation of neighbouring samples. Exit status 1
unless the slope of memory, with that error added, stays below 1 MB in 36 000 frames, which is an hour at 10 a second. The
slopes are extrapolated from the frames that were run: a step that comes less often than once in these is not seen, and one that
came just once makes the answer "cannot tell".
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from command_line import command_line  # noqa: E402

from plugins.extras import installed_versions  # noqa: E402
from plugins.files import sha256_file, write_atomic  # noqa: E402
from zoo.pipeline.gallery import Gallery  # noqa: E402
from zoo.pipeline.pictures import read_picture  # noqa: E402
from zoo.pipeline.recogniser import Pipeline, open_pipeline  # noqa: E402
from zoo.pipeline.sample import sample_image  # noqa: E402
from zoo.pipeline.video import Frame, VideoRecogniser, VideoSource  # noqa: E402

SIZES = ((240, 320), (360, 480), (300, 400), (480, 640))  # heights and widths of frames
STAY = 50  # frames of one size
HOUR = 36_000  # frames at 10 a second
ALLOWED = 1.0  # MB an hour
EXTENT = ('The slopes are those of the frames after the warm-up ({hours:.2g} hours at 10 frames a second), extrapolated to an '
          'hour: a step that comes less often is not seen, and whether it is flat after days nobody has measured.')
__all__ = ['Sample', 'WanderingSource', 'file_frames', 'growth', 'sampled', 'stream_frames']


@dataclass(frozen=True)
class Sample:
    """The process after so many frames: resident memory that is not of files; ``faces`` seen and ``embedded`` until then."""

    frames: int
    rss_mb: float
    objects: int
    files: int
    threads: int
    faces: int
    embedded: int


class WanderingSource:
    """Frames without end of a file that does not exist: windows over the group photo, of several sizes.

    Args:
        frames: how many; sizes: heights and widths, changing every :data:`STAY` frames.
    """

    live = False

    def __init__(self, frames: int, sizes: Iterable[tuple[int, int]] = SIZES) -> None:
        self.photo, self.frames, self.sizes = read_picture(sample_image()), frames, tuple(sizes)

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self.frames):
            yield Frame(number, number / 10, self.window(number, self.sizes[number // STAY % len(self.sizes)]))

    def window(self, number: int, size: tuple[int, int]) -> np.ndarray:
        """Part of the photo, wandering and breathing: from one face to all six, and sometimes none."""
        height, width = self.photo.shape[:2]
        scale = 0.55 + 0.4 * np.sin(number / 37)
        rows, columns = int(height * max(scale, 0.25)), int(width * max(scale, 0.25))
        top = int((height - rows) * (0.5 + 0.5 * np.sin(number / 23)))
        left = int((width - columns) * (0.5 + 0.5 * np.sin(number / 61)))
        return cv2.resize(self.photo[top:top + rows, left:left + columns], size[::-1], interpolation=cv2.INTER_AREA)

    def close(self) -> None:
        pass


def stream_frames(pipeline: Pipeline, gallery: Gallery, source: WanderingSource) -> Iterator[tuple[int, int]]:
    """Faces and embedded faces so far, after each frame of one long stream."""
    recogniser, faces = VideoRecogniser(pipeline, gallery, 0.4), 0
    for result in recogniser.run(source):
        faces += len(result.scene.faces)
        yield faces, recogniser.rates.embedded


def file_frames(pipeline: Pipeline, gallery: Gallery, paths: list[Path], frames: int) -> Iterator[tuple[int, int]]:
    """The same, one file after the other, each with a recogniser of its own."""
    done = faces = embedded = 0
    while done < frames:
        recogniser = VideoRecogniser(pipeline, gallery, 0.4)
        for result in recogniser.run(VideoSource(paths[0])):
            done, faces = done + 1, faces + len(result.scene.faces)
            yield faces, embedded + recogniser.rates.embedded
        paths, embedded = [*paths[1:], paths[0]], embedded + recogniser.rates.embedded


def sampled(frames: Iterable[tuple[int, int]], every: int) -> list[Sample]:
    """The process after every so many frames, without the samples themselves."""
    found = []
    for number, (faces, embedded) in enumerate(frames, 1):
        if number % every == 0:
            gc.collect()
            found.append(Sample(number, _anonymous(), len(gc.get_objects()) - len(found),
                                len(os.listdir('/proc/self/fd')), threading.active_count(), faces, embedded))
    return found


def _anonymous() -> float:
    """Resident MB that belong to no file: pages of libraries come and go as the system likes."""
    lines = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return int(lines['RssAnon'].split()[0]) / 1024


def growth(samples: list[Sample], of: Callable[[Sample], float], warm_up: int) -> tuple[float, float]:
    """Slope in units an hour of :data:`HOUR` frames after ``warm_up`` frames, and twice its standard error.

    The error is that of independent residuals times sqrt((1 + r) / (1 - r)) for their correlation r at lag 1, if positive.
    """
    kept = [sample for sample in samples if sample.frames > warm_up]
    x, y = np.array([sample.frames for sample in kept], float), np.array([of(sample) for sample in kept], float)
    x -= x.mean()
    slope = (x @ y) / (x @ x)
    left = y - y.mean() - slope * x
    variance = left @ left
    correlation = float(np.clip(left[1:] @ left[:-1] / variance, 0, 0.99)) if variance else 0.0
    error = np.sqrt(variance / (len(x) - 2) / (x @ x) * (1 + correlation) / (1 - correlation))
    return float(HOUR * slope), float(2 * HOUR * error)


def write_videos(folder: Path, frames: int = 60) -> list[Path]:
    """A video of each size, ``frames`` long."""
    paths = []
    for number, (height, width) in enumerate(SIZES):
        source = WanderingSource(frames, [(height, width)])
        paths.append(folder / f'{width}x{height}.mp4')
        writer = cv2.VideoWriter(str(paths[-1]), cv2.VideoWriter_fourcc(*'mp4v'), 10, (width, height))
        for frame in range(frames):
            writer.write(source.window(frame + 40 * number, (height, width))[..., ::-1])
        writer.release()
    return paths


def run(frames: Iterator[tuple[int, int]], every: int, warm_up: int) -> dict:
    """Samples of one run, and what they say."""
    began = time.perf_counter()
    samples = sampled(frames, every)
    slopes = {name: dict(zip(('an_hour', 'two_errors'), (round(v, 3) for v in growth(samples, of, warm_up)), strict=True))
              for name, of in (('rss_mb', lambda s: s.rss_mb), ('objects', lambda s: s.objects))}
    kept = [s for s in samples if s.frames > warm_up]
    return {'frames': samples[-1].frames, 'warm_up': warm_up, 'seconds': round(time.perf_counter() - began),
            'faces': samples[-1].faces, 'embedded': samples[-1].embedded, 'growth': slopes,
            'rss_mb': {'first': round(samples[0].rss_mb, 1), 'after_warm_up': round(kept[0].rss_mb, 1),
                       'last': round(kept[-1].rss_mb, 1), 'highest': round(max(s.rss_mb for s in samples), 1)},
            'files': sorted({s.files for s in kept}), 'threads': sorted({s.threads for s in kept}),
            'samples': [[s.frames, round(s.rss_mb, 2), s.objects] for s in samples]}


def grows(found: dict) -> str:
    """More than is allowed: ``yes``, ``no``, or ``cannot tell`` when that lies within two errors of the slope: run longer."""
    slope = found['growth']['rss_mb']
    low, high = (slope['an_hour'] + sign * slope['two_errors'] for sign in (-1, 1))
    return 'yes' if low > ALLOWED else 'no' if high <= ALLOWED else 'cannot tell'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--detector', type=Path, required=True)
    parser.add_argument('--recogniser', type=Path, required=True)
    parser.add_argument('--size', type=int, default=320, help='input of the detector')
    parser.add_argument('--frames', type=int, default=6000, help='of each run')
    parser.add_argument('--warm-up', type=int, default=1500)
    parser.add_argument('--every', type=int, default=50, help='frames between samples')
    parser.add_argument('--out', type=Path, default=ROOT / 'results' / 'soak.json')
    args = parser.parse_args()
    pipeline = open_pipeline(args.recogniser, args.detector, size=args.size, threads=1)
    gallery = Gallery(pipeline.contract())
    for number, face in enumerate(pipeline(sample_image()).faces):
        gallery.add(f'Person {number}', face.embedding, ['group'])
    with tempfile.TemporaryDirectory() as folder:
        runs = {'one stream': run(stream_frames(pipeline, gallery, WanderingSource(args.frames)), args.every, args.warm_up),
                'file after file': run(file_frames(pipeline, gallery, write_videos(Path(folder)), args.frames), args.every,
                                       args.warm_up)}
    from zoo.bench import machine
    report = {'command': command_line(__doc__), 'machine': machine(),
              'conditions': 'one thread a model; the machine was shared with other work',
              'versions': installed_versions(['numpy', 'onnxruntime', 'opencv-python', 'opencv-python-headless']),
              'sha256': {kind: sha256_file(getattr(args, kind)) for kind in ('detector', 'recogniser')},
              'detector_size': args.size, 'sizes': SIZES, 'persons': len(gallery),
              'frames_an_hour': HOUR, 'allowed_mb_an_hour': ALLOWED,
              'extent': EXTENT.format(hours=(args.frames - args.warm_up) / HOUR), 'runs': runs,
              'grows': {name: grows(found) for name, found in runs.items()}}
    write_atomic(args.out, json.dumps(report) + '\n')
    print(json.dumps({name: {k: v for k, v in found.items() if k != 'samples'} for name, found in runs.items()}, indent=2))
    return any(grows(found) != 'no' for found in runs.values())


if __name__ == '__main__':
    sys.exit(main())
