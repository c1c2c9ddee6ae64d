"""A stand-in for NVIDIA's tensorrt module where there is none: the same names, onnxruntime underneath.

``FAKE_TENSORRT`` chooses the version; only attributes that the real binding of that version has are there (a test compares
with the list read from the real ones). What it cannot show: kernels, timing, and what 8 bits really do.
"""

import ctypes
import json
import os
import weakref

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

__version__ = os.environ.get('FAKE_TENSORRT', '8.2.1.8')
_VERSION = tuple(int(part) for part in __version__.split('.')[:2])
_OPS = {'Conv', 'PRelu', 'Relu', 'LeakyRelu', 'Flatten', 'Gemm', 'Add', 'QuantizeLinear', 'DequantizeLinear', 'Cast', 'Concat',
        'Constant', 'Exp', 'Reshape', 'Resize', 'Sigmoid', 'Slice', 'Transpose'}


class _Enum:
    def __init__(self, *names):
        for number, name in enumerate(names):
            setattr(self, name, number)


DataType = _Enum('FLOAT', 'HALF', 'INT8', 'INT32')
LayerType = _Enum('CONVOLUTION', 'FULLY_CONNECTED', 'ACTIVATION', 'POOLING', 'SHUFFLE', 'CONSTANT', 'PARAMETRIC_RELU',
                  'ELEMENTWISE', 'MATRIX_MULTIPLY', 'IDENTITY', 'QUANTIZE', 'DEQUANTIZE', 'CAST', 'CONCATENATION', 'UNARY',
                  'RESIZE', 'SLICE')
ProfilingVerbosity = _Enum('LAYER_NAMES_ONLY', 'NONE', 'DETAILED')
TensorIOMode = _Enum('NONE', 'INPUT', 'OUTPUT')
NetworkDefinitionCreationFlag = _Enum('EXPLICIT_BATCH') if _VERSION < (11, 0) else _Enum()
BuilderFlag = _Enum('FP16', 'INT8', 'OBEY_PRECISION_CONSTRAINTS') if _VERSION < (11, 0) else _Enum()
if _VERSION >= (8, 4):
    MemoryPoolType = _Enum('WORKSPACE')


class ILogger:
    Severity = _Enum('INTERNAL_ERROR', 'ERROR', 'WARNING', 'INFO', 'VERBOSE')

    def __init__(self):
        pass


class Logger(ILogger):
    def __init__(self, min_severity=ILogger.Severity.WARNING):
        ILogger.__init__(self)

    def log(self, severity, message):
        """Errors, too: the real one writes to ``std::cout``."""
        if severity <= ILogger.Severity.WARNING:
            print('[TRT] [W] ' + message, flush=True)


class _Listener:
    """Up to 8.4 TensorRT heeds one logger: the first of those that the living builders and runtimes were given."""

    living, logger = weakref.WeakSet(), None

    @classmethod
    def take(cls, owner, logger):
        if _VERSION >= (8, 4):
            return logger
        if not cls.living:
            cls.logger = logger
        elif logger is not cls.logger:
            cls.logger.log(ILogger.Severity.WARNING, 'The logger passed in differs from one already provided for an existing '
                           'builder, runtime, or refitter')
        cls.living.add(owner)
        return cls.logger


class ITensor:
    def __init__(self, name):
        self.name, self.dtype, self.range = name, DataType.FLOAT, None
        if _VERSION < (11, 0):
            self.set_dynamic_range = self._set_range

    def _set_range(self, low, high):
        assert low == -high and high > 0
        self.range = high


class ILayer:
    def __init__(self, name, kind, inputs, output, weights=None):
        self.name, self.type, self._inputs, self._output, self._weights = name, kind, inputs, output, weights
        self.num_outputs, self.output_types = 1, {}
        if _VERSION < (11, 0):
            self.precision = None

    def get_input(self, index):
        return self._inputs[index] if index < len(self._inputs) else None

    def get_output(self, index):
        assert index == 0
        return self._output

    def set_output_type(self, index, kind):
        self.output_types[index] = kind


class IConstantLayer(ILayer):
    @property
    def weights(self):
        return self._weights


class INetworkDefinition:
    def __init__(self):
        self.layers, self.model, self._inputs = [], None, []

    num_layers = property(lambda self: len(self.layers))
    num_inputs = property(lambda self: len(self._inputs))

    def get_layer(self, index):
        return self.layers[index]

    def get_input(self, index):
        return self._inputs[index]


class _ParserError:
    def __init__(self, text):
        self._text = text

    def desc(self):
        return self._text


