/* A stand-in for libcudart: "device" memory is host memory, so that ctypes calls are real calls. For tests without a GPU. */
#include <stdlib.h>
#include <string.h>

static int streams = 0;
static long in_use = 0;

int cudaMalloc(void** address, size_t size) { *address = malloc(size); in_use++; return *address ? 0 : 2; }
int cudaFree(void* address) { free(address); in_use--; return 0; }
int cudaHostAlloc(void** address, size_t size, unsigned flags) { *address = malloc(size); return *address && !flags ? 0 : 2; }
int cudaMemcpyAsync(void* target, const void* source, size_t size, int kind, void* stream)
{
    if (kind != 1 && kind != 2) return 21; /* cudaErrorInvalidMemcpyDirection */
    if (!stream) return 400;               /* cudaErrorInvalidResourceHandle */
    memcpy(target, source, size);
    return 0;
}
int cudaStreamCreate(void** stream) { *stream = (void*)(size_t)(0x1000 + ++streams); return 0; }
int cudaStreamSynchronize(void* stream) { return stream ? 0 : 400; }
int cudaDeviceGetAttribute(int* value, int attribute, int device)
{
    if (device) return 101; /* cudaErrorInvalidDevice */
    if (attribute == 75) *value = 6;
    else if (attribute == 76) *value = 2;
    else return 1;
    return 0;
}
const char* cudaGetErrorString(int status) { return status == 400 ? "invalid resource handle" : "some error"; }
