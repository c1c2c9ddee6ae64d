"""From ONNX to an engine on this board, with TensorRT's Python API from 8.2 to 11: what a version lacks is asked for by name.

| | 8.2 | 8.4 | 8.5 | 10 | 11 |
|---|---|---|---|---|---|
| workspace | max_workspace_size | set_memory_pool_limit | | | |
| EXPLICIT_BATCH | needed | needed | needed | ignored | gone |
| precision flags, set_dynamic_range, layer.precision | yes | yes | yes | yes | gone: the graph's types count |
"""

import os
import sys
import threading
import time

from .bundle import BundleError, write_atomic
from .cache import CacheVersionError, complete_scales, read_cache, write_cache
from .log import open_log

__all__ = ['BuildError', 'build_engine', 'finalise_cache', 'import_tensorrt']


class BuildError(RuntimeError):
    """TensorRT is not there, cannot parse the graph, or cannot build it."""


def import_tensorrt(wanted):
    """The tensorrt module.

    Args:
        wanted: the version that the bundle was made for, ``'8.2.1'``; an older minor version is refused.

    Raises:
        BuildError: not installed, or too old.
    """
    try:
        import tensorrt
    except ImportError as error:
        raise BuildError('the Python package tensorrt cannot be imported (%s); on a Jetson: sudo apt install '
                         'python3-libnvinfer, and use the system python3' % error) from None
    if _version(tensorrt.__version__) < _version(wanted)[:2]:
        raise BuildError('TensorRT %s is older than the %s that this bundle was checked for; update JetPack (4.6.1 or later on '
                         'TX2 and Nano), or export the bundle for another target' % (tensorrt.__version__, wanted))
    if hasattr(tensorrt, 'init_libnvinfer_plugins'):  # its parser makes InstanceNormalization of one of them
        tensorrt.init_libnvinfer_plugins(None, '')  # no logger: the library would keep a pointer to it
    return tensorrt


def build_engine(bundle, name, trt, board):
    """Build an engine and keep it in ``engines/``; says where it is, how long it took and what was odd.

    Args:
        name: a precision of the recogniser, or ``'detector'``.
        trt: the tensorrt module.
        board: what :func:`board.describe` found.

    Raises:
        BuildError: with TensorRT's own messages.
        BundleError: the bundle was exported without it.
        CacheError: its calibration cache is damaged.
    """
    variant, began = bundle.variant(name), time.perf_counter()
    log = open_log(trt)
    if variant['verdict']:
        sys.stderr.write('%s: %s\n' % (name, variant['verdict']))
    builder = _make_builder(trt, log)
    network, parser = _parse(builder, bundle.path(variant['graph']), trt, log)
    config = builder.create_builder_config()
    _limit_workspace(config, bundle.facts['workspace_mb'] << 20, trt)
    if hasattr(trt, 'ProfilingVerbosity'):
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for flag in variant['flags']:
        if not hasattr(trt.BuilderFlag, flag):
            raise BuildError('TensorRT %s has no builder flag %s (it is strongly typed); export the bundle for a target '
                             'with this version'
                             % (trt.__version__, flag))
        config.set_flag(getattr(trt.BuilderFlag, flag))
    _add_profile(builder, config, network.get_input(0).name, variant['shapes'])
    if variant.get('cache'):
        _set_ranges(bundle, variant, network, trt)
    _set_precisions(variant['layer_precisions'], network, config, trt)
    timing_path = bundle.path(os.path.join('engines', 'timing.cache'))
    timing = _timing_cache(config, timing_path)
    with _Heartbeat(log, 'building %s' % name):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError('TensorRT could not build the %s engine: %s' % (name, log.last or 'it gave no reason'))
    if timing is not None:
        write_atomic(timing_path, bytes(config.get_timing_cache().serialize()))
    bundle.keep_engine(name, board, plan, time.perf_counter() - began)
    sys.stderr.write('%s: built in %.0f s, %.2f MB\n' % (name, time.perf_counter() - began, os.path.getsize(
        bundle.engine_path(name)) / 1e6))
    del parser
    if log.missing_scales:
        sys.stderr.write('%s: %d tensors have no scale; their layers run in FP16 or FP32\n' % (name, log.missing_scales))


