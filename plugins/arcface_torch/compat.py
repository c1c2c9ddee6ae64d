"""What breaks when ``arcface_torch`` meets today's libraries, one named shim per problem.

A shim has a probe that tries the thing that breaks and says why the shim is needed, or nothing when it is not; only then is
it applied. All are listed at start-up, and ``--without NAME`` leaves one out. Probes do not need a checkout; the shims are
applied with the checkout on ``sys.path`` and before any of its modules is imported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import multiprocessing
import os
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from plugins.arcface_torch import cpu, mxnet_standin

__all__ = ['SHIMS', 'Shim', 'apply_shims', 'survey']


@dataclass(frozen=True)
class Shim:
    """A problem and its remedy.

    Attributes:
        name: for ``--without``.
        problem: what breaks, and in which scripts.
        probe: why it is needed on this machine; '' when it is not.
        apply: the remedy.
        provides: the library that it stands in for.
    """

    name: str
    problem: str
    probe: Callable[[], str]
    apply: Callable[[], None]
    provides: str = ''


def survey() -> dict[str, str]:
    """Every shim's name and why this machine needs it ('' when not)."""
    found = {}
    for shim in SHIMS:
        found[shim.name] = shim.probe()
        if found[shim.name] and shim.name == 'numpy-aliases':
            shim.apply()  # whether an installed mxnet imports depends on it
    return found


def apply_shims(without: Iterable[str] = ()) -> dict[str, str]:
    """Apply what is needed, in order.

    Returns:
        Name and reason of each shim that was needed; the reason of one left out begins with ``LEFT OUT``.
    """
    without, needed = set(without), {}
    for shim in SHIMS:
        reason = shim.probe()
        if reason and shim.name not in without:
            shim.apply()
        if reason:
            needed[shim.name] = f'LEFT OUT ({reason})' if shim.name in without else reason
    return needed


# --- numpy-aliases: np.int, np.float (removed in NumPy 1.24); np.bool came back in 2.0 and MXNet imports need it

def _probe_aliases() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        missing = [name for name in ('bool', 'int', 'float') if not hasattr(np, name)]
    return f'NumPy {np.__version__} has no np.{", np.".join(missing)}' if missing else ''


def _apply_aliases() -> None:
    for name, kind in (('bool', bool), ('int', int), ('float', float)):
        if not hasattr(np, name):
            setattr(np, name, kind)


# --- mxnet-standin

def _probe_mxnet() -> str:
    if 'mxnet' in sys.modules:
        return ''
    if importlib.util.find_spec('mxnet') is None:
        return 'mxnet is not installed'
    import torch
    threads = torch.get_num_threads()
    try:
        importlib.import_module('mxnet')
    except Exception as error:
        return f'the installed mxnet does not import ({type(error).__name__}: {error})'
    finally:
        torch.set_num_threads(threads)  # MXNet's OpenMP sets it to 1
    return ''


# --- float-labels: a record's label vector is float32, and torch refuses such a scalar for an integer tensor

def _probe_labels() -> str:
    import torch
    try:
        torch.tensor(np.float32(1), dtype=torch.long)
    except TypeError as error:
        return f'torch {torch.__version__}: {error}'
    return ''


def _apply_labels() -> None:
    recordio = importlib.import_module('mxnet.recordio')
    original = recordio.unpack

    @functools.wraps(original)
    def unpack(s):
        header, image = original(s)
        if header.flag:
            header = header._replace(label=[float(value) for value in header.label])
        return header, image
    recordio.unpack = unpack


# --- scheduler-verbose

def _probe_scheduler() -> str:
    import torch
    known = inspect.signature(torch.optim.lr_scheduler._LRScheduler.__init__).parameters
    return '' if 'verbose' in known else f'torch {torch.__version__}: _LRScheduler takes no verbose='


