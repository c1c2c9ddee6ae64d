"""The little of CUDA that inference needs, through pycuda or, where that is absent, through ctypes on libcudart.

Both classes have the same methods; device addresses and streams are plain integers, as TensorRT's Python API takes them.
"""

import ctypes
import ctypes.util

import numpy as np

__all__ = ['CudaError', 'CudartCuda', 'PycudaCuda', 'open_cuda']

_TO_DEVICE, _TO_HOST = 1, 2
_CAPABILITY = (75, 76)  # cudaDevAttrComputeCapabilityMajor and Minor
_NAMES = ('libcudart.so', 'libcudart.so.13', 'libcudart.so.12', 'libcudart.so.11.0', 'libcudart.so.10.2')
_PLACE = '/usr/local/cuda/lib64/libcudart.so'  # which need not be on the loader's path


class CudaError(RuntimeError):
    """CUDA is not there, or a call failed."""


class CudartCuda:
    """CUDA's runtime library, called directly: nothing to compile, the same code on every JetPack."""

    def __init__(self):
        self._lib = _load()
        self._lib.cudaGetErrorString.restype = ctypes.c_char_p
        stream = ctypes.c_void_p()
        self._call('cudaStreamCreate', ctypes.byref(stream))
        self.stream = stream.value or 0

    def _call(self, name, *arguments):
        status = getattr(self._lib, name)(*arguments)
        if status:
            text = self._lib.cudaGetErrorString(status)
            raise CudaError('%s failed: %d %s' % (name, status, (text or b'').decode()))

    def allocate(self, size):
        """Address of ``size`` bytes on the device."""
        address = ctypes.c_void_p()
        self._call('cudaMalloc', ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address):
        self._call('cudaFree', ctypes.c_void_p(address))

    def host_array(self, shape, dtype):
        """A page-locked array, which copies run at full speed from and to; it lives as long as the program."""
        count = int(np.prod(shape))
        address = ctypes.c_void_p()
        self._call('cudaHostAlloc', ctypes.byref(address), ctypes.c_size_t(count * np.dtype(dtype).itemsize), ctypes.c_uint(0))
        buffer = (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(address.value)
        return np.frombuffer(buffer, dtype).reshape(shape)

    def to_device(self, address, array):
        """Queue a copy of a contiguous host array to the device."""
        self._copy(address, array.ctypes.data, array.nbytes, _TO_DEVICE)

    def to_host(self, array, address):
        """Queue a copy from the device into a contiguous host array."""
        self._copy(array.ctypes.data, address, array.nbytes, _TO_HOST)

    def _copy(self, target, source, size, kind):
        self._call('cudaMemcpyAsync', ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size),
                   ctypes.c_int(kind), ctypes.c_void_p(self.stream))

    def synchronise(self):
        """Wait until everything queued is done."""
        self._call('cudaStreamSynchronize', ctypes.c_void_p(self.stream))

    @property
    def compute_capability(self):
        """``'6.2'`` on a TX2."""
        numbers = []
        for attribute in _CAPABILITY:
            value = ctypes.c_int()
            self._call('cudaDeviceGetAttribute', ctypes.byref(value), ctypes.c_int(attribute), ctypes.c_int(0))
            numbers.append(str(value.value))
        return '.'.join(numbers)


class PycudaCuda:
    """The same through pycuda."""

    def __init__(self):
        import pycuda.autoinit  # makes a context, and releases it when the program ends
        import pycuda.driver
        self._driver, self._device = pycuda.driver, pycuda.autoinit.device
        self._stream = pycuda.driver.Stream()
        self.stream = self._stream.handle
        self._allocations = {}

    def allocate(self, size):
        memory = self._driver.mem_alloc(size)
        self._allocations[int(memory)] = memory
        return int(memory)

    def free(self, address):
        self._allocations.pop(address).free()

    def host_array(self, shape, dtype):
        return self._driver.pagelocked_empty(shape, dtype)

    def to_device(self, address, array):
        self._driver.memcpy_htod_async(address, array, self._stream)

    def to_host(self, array, address):
        self._driver.memcpy_dtoh_async(array, address, self._stream)

    def synchronise(self):
        self._stream.synchronize()

    @property
    def compute_capability(self):
        return '%d.%d' % self._device.compute_capability()


def open_cuda():
    """pycuda when it is installed, else libcudart.

    Raises:
        CudaError: neither can be used; the message says what to install.
    """
    try:
        return PycudaCuda()
    except ImportError:
        return CudartCuda()
    except Exception as error:  # pycuda's own, which cannot be named without it
        raise CudaError('pycuda cannot start: %s' % error) from None


def _load():
    # by name first: that is where LD_LIBRARY_PATH counts
    names = [name for name in (*_NAMES, ctypes.util.find_library('cudart'), _PLACE) if name]
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise CudaError('no CUDA runtime library found (%s); install CUDA (`sudo apt install nvidia-jetpack` on a Jetson), or add '
                    'its folder to LD_LIBRARY_PATH' % ', '.join(names))
