"""``arcface_torch`` on a machine without a GPU: for trials and tests, not for training (about 20 images a second for mbf)."""

from __future__ import annotations

import contextlib
import functools
import importlib

__all__ = ['apply_ddp', 'apply_devices', 'apply_gloo', 'apply_seed', 'probe']


def probe() -> str:
    """Why the CPU shims are needed: PyTorch sees no CUDA device."""
    import torch
    return '' if torch.cuda.is_available() else 'PyTorch sees no CUDA device: this runs on the CPU, for trials only'


class Stream:
    """A CUDA stream that does nothing."""

    def __init__(self, *args) -> None: ...

    def wait_stream(self, stream: Stream) -> None: ...


def apply_devices() -> None:
    """``.cuda()``, streams and integer devices do nothing; files saved on a GPU load."""
    import torch

    def stay(self, *args, **options):
        return self

    def to(self, *args, **options):
        if isinstance(options.get('device'), int):
            options['device'] = 'cpu'
        return move(self, *('cpu' if type(arg) is int else arg for arg in args), **options)

    @functools.wraps(torch.load)
    def load(*args, **options):
        return read(*args, **{'map_location': 'cpu', **options})

    move, read = torch.Tensor.to, torch.load
    torch.Tensor.cuda = torch.nn.Module.cuda = stay
    torch.Tensor.to, torch.load = to, load
    torch.cuda.set_device = lambda device: None
    torch.cuda.Stream = Stream
    torch.cuda.stream = lambda stream: contextlib.nullcontext()
    torch.cuda.current_stream = lambda device=None: Stream()


def apply_gloo() -> None:
    """``nccl`` becomes ``gloo``."""
    from torch import distributed
    original = distributed.init_process_group

    @functools.wraps(original)
    def init_process_group(backend=None, *args, **options):
        return original('gloo' if backend == 'nccl' else backend, *args, **options)
    distributed.init_process_group = init_process_group


def apply_ddp() -> None:
    """Data-parallel modules lose their ``device_ids``."""
    from torch.nn import parallel

    class DistributedDataParallel(parallel.DistributedDataParallel):
        def __init__(self, module, *args, device_ids=None, **options):
            super().__init__(module, *args, **options)
    parallel.DistributedDataParallel = DistributedDataParallel


def apply_seed() -> None:
    """The seed that all processes share is sent from the CPU."""
    sampler = importlib.import_module('utils.utils_distributed_sampler')
    sampler.sync_random_seed.__defaults__ = tuple('cpu' if default == 'cuda' else default
                                                  for default in sampler.sync_random_seed.__defaults__)