def _apply_scheduler() -> None:
    from torch.optim import lr_scheduler

    class _LRScheduler(lr_scheduler._LRScheduler):
        def __init__(self, optimizer, last_epoch=-1, verbose=False):
            super().__init__(optimizer, last_epoch=last_epoch)
    lr_scheduler._LRScheduler = _LRScheduler


# --- slinear-duplicates: the ROC has equal FARs at many thresholds

def _probe_interp1d() -> str:
    if importlib.util.find_spec('scipy') is None:
        return ''
    import scipy
    from scipy.interpolate import interp1d
    try:
        interp1d([0.0, 0.0, 1.0], [0.0, 1.0, 2.0], kind='slinear')(0.5)
    except ValueError as error:
        return f'SciPy {scipy.__version__}: {error}'
    return ''


def _apply_interp1d() -> None:
    from scipy import interpolate
    original = interpolate.interp1d

    @functools.wraps(original, updated=())
    def interp1d(x, y, kind='linear', **options):
        if kind == 'slinear' and len(np.unique(x)) < len(x):
            return lambda at: np.interp(at, x, y)
        return original(x, y, kind=kind, **options)
    interpolate.interp1d = interp1d


# --- menpo-colours

def _probe_menpo() -> str:
    if 'menpo' in sys.modules or importlib.util.find_spec('menpo'):
        return ''
    return 'menpo is not installed'


def _apply_menpo() -> None:
    def sample_colours_from_colourmap(n_colours: int, colour_map: str) -> list:
        import matplotlib
        colours = matplotlib.colormaps[colour_map]
        return [colours(i / n_colours)[:3] for i in range(n_colours)]
    for name in ('menpo', 'menpo.visualize', 'menpo.visualize.viewmatplotlib'):
        sys.modules[name] = ModuleType(name)
    sys.modules['menpo.visualize.viewmatplotlib'].sample_colours_from_colourmap = sample_colours_from_colourmap


# --- onnx-exporter: the new exporter needs onnxscript and rewrites the graph at another opset

def _probe_exporter() -> str:
    import torch
    parameter = inspect.signature(torch.onnx.export).parameters.get('dynamo')
    return f'torch {torch.__version__}: torch.onnx.export(dynamo=True)' if parameter and parameter.default else ''


def _apply_exporter() -> None:
    import torch
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)


# --- torchvision-ops: a CUDA build of torchvision beside a CPU build of torch; only transforms and ImageFolder are needed

def _probe_torchvision() -> str:
    if importlib.util.find_spec('torchvision') is None:
        return ''
    try:
        importlib.import_module('torchvision')
    except RuntimeError as error:
        for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
            del sys.modules[name]
        return f'torchvision does not import: {error}'
    return ''


_LIBRARIES = []  # definitions of operators live as long as the library object


def _apply_torchvision() -> None:
    import torch
    _LIBRARIES.append(torch.library.Library('torchvision', 'DEF'))
    for name in ('nms', 'qnms'):
        _LIBRARIES[-1].define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    importlib.import_module('torchvision')


# --- loader-errors: the thread that feeds the trainer dies with its exception, and the trainer waits for ever

def _probe_loader() -> str:
    return 'an exception in a loader worker would leave the trainer waiting for ever'


