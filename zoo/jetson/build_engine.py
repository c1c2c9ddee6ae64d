"""Build engines on this board.

  python3 build_engine.py                 the default precision, and the detector if the bundle has one
  python3 build_engine.py fp16,int8
  python3 build_engine.py int8 --cache-only    only complete the calibration cache, for trtexec --calib
"""

import sys

from .builder import finalise_cache
from .session import Session, make_parser, run_script

__all__ = ['main']


def main(argv=None):
    parser = make_parser(__doc__.split('\n')[0])
    parser.add_argument('precision', nargs='?', default='', help='fp32, fp16, int8, detector, or several with commas')
    parser.add_argument('--cache-only', action='store_true', help='write engines/int8.calib and stop')
    parser.add_argument('--adopt', action='store_true', help='take engines/PRECISION.plan, which trtexec has just built')
    return run_script(_run, parser.parse_args(argv))


def _run(arguments):
    session = Session(arguments.bundle)
    for name in session.engines(arguments.precision):
        if arguments.cache_only:
            sys.stdout.write('%s\n' % finalise_cache(session.bundle, name, session.trt))
        elif arguments.adopt:
            session.adopt(name)
        else:
            session.build(name)
