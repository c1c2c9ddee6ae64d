"""A TensorRT engine: load, copy, run, copy back."""

import time

import numpy as np

from .log import open_log

__all__ = ['Engine', 'EngineError']


class EngineError(RuntimeError):
    """An engine cannot be loaded, or was given what it cannot take."""


class Engine:
    """A TensorRT engine with one input, by index (TensorRT 8.2) or by name (8.5 and later).

    Args:
        plan: the serialised engine.
        cuda: from :func:`cuda.open_cuda`.
        largest: shape of the largest input, ``(N, 3, H, W)``; memory for it is set aside at once.

    Raises:
        EngineError: TensorRT refuses it (another version, another GPU, cut off).
    """

    def __init__(self, plan, trt, cuda, largest):
        self._trt, self._cuda, self.largest = trt, cuda, tuple(largest)
        self._runtime = trt.Runtime(open_log(trt))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError('TensorRT %s refuses the engine; build it on this board' % trt.__version__)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError('TensorRT has no memory for an engine with images of shape %s; its message is above. Stop other '
                              'programs, and try again' % (self.largest,))
        self._by_name = hasattr(self._engine, 'num_io_tensors')
        self._names = self._tensor_names()
        shapes = self._set_shape(self.largest)
        self._host = {name: cuda.host_array((int(np.prod(shape)),), np.float32) for name, shape in shapes.items()}
        self._device = {name: cuda.allocate(host.nbytes) for name, host in self._host.items()}
        self._bindings = self._bind()

    def _bind(self):
        """Tell TensorRT once where the tensors lie, or return the addresses that 8.2 wants at every run, in its order."""
        if self._by_name:
            for name, address in self._device.items():
                self._context.set_tensor_address(name, address)
            return []
        return [self._device[name] for name in sorted(self._names, key=self._engine.get_binding_index)]

    def _tensor_names(self):
        """Input first."""
        if self._by_name:
            names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
            return sorted(names, key=lambda name: self._engine.get_tensor_mode(name) != self._trt.TensorIOMode.INPUT)
        return sorted((self._engine.get_binding_name(i) for i in range(self._engine.num_bindings)),
                      key=lambda name: not self._engine.binding_is_input(name))

    def _set_shape(self, shape):
        """Tell TensorRT the input's shape; returns the shapes of all tensors by name."""
        if self._by_name:
            ready = self._context.set_input_shape(self._names[0], shape)
        else:
            ready = self._context.set_binding_shape(self._engine.get_binding_index(self._names[0]), shape)
        if ready is False:
            raise EngineError('the engine does not take images of shape %s; it was built for up to %s' % (shape, self.largest))
        return {name: self._shape(name) for name in self._names}

    def _shape(self, name):
        if self._by_name:
            return tuple(self._context.get_tensor_shape(name))
        return tuple(self._context.get_binding_shape(self._engine.get_binding_index(name)))

    def __call__(self, images):
        """Run float32 ``(N, 3, H, W)``, no side greater than in ``largest``; returns float32 arrays by the outputs' names.

        Raises:
            EngineError: images that the engine does not take, or TensorRT could not run it.
        """
        if images.ndim != 4 or not len(images) or any(a > b for a, b in zip(images.shape, self.largest)):
            raise EngineError('images of shape %s; this engine takes up to %s' % (images.shape, self.largest))
        shapes = self._set_shape(images.shape)
        buffers = {name: self._host[name][:int(np.prod(shape))] for name, shape in shapes.items()}
        buffers[self._names[0]][:] = images.reshape(-1)
        self._run(buffers)
        return {name: np.array(buffers[name]).reshape(shapes[name]) for name in self._names[1:]}

    def _run(self, buffers, copies=True):
        """Execute on what is in the host (or, without ``copies``, in the device) buffers, and wait."""
        if copies:
            self._cuda.to_device(self._device[self._names[0]], buffers[self._names[0]])
        if self._by_name:
            done = self._context.execute_async_v3(self._cuda.stream)
        else:
            done = self._context.execute_async_v2(self._bindings, self._cuda.stream)
        if done is False:
            raise EngineError('TensorRT could not run the engine; its message is above')
        if copies:
            for name in self._names[1:]:
                self._cuda.to_host(buffers[name], self._device[name])
        self._cuda.synchronise()

    def close(self):
        """Give the device's memory back; the engine cannot run any more."""
        for address in self._device.values():
            self._cuda.free(address)
        self._device = {}

    def measure(self, shape, copies, seconds, warm_up=0.5):
        """Latencies in ms of single runs on an input of ``shape``, float64 ``(runs,)``."""
        buffers = {name: self._host[name][:int(np.prod(found))] for name, found in self._set_shape(shape).items()}
        for limit in (warm_up, seconds):
            times, end = [], time.perf_counter() + limit
            while time.perf_counter() < end or len(times) < 10:
                began = time.perf_counter()
                self._run(buffers, copies)
                times.append(1e3 * (time.perf_counter() - began))
        return np.array(times)
