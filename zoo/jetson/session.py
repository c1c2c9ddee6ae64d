"""What the three scripts share: open the bundle, make sure that there is a fitting engine, say errors in one line."""

import argparse
import os
import sys

from .board import describe
from .builder import BuildError, build_engine, import_tensorrt
from .bundle import Bundle, BundleError
from .cache import CacheError
from .cuda import CudaError, open_cuda
from .recogniser import Engine, EngineError, Recogniser

__all__ = ['Session', 'make_parser', 'run_script']


class Session:
    """A bundle on this board."""

    def __init__(self, folder):
        self.bundle = Bundle(folder)
        self.trt = import_tensorrt(self.bundle.facts['tensorrt'])
        self.cuda = open_cuda()
        self.board = describe(self.trt, self.cuda)

    def precisions(self, text):
        """``'fp16,int8'`` as a list, the bundle's default when empty.

        Raises:
            BundleError: the bundle has no such precision.
        """
        chosen = text.split(',') if text else [self.bundle.facts['default']]
        for precision in chosen:
            self.bundle.variant(precision)
        return chosen

    def build(self, precision):
        """Build the engine, whether or not there is one."""
        build_engine(self.bundle, precision, self.trt, self.board)

    def recogniser(self, precision):
        """The recogniser on an engine that fits this board; one that is missing or stale is built first."""
        problem = self.bundle.engine_problem(precision, self.bundle.key(precision, self.board))
        if problem:
            sys.stderr.write('engine %s: %s; building it\n' % (precision, problem))
            self.build(precision)
        with open(self.bundle.engine_path(precision), 'rb') as file:
            engine = Engine(file.read(), self.trt, self.cuda, self.bundle.facts['batch'])
        return Recogniser(engine, self.bundle.facts['preprocess'])


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