def finalise_cache(bundle, precision, trt):
    """Write ``engines/<cache>``: the bundle's scales and those of the tensors that this TensorRT makes, under its version.

    Returns:
        Path of the file, for ``trtexec --calib``.

    Raises:
        BundleError: the bundle has no such precision, or one that needs no cache.
        BuildError, CacheError: as :func:`build_engine`.
    """
    variant = bundle.variant(precision)
    if not variant.get('cache'):
        raise BundleError('%s is built from %s without a calibration cache; leave out --cache-only'
                          % (precision, variant['graph']))
    log = open_log(trt)
    builder = _make_builder(trt, log)
    network, parser = _parse(builder, bundle.path(variant['graph']), trt, log)
    scales = _complete(bundle, variant, network, trt)
    del parser
    path = bundle.path(os.path.join('engines', variant['cache']))
    write_atomic(path, write_cache(scales, trt.__version__).encode())
    return path


def _version(text):
    return tuple(int(part) for part in text.split('.')[:3])


def _make_builder(trt, log):
    log.reset()
    try:
        return trt.Builder(log)
    except TypeError:  # what the binding raises when the library returns nothing
        raise BuildError('TensorRT cannot start: %s. Is the GPU visible here (docker: --runtime nvidia)?'
                         % (log.last or 'no reason given')) from None


def _parse(builder, path, trt, log):
    """The parsed network, and the parser, which owns its weights."""
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, 'EXPLICIT_BATCH') else 0)
    parser = trt.OnnxParser(network, log)
    with open(path, 'rb') as file:
        if parser.parse(file.read()):
            return network, parser
    problems = [parser.get_error(i).desc() for i in range(parser.num_errors)]
    raise BuildError('TensorRT %s cannot parse %s: %s' % (trt.__version__, path, '; '.join(problems) or 'it gave no reason'))


def _limit_workspace(config, size, trt):
    if hasattr(config, 'set_memory_pool_limit'):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
    else:
        config.max_workspace_size = size


def _add_profile(builder, config, name, shapes):
    profile = builder.create_optimization_profile()
    profile.set_shape(name, *(tuple(shape) for shape in shapes))
    config.add_optimization_profile(profile)


def _complete(bundle, variant, network, trt, version=None):
    """The scales of all tensors; a cache of another TensorRT than ``version`` is said to be one."""
    with open(bundle.path(variant['cache'])) as file:
        text = file.read()
    try:
        scales = read_cache(text, variant['cache'], version)
    except CacheVersionError as error:  # the scales hold for every version; only trtexec would skip the file
        sys.stderr.write('%s\n' % error)
        scales = read_cache(text, variant['cache'])
    scales, missing = complete_scales(network, scales, trt)
    if missing:
        sys.stderr.write('no scale is known for %s\n' % ', '.join(missing[:5]))
    return scales


def _set_ranges(bundle, variant, network, trt):
    """Give every tensor its range directly: no calibrator, and so no cache that TensorRT might skip for its version."""
    scales = _complete(bundle, variant, network, trt, trt.__version__)
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        tensors += [layer.get_output(j) for j in range(layer.num_outputs)]
    for tensor in tensors:
        if tensor.name in scales:
            tensor.set_dynamic_range(-127 * scales[tensor.name], 127 * scales[tensor.name])


def _set_precisions(precisions, network, config, trt):
    """Keep named layers out of 8 bits (or out of FP16)."""
    if not precisions:
        return
    types = {'fp16': trt.DataType.HALF, 'fp32': trt.DataType.FLOAT}
    found = set()
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.name in precisions:
            layer.precision = types[precisions[layer.name]]
            for j in range(layer.num_outputs):
                layer.set_output_type(j, types[precisions[layer.name]])
            found.add(layer.name)
    lost = sorted(set(precisions) - found)
    if lost:
        raise BuildError('the parser of TensorRT %s renamed the layers %s, so they cannot get a precision of their own'
                         % (trt.__version__, ', '.join(lost[:5])))
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)


def _timing_cache(config, path):
    """Kernel timings of earlier builds on this board: the next build takes seconds."""
    try:
        with open(path, 'rb') as file:
            known = file.read()
    except OSError:
        known = b''
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        sys.stderr.write('timing cache %s is from another board or TensorRT; starting a new one\n' % path)
        cache = config.create_timing_cache(b'')
        if cache is not None:
            config.set_timing_cache(cache, False)
    return cache


class _Heartbeat:
    """Says every few seconds that something is going on; TensorRT releases the interpreter lock while it builds."""

    def __init__(self, log, what):
        self._log, self._what = log, what
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._run, daemon=True)

    def _run(self):
        began = time.perf_counter()
        while not self._stop.wait(5):
            sys.stderr.write('%s: %4.0f s %s\n' % (self._what, time.perf_counter() - began, self._log.layer))
            sys.stderr.flush()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *ignored):
        self._stop.set()
        self._thread.join()