class OnnxParser:
    """Makes the layers that the real parser of this version makes for a recogniser, unnamed ones included."""

    def __init__(self, network, logger):
        self._network, self._errors = network, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index):
        return self._errors[index]

    def parse(self, data):
        try:
            model = onnx.load_from_string(data)
            onnx.checker.check_model(model)
        except Exception:
            self._errors.append(_ParserError('ModelImporter.cpp: failed to parse the protobuf'))
            return False
        network, weights = self._network, {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        tensors = {model.graph.input[0].name: ITensor(model.graph.input[0].name)}
        network._inputs = list(tensors.values())
        for node in model.graph.node:
            if node.op_type not in _OPS:
                self._errors.append(_ParserError('No importer registered for op: ' + node.op_type))
                return False
            self._import(node, tensors, weights)
        network.model = data
        return True

    def _import(self, node, tensors, weights):
        inputs = [tensors[name] for name in node.input if name in tensors]
        if node.op_type == 'PRelu':
            inputs.append(self._constant(weights[node.input[1]]))
            if weights[node.input[1]].ndim != 4:
                inputs[-1] = self._unnamed('Shuffle', LayerType.SHUFFLE, [inputs[-1]])
        output = tensors[node.output[0]] = ITensor(node.output[0])
        kinds = {'Conv': LayerType.CONVOLUTION, 'PRelu': LayerType.PARAMETRIC_RELU, 'Flatten': LayerType.SHUFFLE,
                 'Add': LayerType.ELEMENTWISE, 'Relu': LayerType.ACTIVATION, 'LeakyRelu': LayerType.ACTIVATION,
                 'QuantizeLinear': LayerType.QUANTIZE, 'DequantizeLinear': LayerType.DEQUANTIZE, 'Cast': LayerType.CAST,
                 'Concat': LayerType.CONCATENATION, 'Constant': LayerType.CONSTANT, 'Exp': LayerType.UNARY,
                 'Reshape': LayerType.SHUFFLE, 'Resize': LayerType.RESIZE, 'Sigmoid': LayerType.ACTIVATION,
                 'Slice': LayerType.SLICE, 'Transpose': LayerType.SHUFFLE}
        if node.op_type == 'Gemm' and _VERSION < (8, 5):
            wide = self._unnamed('Shuffle', LayerType.SHUFFLE, inputs)
            full = self._unnamed('Fully Connected', LayerType.FULLY_CONNECTED, [wide], node.name)
            self._add(ILayer('(Unnamed Layer* %d) [Shuffle]' % len(self._network.layers), LayerType.SHUFFLE, [full], output))
        elif node.op_type == 'Gemm':
            product = self._unnamed('Matrix Multiply', LayerType.MATRIX_MULTIPLY,
                                    [*inputs, self._constant(weights.get(node.input[1], np.ones(1)))], node.name)
            self._add(ILayer('(Unnamed Layer* %d) [ElementWise]' % len(self._network.layers), LayerType.ELEMENTWISE,
                             [product, self._constant(weights[node.input[2]])], output))
        else:
            self._add(ILayer(node.name, kinds[node.op_type], inputs, output))

    def _constant(self, values):
        return self._unnamed('Constant', LayerType.CONSTANT, [], weights=values)

    def _unnamed(self, what, kind, inputs, name=None, weights=None):
        label = '(Unnamed Layer* %d) [%s]' % (len(self._network.layers), what)
        # the base class, as the real `get_layer` hands it out; a caller sets `__class__` to reach the weights
        self._add(ILayer(name or label, kind, inputs, ITensor(label + '_output'), weights))
        return self._network.layers[-1].get_output(0)

    def _add(self, layer):
        self._network.layers.append(layer)


class IOptimizationProfile:
    def set_shape(self, name, least, common, largest):
        self.shapes = {name: (least, common, largest)}


class ITimingCache:
    def __init__(self, data):
        self._data = data

    def serialize(self):
        return self._data or b'timing of ' + __version__.encode()


class IBuilderConfig:
    def __init__(self):
        self.flags_set, self.profile, self.profiling_verbosity, self.workspace, self._timing = set(), None, None, 0, None
        if _VERSION >= (8, 4):
            self.set_memory_pool_limit = self._limit

    if _VERSION < (10, 0):
        def _set_workspace(self, size):
            self.workspace = size
        max_workspace_size = property(lambda self: self.workspace, _set_workspace)

    def _limit(self, pool, size):
        assert pool == MemoryPoolType.WORKSPACE
        self.workspace = size

    def set_flag(self, flag):
        self.flags_set.add(flag)

    def add_optimization_profile(self, profile):
        self.profile = profile

    def create_timing_cache(self, data):
        return ITimingCache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache._data and cache._data != ITimingCache(b'').serialize():
            return False
        self._timing = cache
        return True

    def get_timing_cache(self):
        return self._timing


class Builder:
    def __init__(self, logger):
        self._logger = logger = _Listener.take(self, logger)
        if os.environ.get('FAKE_TENSORRT_NO_GPU'):
            logger.log(ILogger.Severity.ERROR, 'CUDA initialization failure with error: 35')
            raise TypeError('pybind11::init(): factory function returned nullptr')

    def create_network(self, flags=0):
        assert flags == (1 if _VERSION < (11, 0) else 0)
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        assert config.workspace >= 1 << 28, 'the default workspace would have been used'
        missing = []
        if getattr(BuilderFlag, 'INT8', -1) in config.flags_set and b'QuantizeLinear' not in network.model:
            tensors = [layer.get_output(0) for layer in network.layers] + network._inputs
            missing = [tensor.name for tensor in tensors if tensor.range is None]
        for name in missing:
            self._logger.log(ILogger.Severity.WARNING, 'Missing scale and zero-point for tensor %s, expect fall back to '
                             'non-int8 implementation for any layer consuming or producing given tensor' % name)
        for layer in network.layers:
            self._logger.log(ILogger.Severity.VERBOSE, '--------------- Timing Runner: %s (CudnnConvolution)' % layer.name)
        header = {'version': __version__, 'shapes': config.profile.shapes, 'missing': missing,
                  'precision': {layer.name: str(layer.precision) for layer in network.layers
                                if getattr(layer, 'precision', None) is not None}}
        return json.dumps(header).encode() + b'\n' + network.model


class ICudaEngine:
    def __init__(self, header, model):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
        self.inputs, self.outputs = ([value.name for value in values]
                                     for values in (self.session.get_inputs(), self.session.get_outputs()))
        self.names = self.outputs + self.inputs  # the order is TensorRT's business
        (self.limits,) = header['shapes'].values()
        if _VERSION >= (8, 5):
            self.num_io_tensors = len(self.names)
            self.get_tensor_name = lambda index: self.names[index]
            self.get_tensor_mode = lambda name: TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT
        if _VERSION < (10, 0):
            self.num_bindings = len(self.names)
            self.get_binding_name = lambda index: self.names[index]
            self.get_binding_index = lambda name: self.names.index(name)
            self.binding_is_input = lambda name: name in self.inputs

    def create_execution_context(self):
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine):
        self._engine, self._shape, self._addresses, self._known = engine, None, {}, {}
        if _VERSION >= (8, 5):
            self.set_input_shape = lambda name, shape: self._set(shape)
            self.get_tensor_shape = lambda name: self._shapes()[name]
            self.set_tensor_address = self._addresses.__setitem__
            self.execute_async_v3 = self._execute
        if _VERSION < (10, 0):
            self.set_binding_shape = lambda index, shape: self._set(shape)
            self.get_binding_shape = lambda index: self._shapes()[self._engine.names[index]]
            self.execute_async_v2 = self._execute_bindings

    def _set(self, shape):
        low, _, high = self._engine.limits
        if not all(a <= b <= c for a, b, c in zip(low, shape, high)):
            return False
        self._shape = tuple(shape)
        return True

    def _shapes(self):
        """Of all tensors for the input's shape; found by running, which is not how TensorRT does it."""
        if self._shape not in self._known:
            found = self._engine.session.run(None, {self._engine.inputs[0]: np.zeros(self._shape, np.float32)})
            self._known[self._shape] = dict(zip(self._engine.names, [output.shape for output in found] + [self._shape]))
        return self._known[self._shape]

    def _execute_bindings(self, bindings, stream):
        self._addresses = dict(zip(self._engine.names, bindings))
        return self._execute(stream)

    def _execute(self, stream):
        assert stream
        image = self._engine.inputs[0]
        source = (ctypes.c_float * int(np.prod(self._shape))).from_address(self._addresses[image])
        results = self._engine.session.run(None, {image: np.frombuffer(source, np.float32).reshape(self._shape)})
        for name, result in zip(self._engine.outputs, results):
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(result, np.float32).ctypes.data, result.nbytes)
        return True


class Runtime:
    def __init__(self, logger):
        self._logger = _Listener.take(self, logger)

    def deserialize_cuda_engine(self, plan):
        header, _, model = plan.partition(b'\n')
        try:
            header = json.loads(header.decode())
        except ValueError:
            return None
        if header['version'] != __version__:
            return None
        engine = ICudaEngine(header, model)
        engine.runtime = self  # which lives as long
        return engine
