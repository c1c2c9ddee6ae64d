"""What the scripts share: open the bundle, make sure that there is a fitting engine, say errors in one line."""

import argparse
import os
import sys

from .board import describe
from .builder import BuildError, build_engine, import_tensorrt
from .bundle import DETECTOR, Bundle, BundleError
from .cache import CacheError
from .cuda import CudaError, open_cuda
from .detector import Detector
from .engine import Engine, EngineError
from .pictures import require_opencv
from .recogniser import Recogniser

__all__ = ['Session', 'make_parser', 'run_script']


class Session:
    """A bundle on this board.

    Raises:
        BundleError: the folder holds no whole bundle.
        BuildError, CudaError: TensorRT, or CUDA, cannot be used here.
    """

    def __init__(self, folder):
        self.bundle = Bundle(folder)
        self.trt = import_tensorrt(self.bundle.facts['tensorrt'])
        self.cuda = open_cuda()
        self.board = describe(self.trt, self.cuda)

    def precisions(self, text):
        """``'fp16,int8'`` as a list of engines, the bundle's default precision when empty.

        Raises:
            BundleError: the bundle has no such precision.
        """
        chosen = text.split(',') if text else [self.bundle.facts['default']]
        for precision in chosen:
            self.bundle.variant(precision)
        return chosen

    @property
    def has_detector(self):
        """Whether the bundle was exported with a detector."""
        return DETECTOR in self.bundle.facts['variants']

    def engines(self, text):
        """As :meth:`precisions`; by default with the detector, when the bundle has one."""
        return self.precisions(text) + [DETECTOR] * (self.has_detector and not text)

    def build(self, name):
        """Build an engine, whether or not there is one."""
        build_engine(self.bundle, name, self.trt, self.board)

    def adopt(self, name):
        """Take the engine that trtexec has put in place, once it has shown that it takes the largest images.

        Raises:
            EngineError: it does not; the file is removed.
        """
        try:
            self._open(name).close()
        except EngineError:
            os.unlink(self.bundle.engine_path(name))
            raise
        self.bundle.keep_engine(name, self.board, None, 0.0)

    def engine(self, name):
        """An engine that fits this board, by precision or ``'detector'``; one that is missing or stale is built first.

        Raises:
            BuildError, BundleError, CacheError: as :func:`builder.build_engine`.
            EngineError: TensorRT refuses it.
        """
        problem = self.bundle.engine_problem(name, self.board)
        if problem:
            sys.stderr.write('engine %s: %s; building it\n' % (name, problem))
            self.build(name)
        return self._open(name)

    def _open(self, name):
        with open(self.bundle.engine_path(name), 'rb') as file:
            return Engine(file.read(), self.trt, self.cuda, self.bundle.variant(name)['shapes'][-1])

    def recogniser(self, precision=''):
        """The recogniser, in the bundle's default precision when none is named.

        Raises:
            BundleError: not one precision, or none that the bundle has.
        """
        facts, chosen = self.bundle.facts, self.precisions(precision)
        if len(chosen) > 1 or chosen == [DETECTOR]:
            raise BundleError('--precision %s: name one precision of the recogniser: %s'
                              % (precision, ', '.join(sorted(set(facts['variants']) - {DETECTOR}))))
        return Recogniser(self.engine(chosen[0]), facts['preprocess'], facts['num_features'])

    def detector(self):
        """The detector.

        Raises:
            BundleError: the bundle was exported without one, or OpenCV is missing.
        """
        require_opencv()
        return Detector(self.engine(DETECTOR), self.bundle.variant(DETECTOR))


def make_parser(text):
    """Arguments that all scripts have."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument('--bundle', default=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                        help='folder of the unpacked bundle; this one by default')
    return parser


def run_script(script, arguments):
    """Run ``script(arguments)``; an error whose message is written for the user ends with that message and status 1."""
    try:
        return script(arguments) or 0
    except (BuildError, BundleError, CacheError, CudaError, EngineError, OSError) as error:
        sys.stderr.write('%s\n' % error)
        return 1
