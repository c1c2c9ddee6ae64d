"""TensorRT's INT8 calibration cache: a text file of scales.

Line 1 is ``TRT-<version>-EntropyCalibration2``, every other line ``<tensor>: <8 hexadecimal digits>``: the big-endian bytes
of a float32 scale, largest value / 127. That is how trtexec's own ``readScalesFromCalibrationCache`` takes it apart
(NVIDIA/TensorRT, samples/common/sampleEngines.cpp): last colon of the line, a space, eight digits.
"""

import math
import struct
from collections import OrderedDict

__all__ = ['CacheError', 'CacheVersionError', 'complete_scales', 'read_cache', 'version_token', 'write_cache']

ALGORITHM = 'EntropyCalibration2'


class CacheError(ValueError):
    """A calibration cache is damaged."""


class CacheVersionError(CacheError):
    """A calibration cache is whole, but of another TensorRT, which would skip it."""


def version_token(version):
    """``'8.2.1.8' -> '8201'``, ``'10.3.0' -> '100300'``: NV_TENSORRT_VERSION, which became longer with 10."""
    parts = [*version.split('.'), '0', '0'][:3]
    try:
        major, minor, patch = (int(part) for part in parts)
    except ValueError:
        raise CacheError('TensorRT version %r is not MAJOR.MINOR.PATCH' % version) from None
    return str(major * (1000 if major < 10 else 10000) + minor * 100 + patch)


def write_cache(scales, version):
    """The cache's text.

    Args:
        scales: mapping of tensor name to scale (largest value / 127), in the order to be written.
        version: TensorRT's version, ``'8.2.1'``.

    Raises:
        CacheError: a scale is not a positive finite number, or a name would break the line.
    """
    lines = ['TRT-%s-%s' % (version_token(version), ALGORITHM)]
    for name, scale in scales.items():
        if not name or '\n' in name or '\r' in name:
            raise CacheError('tensor name %r cannot stand in a cache' % name)
        if not (scale > 0 and math.isfinite(scale)):
            raise CacheError('tensor %s: scale %r is not a positive number' % (name, scale))
        lines.append('%s: %s' % (name, ''.join('%02x' % byte for byte in struct.pack('>f', scale))))
    return '\n'.join(lines) + '\n'


def read_cache(text, where='cache', version=None):
    """The scales in a cache's text, by tensor name, in order.

    Args:
        version: when given, the TensorRT version that must have been named in the first line.

    Raises:
        CacheError: a line is not of the format, or the algorithm is another one; the message names the line.
        CacheVersionError: made for another version.
    """
    lines = text.splitlines()
    words = lines[0].strip().split('-') if lines else []
    if len(words) != 3 or words[0] != 'TRT' or not words[1].isdigit():
        raise CacheError('%s: begins with %r instead of TRT-<version>-%s; not a calibration cache'
                         % (where, lines[0][:40] if lines else '', ALGORITHM))
    if words[2] != ALGORITHM:
        raise CacheError('%s: made by %s; trtexec and this builder take %s only' % (where, words[2], ALGORITHM))
    if version is not None and words[1] != version_token(version):
        raise CacheVersionError('%s: made for TensorRT %s, this is %s (%s), whose trtexec would silently skip the file; '
                                '`python3 build_engine.py PRECISION --cache-only` writes engines/%s for this board'
                                % (where, words[1], version_token(version), version, where))
    scales = OrderedDict()
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, colon, digits = line.rpartition(':')
        digits = digits[1:]
        try:
            scale = struct.unpack('>f', bytes(bytearray.fromhex(digits)))[0] if len(digits) == 8 else -1.0
        except (ValueError, struct.error):  # the latter of digits with spaces between
            scale = -1.0
        if not colon or not (scale > 0 and math.isfinite(scale)):
            raise CacheError('%s: line %d is not "<tensor>: <8 hexadecimal digits of a positive float>": %r'
                             % (where, number, line[:60]))
        scales[name] = scale
    if not scales:
        raise CacheError('%s: holds no scales; the file is cut off' % where)
    return scales


def complete_scales(network, scales, trt):
    """Add the scales of tensors that TensorRT made itself while parsing.

    A constant (a PReLU's slopes, a scalar) gets its largest value / 127. A layer that only moves values about (Shuffle,
    Identity, from 10.8 on Squeeze and Unsqueeze) has one scale on both sides, whichever of them is known. A product to which
    a bias is still to be added gets the scale of the sum, which is close to its own.

    Args:
        network: the parsed ``INetworkDefinition``.
        scales: of the tensors that have names in the ONNX file.
        trt: the tensorrt module.

    Returns:
        The completed scales, and the names of float tensors that still have none (their layers fall back to FP16 or FP32).
    """
    completed = OrderedDict(scales)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    movers = [getattr(trt.LayerType, name) for name in ('SHUFFLE', 'IDENTITY', 'SQUEEZE', 'UNSQUEEZE')
              if hasattr(trt.LayerType, name)]
    for layer in layers:
        if layer.type == trt.LayerType.CONSTANT:
            layer.__class__ = trt.IConstantLayer  # get_layer hands out the base class
            largest = float(abs(layer.weights).max())
            if _is_float(layer.get_output(0), trt):
                completed.setdefault(layer.get_output(0).name, max(largest, 1e-6) / 127)
    changed = True
    while changed:
        changed = False
        for layer in layers:
            if layer.type in movers and layer.get_input(0) is not None:
                before, after = layer.get_input(0).name, layer.get_output(0).name
                for source, target in ((before, after), (after, before)):
                    if source in completed and target not in completed:
                        completed[target] = completed[source]
                        changed = True
            elif layer.type == trt.LayerType.ELEMENTWISE and layer.get_output(0).name in completed:
                unknown = [name for name in (layer.get_input(i).name for i in (0, 1)) if name not in completed]
                if len(unknown) == 1:  # a product before its bias (TensorRT 8.5 and later)
                    completed[unknown[0]] = completed[layer.get_output(0).name]
                    changed = True
    missing = [layer.get_output(i).name for layer in layers for i in range(layer.num_outputs)
               if layer.get_output(i).name not in completed and _is_float(layer.get_output(i), trt)]
    return completed, missing


def _is_float(tensor, trt):
    return tensor.dtype in (trt.DataType.FLOAT, trt.DataType.HALF)
