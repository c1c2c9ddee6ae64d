"""What TensorRT says. ``trt.Logger`` would write it to standard output, between the results."""

import sys
from contextlib import suppress
from functools import lru_cache

__all__ = ['open_log']


@lru_cache(maxsize=None)
def open_log(trt):
    """A logger that shows warnings, counts missing scales, and remembers the layer that is being timed.

    The program has only this one and never releases it: TensorRT before 8.4 goes on calling its first logger while any builder
    or runtime lives, even when that logger is gone.
    """
    base, warning, show = trt.ILogger, trt.ILogger.Severity.WARNING, sys.stderr  # kept: at the program's end modules are empty

    class Log(base):
        def __init__(self):
            base.__init__(self)
            self.reset()

        def reset(self):
            self.last, self.layer, self.missing_scales = '', '', 0

        def log(self, severity, message):
            if 'Missing scale and zero-point' in message:
                self.missing_scales += 1
            elif severity <= warning:
                self.last = message
                with suppress(OSError, ValueError):  # closed; C++ calls, and there an exception would end the process
                    show.write('[TensorRT] %s\n' % message)
            elif 'Timing Runner: ' in message:
                self.layer = message.partition('Timing Runner: ')[2].split(' ')[0][:50]

    return Log()
