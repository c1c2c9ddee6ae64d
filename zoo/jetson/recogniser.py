"""Faces to embeddings on an engine: load, copy, run, copy back."""

import time

import numpy as np

__all__ = ['Engine', 'EngineError', 'Recogniser', 'unit']


class EngineError(RuntimeError):
    """An engine cannot be loaded, or was given what it cannot take."""


class Engine:
    """A TensorRT engine with one input and one output, by index (TensorRT 8.2) or by name (8.5 and later).

    Args:
        plan: the serialised engine.
        cuda: from :func:`cuda.open_cuda`.

    Raises:
        EngineError: TensorRT refuses it (another version, another GPU, cut off).
    """

    def __init__(self, plan, trt, cuda, batch):
        self._trt, self._cuda, self.batch = trt, cuda, batch
        self._runtime = trt.Runtime(trt.Logger(trt.ILogger.Severity.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError('TensorRT %s refuses the engine; build it on this board' % trt.__version__)
        self._context = self._engine.create_execution_context()
        self._by_name = hasattr(self._engine, 'num_io_tensors')
        names = self._names()
        self._input, self._output = names[0], names[1]
        shapes = [self._shape(name) for name in names]
        self._host = [cuda.host_array((batch, *shape[1:]), np.float32) for shape in shapes]
        self._device = [cuda.allocate(host.nbytes) for host in self._host]
        self._set_batch(batch)

    def _names(self):
        """Input first."""
        if self._by_name:
            names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
            return sorted(names, key=lambda name: self._engine.get_tensor_mode(name) != self._trt.TensorIOMode.INPUT)
        return sorted((self._engine.get_binding_name(i) for i in range(self._engine.num_bindings)),
                      key=lambda name: not self._engine.binding_is_input(name))

    def _shape(self, name):
        get = self._engine.get_tensor_shape if self._by_name else self._engine.get_binding_shape
        return tuple(get(name))

    def _set_batch(self, count):
        shape = (count, *self._host[0].shape[1:])
        if self._by_name:
            ready = self._context.set_input_shape(self._input, shape)
            for name, address in zip((self._input, self._output), self._device):
                self._context.set_tensor_address(name, address)
        else:
            ready = self._context.set_binding_shape(self._engine.get_binding_index(self._input), shape)
        if ready is False:
            raise EngineError('the engine does not take a batch of %d; it was built for up to %d' % (count, self.batch))

    def __call__(self, images):
        """Run float32 ``(N, 3, S, S)``, N up to ``batch``; returns float32 ``(N, D)``."""
        count = len(images)
        if not 0 < count <= self.batch or images.shape[1:] != self._host[0].shape[1:]:
            raise EngineError('images of shape %s; this engine takes (1 to %d,) + %s'
                              % (images.shape, self.batch, self._host[0].shape[1:]))
        self._set_batch(count)
        self._host[0][:count] = images
        self.run(count)
        return np.array(self._host[1][:count]).reshape(count, -1)

    def run(self, count, copies=True):
        """Execute on what is in the host (or, without ``copies``, in the device) buffer, and wait."""
        if copies:
            self._cuda.to_device(self._device[0], self._host[0][:count])
        if self._by_name:
            done = self._context.execute_async_v3(self._cuda.stream)
        else:
            bindings = [0, 0]
            for name, address in zip((self._input, self._output), self._device):
                bindings[self._engine.get_binding_index(name)] = address
            done = self._context.execute_async_v2(bindings, self._cuda.stream)
        if done is False:
            raise EngineError('TensorRT could not run the engine; its message is above')
        if copies:
            self._cuda.to_host(self._host[1][:count], self._device[1])
        self._cuda.synchronise()

    def measure(self, count, copies, seconds=3.0, warm_up=0.5):
        """Latencies in ms of single runs at batch ``count``, float64 ``(runs,)``."""
        self._set_batch(count)
        for limit in (warm_up, seconds):
            times, end = [], time.time() + limit
            while time.time() < end or len(times) < 10:
                began = time.perf_counter()
                self.run(count, copies)
                times.append(1e3 * (time.perf_counter() - began))
        return np.array(times)


class Recogniser:
    """Aligned faces to embeddings.

    Args:
        preprocess: the mapping from ``bundle.json``: input_size, mean, std, colour.
    """

    def __init__(self, engine, preprocess):
        self.engine, self.preprocess = engine, preprocess

    def __call__(self, faces):
        """uint8 RGB ``(N, S, S, 3)`` to float32 ``(N, D)``, not normalised, in batches of what the engine takes."""
        size = self.preprocess['input_size']
        if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != (size, size, 3):
            raise EngineError('faces must be uint8 RGB (N, %d, %d, 3), aligned; these are %s %s'
                              % (size, size, faces.dtype, faces.shape))
        step = self.engine.batch
        return np.concatenate([self.engine(self.prepare(faces[i:i + step])) for i in range(0, len(faces), step)])

    def prepare(self, faces):
        """uint8 RGB ``(N, S, S, 3)`` to the engine's float32 ``(N, 3, S, S)``."""
        if self.preprocess['colour'] == 'BGR':
            faces = faces[..., ::-1]
        scaled = (faces.astype(np.float32) - self.preprocess['mean']) / self.preprocess['std']
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def unit(embeddings):
    """Rows scaled to length 1; their products are cosine similarities."""
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.finfo(np.float32).tiny)
