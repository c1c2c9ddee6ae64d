"""BatchNorm folding: ``w' = w * gamma / sigma``, ``b' = (b - mu) * gamma / sigma + beta`` (paper 001 eqs. 8-11, which leave out
the convolution's bias and epsilon; both are kept here)."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from zoo.trace import trace_calls

__all__ = ['fold_batchnorm']


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode with every BatchNorm behind a convolution or fully connected layer folded in.

    A BatchNorm before its convolution (iResNet) stays, since zero padding makes that folding inexact. So does one that shares
    its input with another reader, one that normalises by the batch, and any where it or the layer is of a subclass, which may
    do more.
    """
    model = copy.deepcopy(model).eval()
    calls = trace_calls(model, (1, 3, *model.input_size))
    times = Counter(call.name for call in calls)
    for call in calls:
        if type(call.module) not in (nn.BatchNorm1d, nn.BatchNorm2d) or call.producer is None:
            continue
        before = calls[call.producer]
        norm = call.module
        if times[before.name] > 1 or times[call.name] > 1 or norm.running_var is None:
            continue
        if not norm.affine:  # PyTorch would fuse it with a convolution only
            norm.weight = nn.Parameter(torch.ones_like(norm.running_var))
            norm.bias = nn.Parameter(torch.zeros_like(norm.running_var))
        if type(before.module) is nn.Conv2d:
            model.set_submodule(before.name, fuse_conv_bn_eval(before.module, norm))
        elif type(before.module) is nn.Linear and len(call.input_shape) == 2:
            model.set_submodule(before.name, fuse_linear_bn_eval(before.module, norm))
        else:
            continue
        model.set_submodule(call.name, nn.Identity())
    return model
