/* A libcuda.so.1 without a device: it records each call, and each launch with the bytes of its parameters.
 *
 * Parameters of a kernel carry no sizes, so the test sets them first (record_sizes). Addresses from 0xbad00000 on are
 * unknown to the device, those from 0xdead0000 on make cuPointerGetAttribute fail otherwise; all others are seen by the
 * device at the address plus 0x1000000000. */

#include <cuda.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char lines[1 << 20];
static size_t used;
static int sizes[8192], size_count;
static char failing[64];
static CUresult failure;
static CUcontext current;

static void record(const char *format, ...)
{
  va_list args;
  va_start(args, format);
  used += vsnprintf(lines + used, sizeof lines - used, format, args);
  va_end(args);
  if (used >= sizeof lines)
    abort();
}

static CUresult result(const char *name) { return strcmp(name, failing) ? CUDA_SUCCESS : failure; }

void record_sizes(const int *given, int count)
{
  memcpy(sizes, given, count * sizeof *sizes);
  size_count = count;
}

void record_fail(const char *name, int code)
{
  snprintf(failing, sizeof failing, "%s", name);
  failure = code;
}

void record_context(int there) { current = there ? (CUcontext)0xc0de : NULL; }

const char *record_take(void)
{
  used = 0;
  return lines;
}

void record_note(const char *text) { record("%s\n", text); }

CUresult cuCtxGetCurrent(CUcontext *context)
{
  *context = current;
  record("cuCtxGetCurrent\n");
  return result("cuCtxGetCurrent");
}

CUresult cuCtxSetCurrent(CUcontext context)
{
  record("cuCtxSetCurrent %p\n", (void *)context);
  current = context;
  return result("cuCtxSetCurrent");
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
  record("cuDeviceGet %d\n", ordinal);
  *device = 7;
  return result("cuDeviceGet");
}

CUresult cuDriverGetVersion(int *version)
{
  *version = 13000;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device)
{
  *device = 7;
  return result("cuCtxGetDevice");
}

CUresult cuModuleUnload(CUmodule module)
{
  record("cuModuleUnload %p\n", (void *)module);
  return result("cuModuleUnload");
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
  record("cuDevicePrimaryCtxRetain %d\n", device);
  *context = (CUcontext)0xc0ffee;
  return result("cuDevicePrimaryCtxRetain");
}

CUresult cuGetErrorString(CUresult code, const char **text)
{
  static char message[32];
  snprintf(message, sizeof message, "error %d of the stub", code);
  *text = message;
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer)
{
  record("cuPointerGetAttribute %d %llx\n", attribute, pointer);
  if (pointer >= 0xbad00000 && pointer < 0xbad10000)
    return CUDA_ERROR_INVALID_VALUE;
  if (pointer >= 0xdead0000 && pointer < 0xdeae0000)
    return CUDA_ERROR_NOT_INITIALIZED;
  *(CUdeviceptr *)data = pointer + 0x1000000000;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
  record("cuFuncSetAttribute %p %d %d\n", (void *)function, attribute, value);
  return result("cuFuncSetAttribute");
}

static void record_attribute(const CUlaunchAttribute *attribute)
{
  const CUlaunchAttributeValue *value = &attribute->value;
  record(" attribute %d:", attribute->id);
  switch (attribute->id) {
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
    record("%u,%u,%u", value->clusterDim.x, value->clusterDim.y, value->clusterDim.z);
    break;
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
    record("%d", value->clusterSchedulingPolicyPreference);
    break;
  case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
    record("%d", value->cooperative);
    break;
  case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
    record("%d", value->programmaticStreamSerializationAllowed);
    break;
  default:
    record("unknown");
  }
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra)
{
  record("cuLaunchKernelEx %p grid %u,%u,%u block %u,%u,%u shared %u stream %p extra %p", (void *)function,
         config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX, config->blockDimY, config->blockDimZ,
         config->sharedMemBytes, (void *)config->hStream, (void *)extra);
  for (unsigned i = 0; i < config->numAttrs; i++)
    record_attribute(&config->attrs[i]);
  for (int i = 0; i < size_count; i++) {
    record(" ");
    for (int j = 0; j < sizes[i]; j++)
      record("%02x", ((unsigned char *)parameters[i])[j]);
  }
  record("\n");
  return result("cuLaunchKernelEx");
}

CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                const cuuint64_t *dimensions, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill)
{
  record("cuTensorMapEncodeTiled type %d rank %u address %p interleave %d swizzle %d promotion %d fill %d", type, rank,
         address, interleave, swizzle, promotion, fill);
  unsigned char *bytes = (unsigned char *)map;
  for (unsigned i = 0; i < sizeof *map; i++)
    bytes[i] = (unsigned char)(i * 7 + type + rank + (size_t)address);
  for (cuuint32_t i = 0; i < rank; i++) {
    record(" %llu/%llu/%u/%u", (unsigned long long)dimensions[i],
           i + 1 < rank ? (unsigned long long)strides[i] : 0, box[i], steps[i]);
    bytes[i] ^= (unsigned char)dimensions[i];
  }
  record("\n");
  return result("cuTensorMapEncodeTiled");
}

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
  record("cuModuleLoadData %.3s\n", (const char *)image + 1); /* "ELF" */
  *module = (CUmodule)0xabc;
  return result("cuModuleLoadData");
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
  record("cuModuleGetFunction %p %s\n", (void *)module, name);
  *function = (CUfunction)0xf00d;
  return result("cuModuleGetFunction");
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function)
{
  (void)function;
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
  (void)device;
  *value = attribute == CU_DEVICE_ATTRIBUTE_WARP_SIZE ? 32 : 232448;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config)
{
  (void)function, (void)config;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetLimit(size_t *value, CUlimit limit)
{
  (void)limit;
  *value = 0;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value)
{
  (void)limit, (void)value;
  return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveClusters(int *clusters, CUfunction function, const CUlaunchConfig *config)
{
  (void)function, (void)config;
  *clusters = 1;
  return CUDA_SUCCESS;
}