def _apply_loader() -> None:
    original = threading.excepthook

    def excepthook(args) -> None:
        if type(args.thread).__name__ != 'BackgroundGenerator':
            return original(args)
        traceback.print_exception(args.exc_type, args.exc_value, args.exc_traceback)
        print('arcface-torch: the data loader failed (see above); the training ends here', file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # the main thread waits in queue.get() and cannot be reached
    threading.excepthook = excepthook


# --- fork-workers: train_v2.py starts its process group at import, which spawned workers would repeat

def _probe_fork() -> str:
    methods = multiprocessing.get_all_start_methods()
    if 'fork' in methods and methods[0] != 'fork':
        return f'Python {sys.version_info.major}.{sys.version_info.minor} starts loader workers by {methods[0]}'
    return ''


def _apply_fork() -> None:
    multiprocessing.set_start_method('fork', force=True)


# --- free-port: a single process always listens on one port, so a second training on the machine cannot start

PORT = 12584


def _probe_port() -> str:
    if 'RANK' in os.environ:
        return ''
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', PORT))
        except OSError as error:
            return f'port {PORT}: {error.strerror}'
    return ''


def _apply_port() -> None:
    from torch import distributed
    original = distributed.init_process_group

    @functools.wraps(original)
    def init_process_group(*args, **options):
        if options.get('init_method') == f'tcp://127.0.0.1:{PORT}':
            with socket.socket() as probe:
                probe.bind(('127.0.0.1', 0))
                options['init_method'] = f'tcp://127.0.0.1:{probe.getsockname()[1]}'
        return original(*args, **options)
    distributed.init_process_group = init_process_group


# --- quiet-warnings: those that the checkout's own lines cause at every start

_NOISE = (('"is" with', SyntaxWarning), ('Decorating classes', FutureWarning), (r'`torch\.cuda\.amp', FutureWarning),
          ('`broadcast_buffers`', FutureWarning), ('You passed find_unused_parameters', UserWarning),
          ("'pin_memory' argument", UserWarning), (r'torch\.cuda\.amp\.GradScaler is enabled', UserWarning))


def _probe_warnings() -> str:
    import torch
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        compile('0 is 0', 'probe', 'eval')
        torch.no_grad()(type('Probe', (), {}))
    return f'{len(caught)} warnings about lines of the checkout that no user can change' if caught else ''


def _apply_warnings() -> None:
    for message, category in _NOISE:
        warnings.filterwarnings('ignore', message, category)


SHIMS = (
    Shim('fork-workers', 'train_v2.py: loader workers that are not forked start the process group again',
         _probe_fork, _apply_fork),
    Shim('numpy-aliases', 'eval_ijbc, onnx_ijbc, torch2onnx: np.int, np.float', _probe_aliases, _apply_aliases),
    Shim('mxnet-standin', 'all training and verification: import mxnet', _probe_mxnet, mxnet_standin.install, 'mxnet'),
    Shim('float-labels', 'train_v2.py: records with label vectors (MS1M, Glint360K)', _probe_labels, _apply_labels),
    Shim('scheduler-verbose', 'train_v2.py cannot start: PolynomialLRWarmup', _probe_scheduler, _apply_scheduler),
    Shim('slinear-duplicates', 'every verification during training: "Expect x to not have duplicates"', _probe_interp1d,
         _apply_interp1d),
    Shim('menpo-colours', 'eval_ijbc: one function of menpo', _probe_menpo, _apply_menpo, 'menpo'),
    Shim('onnx-exporter', 'torch2onnx: the exporter it was written for', _probe_exporter, _apply_exporter),
    Shim('torchvision-ops', 'train_v2.py: import torchvision', _probe_torchvision, _apply_torchvision),
    Shim('loader-errors', 'train_v2.py: a loader error hangs the training', _probe_loader, _apply_loader),
    Shim('free-port', f'train_v2.py in one process: always port {PORT}', _probe_port, _apply_port),
    Shim('quiet-warnings', 'warnings about the checkout itself', _probe_warnings, _apply_warnings),
    Shim('cpu', 'all scripts: .cuda(), CUDA streams, torch.load, devices by number', cpu.probe, cpu.apply_devices),
    Shim('gloo', 'train_v2.py: init_process_group("nccl")', cpu.probe, cpu.apply_gloo),
    Shim('cpu-ddp', 'train_v2.py: DistributedDataParallel(device_ids=[0])', cpu.probe, cpu.apply_ddp),
    Shim('cpu-seed', 'train_v2.py in several processes: the seed is sent from device "cuda"', cpu.probe, cpu.apply_seed),
)
