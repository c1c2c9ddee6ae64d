"""Recognise the faces of a camera, stream or video.

  facezoo watch 0 --gallery gallery.npz                              camera 0; a JSON line for each frame with faces
  facezoo watch /dev/video2 --gallery gallery.npz
  facezoo watch rtsp://door/stream --gallery gallery.npz --out door.jsonl
  facezoo watch "libcamerasrc ! videoconvert ! video/x-raw,format=BGR ! appsink"     GStreamer, where OpenCV has it
  facezoo watch party.mp4 --gallery gallery.npz --video named.mp4    every frame; with --live it plays in real time
  facezoo watch party.mp4 --sequential                               one thread, to compare the rates

Ctrl-C and SIGTERM (`systemctl stop`) stop cleanly. A camera or stream that ends by itself is lost: the exit status is then 1,
so that whatever started the watch can start it again. --out appends to a file that exists, numbering the frames anew; --video
overwrites nothing. For a camera or stream, each line also has the time of day at which the frame came.

A gallery file is read once, at the start: the next watch is the first to notice who was enrolled or removed since. A database
is asked whenever a face is looked at.

A face that is being followed is looked at again every 30 frames: in an edited film, somebody who appears in the same place
after a cut keeps the previous person's name until then.

At the end the time of each stage except reading is reported, with two rates: the sequential one is what these stages would
reach one after the other; the pipelined one is what was reached, with reading, detection and recognition in threads.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from zoo.commands.options import number
from zoo.commands.recognition import (
    add_gallery_option,
    add_pipeline_options,
    add_threshold_options,
    known_persons,
    make_pipeline,
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', metavar='SOURCE', help="a camera's number or device file, the URL of a stream or "
                                                           'video, a GStreamer pipeline, or a video file')
    parser.add_argument('--out', type=Path, metavar='FILE', help='append the JSON lines here; standard output by default')
    parser.add_argument('--video', type=Path, metavar='FILE.mp4', help='write the frames, with names drawn in, to a new file')
    parser.add_argument('--live', action='store_true', help='play a file in real time, dropping frames like a camera')
    parser.add_argument('--sequential', action='store_true', help='do everything in one thread')
    parser.add_argument('--seconds', type=number(float, 0, above=True), metavar='S', help='stop after so many seconds')
    add_gallery_option(parser)
    add_pipeline_options(parser)
    add_threshold_options(parser)


def run(args: argparse.Namespace) -> int:
    from zoo.pipeline.video import VideoRecogniser, VideoSource
    _check_video(args.video)
    pipeline = make_pipeline(args, many=not args.sequential)
    with ExitStack() as stack:
        gallery, threshold = stack.enter_context(known_persons(args, pipeline))
        source = VideoSource(args.source, args.live or None)
        recogniser = VideoRecogniser(pipeline, gallery, threshold)
        results = recogniser.run_sequentially(source) if args.sequential else recogniser.run(source)
        until = time.monotonic() + args.seconds if args.seconds else float('inf')
        lines = stack.enter_context(open(args.out, 'a')) if args.out else sys.stdout
        video = stack.enter_context(_video(args.video, source)) if args.video else None
        stack.enter_context(_stop_on_signal(recogniser))
        for result in results:
            if result.scene.faces:
                print(json.dumps(result.to_dict()), file=lines, flush=True)
            if video:
                with recogniser.rates.measure('draw'):
                    video(result)
            _show(recogniser.rates)
            if time.monotonic() > until:
                recogniser.stop()
    return _report(recogniser, source)


def _report(recogniser, source) -> int:
    print(json.dumps(recogniser.rates.to_dict()), file=sys.stderr)
    if recogniser.stopped:
        return 0
    if source.endless:
        reason = f'{source.name} ended after {source.read} frames: the camera or the connection is lost'
    elif source.expected and source.read < 0.98 * source.expected:
        reason = f'{source.name} ended after {source.read} of {source.expected} frames: it is damaged'
    else:
        return 0
    print(f'facezoo watch: {reason}', file=sys.stderr)
    return 1


def _check_video(path: Path | None) -> None:
    """Before the models are loaded and an hour is filmed."""
    if path and path.suffix.lower() != '.mp4':
        raise ValueError(f'--video {path}: name an .mp4 file')
    if path and path.exists():
        raise FileExistsError(f'--video {path} is there already, and no video is overwritten; name another one')


def _show(rates) -> None:
    """Live rates on the terminal, once a second."""
    if sys.stderr.isatty() and rates.wall and rates.frames % max(1, int(rates.frames / rates.wall)) == 0:
        facts = rates.to_dict()
        stages = ', '.join(f'{stage} {ms:.1f} ms' for stage, ms in facts['milliseconds'].items())
        print(f'\r{facts["fps_pipelined"]:.1f} frames/s ({stages}; {facts["dropped"]} dropped)  ', end='', file=sys.stderr)


@contextmanager
def _stop_on_signal(recogniser):
    """The first Ctrl-C or SIGTERM ends after the frame in work, a second one at once."""
    previous = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for which, handler in previous.items():
            signal.signal(which, handler)

    def handle(which, frame) -> None:
        recogniser.stop()
        restore()

    for which in previous:
        signal.signal(which, handle)
    try:
        yield
    finally:
        restore()


@contextmanager
def _video(path: Path, source):
    """A function that appends the drawn frame of a result, at its time: what was dropped, or never came from a camera that is
    slower than it says, shows the next one. The file appears under its name when it is whole."""
    import cv2

    from plugins.files import atomic_path
    from zoo.pipeline.draw import draw_scene
    with atomic_path(path) as temporary:
        part = temporary.with_suffix('.mp4')
        writer = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*'mp4v'), source.rate, source.size)
        if not writer.isOpened():
            raise RuntimeError(f'{path}: this OpenCV cannot write mp4 videos')
        written = 0

        def append(result) -> None:
            nonlocal written
            frame = draw_scene(result.scene)[..., ::-1].copy()
            if frame.shape[1::-1] != source.size:  # a stream may change its size; OpenCV leaves such frames out
                frame = cv2.resize(frame, source.size, interpolation=cv2.INTER_AREA)
            due = round(result.frame.seconds * source.rate) + 1
            for _ in range(due - written):
                writer.write(frame)
            written = max(written, due)

        try:
            yield append
        finally:
            writer.release()
            if part.exists():
                part.replace(temporary)
