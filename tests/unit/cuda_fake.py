"""A cuda.h and a libcuda of our own, compiled here and in no image: what images/triton/launcher.c and the kernel of
tests/device need of them, on the memory of this process.

``CUDA_MAJOR`` is the compute capability's (9), and with ``CUDA_WRONG`` the kernel computes another result.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

HEADER = r"""
#pragma once
#include <stddef.h>
#include <stdint.h>
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct context *CUcontext;
typedef struct function *CUfunction;
typedef struct stream *CUstream;
typedef struct { _Alignas(64) uint64_t words[16]; } CUtensorMap;
typedef enum { CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE } CUresult;
typedef enum { CU_POINTER_ATTRIBUTE_DEVICE_POINTER = 3 } CUpointer_attribute;
typedef enum { CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14 } CUfunction_attribute;
typedef enum { CU_CLUSTER_SCHEDULING_POLICY_SPREAD = 1 } CUclusterSchedulingPolicy;
typedef enum {
  CU_LAUNCH_ATTRIBUTE_COOPERATIVE = 2,
  CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4,
  CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE = 5,
  CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6
} CUlaunchAttributeID;
typedef struct {
  CUlaunchAttributeID id;
  union {
    int cooperative, programmaticStreamSerializationAllowed;
    struct { unsigned x, y, z; } clusterDim;
    CUclusterSchedulingPolicy clusterSchedulingPolicyPreference;
  } value;
} CUlaunchAttribute;
typedef struct {
  unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
  CUstream hStream;
  CUlaunchAttribute *attrs;
  unsigned numAttrs;
} CUlaunchConfig;
CUresult cuCtxGetCurrent(CUcontext *);
CUresult cuCtxSetCurrent(CUcontext);
CUresult cuDeviceGet(CUdevice *, int);
CUresult cuDevicePrimaryCtxRetain(CUcontext *, CUdevice);
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int);
CUresult cuGetErrorString(CUresult, const char **);
CUresult cuLaunchKernelEx(const CUlaunchConfig *, CUfunction, void **, void **);
CUresult cuPointerGetAttribute(void *, CUpointer_attribute, CUdeviceptr);
"""

_LIBRARY = r"""
#include <cuda.h>
#include <stdlib.h>
#include <string.h>

static CUcontext now;
static char there, kernel;

CUresult cuInit(unsigned flags) { return flags; }
CUresult cuCtxSynchronize(void) { return CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *context) { *context = now; return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext context) { now = context; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int number) { *device = number; return CUDA_SUCCESS; }

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
  *context = (CUcontext)&there;
  return device ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
  const char *major = getenv("CUDA_MAJOR");
  *value = major ? atoi(major) : 9;
  return attribute == 75 && !device ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
  return function && attribute && value ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult code, const char **text)
{
  *text = code ? "refused" : "none";
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr pointer)
{
  *(CUdeviceptr *)value = pointer;
  return attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuModuleLoadData(char **module, const char *image)
{
  *module = &kernel;
  return now && strstr(image, ".entry scaled(") ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuModuleGetFunction(CUfunction *function, char *module, const char *name)
{
  *function = (CUfunction)module;
  return module == &kernel && !strcmp(name, "scaled") ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size)
{
  *pointer = (CUdeviceptr)malloc(size);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void *source, size_t size)
{
  memcpy((void *)target, source, size);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoH_v2(void *target, CUdeviceptr source, size_t size)
{
  memcpy(target, (void *)source, size);
  return CUDA_SUCCESS;
}

/* The kernel of scaled.ptx, with Triton's two scratch buffers, which are not there. */
CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **given, void **extra)
{
  const float *source = *(float **)given[0];
  float *target = *(float **)given[1], factor = *(float *)given[2];
  unsigned count = *(unsigned *)given[3], threads = config->gridDimX * config->blockDimX;
  if (function != (CUfunction)&kernel || *(CUdeviceptr *)given[4] || *(CUdeviceptr *)given[5] || extra)
    return CUDA_ERROR_INVALID_VALUE;
  for (unsigned at = 0; at < threads && at < count; at++)
    target[at] = source[at] * (getenv("CUDA_WRONG") ? factor + 1 : factor);
  return CUDA_SUCCESS;
}
"""


def compiled(place: Path) -> Path:
    """Compile libcuda.so.1 in ``place``, a new folder."""
    place.mkdir()
    (place / "cuda.h").write_text(HEADER)
    (place / "libcuda.c").write_text(_LIBRARY)
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-isystem", place]
    subprocess.run(["gcc", *flags, "-o", place / "libcuda.so.1", place / "libcuda.c"], check=True)
    return place / "libcuda.so.1"
