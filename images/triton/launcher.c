/* Launch a Triton kernel whose argument kinds are data.
 *
 * Triton 3.6 generates a C module for each kernel signature and compiles it in the running process. This module
 * takes the place of all of them: `launch(kinds, tensor_map_type, ...)` converts the arguments as `kinds` says, one
 * letter for each, and calls cuLaunchKernelEx. ADR 0066 says why, and where it differs on purpose.
 *
 *   p  device pointer: an int, None, or an object with data_ptr()
 *   b  i1, i8      h  i16     i  i32     l  i64
 *   B  u1, u8      H  u16     I  u32     L  u64
 *   e  fp16        g  bf16    f  fp32    d  fp64
 *   t  tensor map (TMA descriptor), passed by value
 *   c  constant of the compiled kernel: takes an argument, passes nothing
 *   (  )  a tuple, with the kinds of its items between
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <cuda.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define MAX_DEPTH 16    /* nested tuples */
#define MAX_KINDS 4096  /* letters; the parameters of a kernel have at most 32,764 bytes */
#define ON_STACK 64     /* kinds of most kernels; for more, memory is allocated */

_Static_assert(sizeof(void *) == 8, "device pointers and pointers have one size");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a value's low bytes come first");

/* The layout of Triton's PyCUtensorMap. */
typedef struct {
  PyObject_HEAD
  _Alignas(128) CUtensorMap map;
} TensorMap;

/* One argument that is passed, or a constant (`parameter` is NULL). */
typedef struct {
  uint64_t bits;     /* the parameter, its low bytes first */
  double real;       /* of a floating-point kind, until it is packed */
  PyObject *object;  /* of a pointer or a tensor map; owned */
  void *parameter;
  char kind;
} Value;

typedef struct {
  const char *kinds, *end;
  Value *values;
  Py_ssize_t count;
} Arguments;

/* What launch() takes before the kernel's own arguments. */
enum {
  KINDS, TENSOR_MAP_TYPE, GRID_X, GRID_Y, GRID_Z, STREAM, FUNCTION, COOPERATIVE, DEPENDENT, GLOBAL_SCRATCH,
  PROFILE_SCRATCH, KERNEL_METADATA, LAUNCH_METADATA, ENTER_HOOK, EXIT_HOOK, FIRST_ARGUMENT
};

static PyObject *data_ptr;

/* Set RuntimeError and return false unless `code` is success. */
static bool succeeded(CUresult code)
{
  if (code == CUDA_SUCCESS)
    return true;
  const char *text = NULL;
  cuGetErrorString(code, &text);
  PyErr_Format(PyExc_RuntimeError, "Triton Error [CUDA]: %s", text ? text : "unknown error");
  return false;
}

/* Make the first device's primary context current if the thread has none. */
static bool ensure_context(void)
{
  CUcontext context = NULL;
  CUdevice device;
  if (!succeeded(cuCtxGetCurrent(&context)))
    return false;
  return context || (succeeded(cuDeviceGet(&device, 0)) && succeeded(cuDevicePrimaryCtxRetain(&context, device)) &&
                     succeeded(cuCtxSetCurrent(context)));
}

/* An int of the common type within [low, high]. Everything else is left to PyArg_Parse, whose rules are those of
 * generated launchers: which objects count as numbers, which widths are checked, and which are cut. */
static bool is_plain(PyObject *object, long long low, unsigned long long high, long long *value)
{
  int overflow = 0;
  if (!PyLong_CheckExact(object))
    return false;
  *value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return !overflow && *value >= low && (*value < 0 || (unsigned long long)*value <= high);
}

#define INTEGER(ctype, low, high, format) \
  do { \
    ctype parsed; \
    if (is_plain(object, low, high, &plain)) \
      parsed = (ctype)plain; \
    else if (!PyArg_Parse(object, format, &parsed)) \
      return false; \
    memcpy(bits, &parsed, sizeof parsed); \
    return true; \
  } while (0)

/* Convert an int of kind `kind` into the low bytes of `bits`. */
static bool integer(PyObject *object, char kind, uint64_t *bits)
{
  long long plain;
  *bits = 0;
  switch (kind) {
  case 'b': INTEGER(unsigned char, 0, UCHAR_MAX, "b");
  case 'h': INTEGER(short, SHRT_MIN, SHRT_MAX, "h");
  case 'i': INTEGER(int, INT_MIN, INT_MAX, "i");
  case 'l': INTEGER(long long, LLONG_MIN, LLONG_MAX, "L");
  case 'B': INTEGER(unsigned char, 0, UCHAR_MAX, "B");
  case 'H': INTEGER(unsigned short, 0, USHRT_MAX, "H");
  case 'I': INTEGER(unsigned int, 0, UINT_MAX, "I");
  default: INTEGER(unsigned long long, 0, ULLONG_MAX, "K");
  }
}

/* As integer(), for those values of launch() that are an int in C. */
static bool plain_int(PyObject *object, int *value)
{
  uint64_t bits;
  if (!integer(object, 'i', &bits))
    return false;
  memcpy(value, &bits, sizeof *value);
  return true;
}

static bool bad_kinds(const char *why)
{
  PyErr_Format(PyExc_ValueError, "kinds of arguments: %s", why);
  return false;
}

/* How many items the kinds up to the closing parenthesis, or the end, stand for; -1 if they are malformed. */
static Py_ssize_t items_expected(const char *kinds, const char *end, int depth)
{
  Py_ssize_t count = 0;
  int open = 0;
  for (; kinds < end; kinds++) {
    if (*kinds == ')') {
      if (open == 0)
        return depth ? count : -1;
      open--;
    } else {
      count += open == 0;
      open += *kinds == '(';
    }
  }
  return depth || open ? -1 : count;
}

/* True if `count` items are as many as the next kinds take; else the error is set. */
static bool is_count(const Arguments *arguments, Py_ssize_t count, int depth)
{
  Py_ssize_t expected = items_expected(arguments->kinds, arguments->end, depth);
  if (expected < 0)
    return bad_kinds("parentheses do not match");
  if (count != expected)
    PyErr_Format(PyExc_TypeError, "%s %zd items, expected %zd", depth ? "a tuple has" : "the kernel was given", count,
                 expected);
  return count == expected;
}

/* Read the items of one tuple, or all arguments: those of `items` by the kinds up to the closing parenthesis. */
static bool read_items(Arguments *arguments, PyObject *const *items, Py_ssize_t count, int depth);

static bool read_tuple(Arguments *arguments, PyObject *object, int depth)
{
  if (depth == MAX_DEPTH)
    return bad_kinds("tuples are nested too deeply");
  if (!PySequence_Check(object) || PyBytes_Check(object)) {
    PyErr_Format(PyExc_TypeError, "argument must be a tuple, not %.50s", Py_TYPE(object)->tp_name);
    return false;
  }
  PyObject *items = PySequence_Tuple(object);
  if (!items) {
    PyErr_Clear();
    PyErr_SetString(PyExc_TypeError, "the items of a tuple cannot be read");
    return false;
  }
  Py_ssize_t count = PyTuple_GET_SIZE(items);
  bool done = is_count(arguments, count, depth + 1) &&
              read_items(arguments, ((PyTupleObject *)items)->ob_item, count, depth + 1);
  Py_DECREF(items);
  return done;
}

static bool read_items(Arguments *arguments, PyObject *const *items, Py_ssize_t count, int depth)
{
  for (Py_ssize_t i = 0; i < count; i++) {
    char kind = *arguments->kinds++;
    if (kind == '(') {
      if (!read_tuple(arguments, items[i], depth))
        return false;
      continue;
    }
    Value *value = &arguments->values[arguments->count++];
    *value = (Value){.kind = kind, .parameter = &value->bits};
    switch (kind) {
    case 'p': case 't':
      value->object = Py_NewRef(items[i]);
      break;
    case 'c':
      value->parameter = NULL;
      break;
    case 'e': case 'g': case 'f': case 'd':
      if (PyFloat_CheckExact(items[i]))
        value->real = PyFloat_AS_DOUBLE(items[i]);
      else if (!PyArg_Parse(items[i], "d", &value->real))
        return false;
      break;
    case 'b': case 'h': case 'i': case 'l': case 'B': case 'H': case 'I': case 'L':
      if (!integer(items[i], kind, &value->bits))
        return false;
      break;
    default:
      return bad_kinds("a letter is unknown");
    }
  }
  arguments->kinds += depth > 0;
  return true;
}

/* The device's address of a pointer argument; `index` is its place among the flattened arguments. */
static bool device_pointer(PyObject *object, Py_ssize_t index, uint64_t *address)
{
  if (object == Py_None) {
    *address = 0;
    return true;
  }
  if (PyLong_Check(object)) {
    *address = PyLong_AsUnsignedLongLong(object);
    return !(*address == (uint64_t)-1 && PyErr_Occurred());
  }
  PyObject *found = PyObject_CallMethodNoArgs(object, data_ptr);
  if (!found) {
    PyErr_SetString(PyExc_TypeError, "Pointer argument must be either uint64 or have data_ptr method");
    return false;
  }
  if (!PyLong_Check(found)) {
    Py_DECREF(found);
    PyErr_SetString(PyExc_TypeError, "data_ptr method of Pointer object must return 64-bit int");
    return false;
  }
  CUdeviceptr given = PyLong_AsUnsignedLongLong(found), seen = 0;
  Py_DECREF(found);
  if (given == (CUdeviceptr)-1 && PyErr_Occurred())
    return false;
  if (given) {
    CUresult code = cuPointerGetAttribute(&seen, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, given);
    if (code == CUDA_ERROR_INVALID_VALUE) {
      PyErr_Format(PyExc_ValueError, "Pointer argument (at %zd) cannot be accessed from Triton (cpu tensor?)", index);
      return false;
    }
    if (!succeeded(code))
      return false;
  }
  *address = seen;
  return true;
}

static bool tensor_map(PyObject *object, PyObject *type, void **parameter)
{
  if ((PyObject *)Py_TYPE(object) != type) {
    PyErr_Format(PyExc_TypeError, "object must be of type PyCUtensorMap, got %s", Py_TYPE(object)->tp_name);
    return false;
  }
  CUtensorMap *map = &((TensorMap *)object)->map;
  if ((uintptr_t)map % 128) {
    PyErr_Format(PyExc_ValueError, "CUtensorMap must be aligned to 128B, but got (&map) mod 128 = %ld",
                 (long)((uintptr_t)map % 128));
    return false;
  }
  *parameter = map;
  return true;
}

/* Pack a floating-point value as its kind: fp16 rounds to nearest, bf16 is the upper half of fp32. */
static bool pack(Value *value)
{
  float single = (float)value->real;
  uint32_t word;
  memcpy(&word, &single, sizeof word);
  switch (value->kind) {
  case 'e':
    return PyFloat_Pack2(value->real, (char *)&value->bits, 1) == 0;
  case 'g':
    value->bits = word >> 16;
    return true;
  case 'f':
    value->bits = word;
    return true;
  default:
    memcpy(&value->bits, &value->real, sizeof value->bits);
    return true;
  }
}

/* Turn pointers into addresses, tensor maps into their bytes and floats into their width, in the order in which
 * generated launchers do, since pointers run Python code. */
static bool resolve(Arguments *arguments, PyObject *tensor_map_type)
{
  Value *values = arguments->values;
  for (Py_ssize_t i = 0; i < arguments->count; i++)
    if (values[i].kind == 'p' && !device_pointer(values[i].object, i, &values[i].bits))
      return false;
  for (Py_ssize_t i = 0; i < arguments->count; i++)
    if (values[i].kind == 't' && !tensor_map(values[i].object, tensor_map_type, &values[i].parameter))
      return false;
  for (Py_ssize_t i = 0; i < arguments->count; i++)
    if (strchr("egfd", values[i].kind) && !pack(&values[i]))
      return false;
  return true;
}

/* True if the product of the grid's dimensions is positive; it may need more than 64 bits. */
static bool is_positive(const int grid[3])
{
  int negative = (grid[0] < 0) + (grid[1] < 0) + (grid[2] < 0);
  return grid[0] && grid[1] && grid[2] && negative % 2 == 0;
}

typedef struct {
  int grid[3], warps, clusters, shared, cooperative, dependent;
  CUstream stream;
  CUfunction function;
} Launch;

/* Call the driver; the caller does not hold the interpreter's lock. */
static CUresult start(const Launch *launch, void **parameters)
{
  CUlaunchAttribute attributes[4];
  CUlaunchConfig config = {
      .gridDimX = (unsigned)launch->grid[0] * (unsigned)launch->clusters,
      .gridDimY = launch->grid[1],
      .gridDimZ = launch->grid[2],
      .blockDimX = 32 * (unsigned)launch->warps,
      .blockDimY = 1,
      .blockDimZ = 1,
      .sharedMemBytes = launch->shared,
      .hStream = launch->stream,
      .attrs = attributes,
  };
  memset(attributes, 0, sizeof attributes);
  if (launch->dependent) {
    CUlaunchAttribute *next = &attributes[config.numAttrs++];
    next->id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    next->value.programmaticStreamSerializationAllowed = 1;
  }
  if (launch->cooperative) {
    CUlaunchAttribute *next = &attributes[config.numAttrs++];
    next->id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    next->value.cooperative = 1;
  }
  if (launch->clusters != 1) {
    CUlaunchAttribute *next = &attributes[config.numAttrs++];
    next->id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    next->value.clusterDim.x = launch->clusters;
    next->value.clusterDim.y = 1;
    next->value.clusterDim.z = 1;
    next = &attributes[config.numAttrs++];
    next->id = CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE;
    next->value.clusterSchedulingPolicyPreference = CU_CLUSTER_SCHEDULING_POLICY_SPREAD;
  }
  if (launch->clusters == 16) { /* more than the portable 8 */
    CUresult code = cuFuncSetAttribute(launch->function, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1);
    if (code != CUDA_SUCCESS)
      return code;
  }
  return cuLaunchKernelEx(&config, launch->function, parameters, NULL);
}

static bool call_hook(PyObject *hook, PyObject *metadata)
{
  if (hook == Py_None)
    return true;
  PyObject *answer = PyObject_CallOneArg(hook, metadata);
  Py_XDECREF(answer);
  return answer != NULL;
}

/* Read what comes before the kernel's arguments, then these, in their order. */
static bool read_all(PyObject *const *args, Py_ssize_t given, Launch *launch, Arguments *arguments)
{
  uint64_t stream, function;
  if (!is_count(arguments, given - FIRST_ARGUMENT, 0)) /* before any argument is looked at */
    return false;
  for (int i = 0; i < 3; i++)
    if (!plain_int(args[GRID_X + i], &launch->grid[i]))
      return false;
  if (!integer(args[STREAM], 'L', &stream) || !integer(args[FUNCTION], 'L', &function))
    return false;
  launch->stream = (CUstream)stream;
  launch->function = (CUfunction)function;
  if ((launch->cooperative = PyObject_IsTrue(args[COOPERATIVE])) < 0 ||
      (launch->dependent = PyObject_IsTrue(args[DEPENDENT])) < 0)
    return false;
  if (!read_items(arguments, args + FIRST_ARGUMENT, given - FIRST_ARGUMENT, 0))
    return false;
  PyObject *metadata = args[KERNEL_METADATA];
  if (!PyTuple_Check(metadata) ||
      !PyArg_ParseTuple(metadata, "iii", &launch->warps, &launch->clusters, &launch->shared)) {
    PyErr_SetString(PyExc_TypeError, "kernel_metadata must be a tuple");
    return false;
  }
  return true;
}

static bool launch_with(PyObject *const *args, Py_ssize_t given, Arguments *arguments, void **parameters)
{
  Launch launch;
  uint64_t global_scratch, profile_scratch;
  if (!ensure_context() || !read_all(args, given, &launch, arguments) ||
      !call_hook(args[ENTER_HOOK], args[LAUNCH_METADATA]) ||
      !device_pointer(args[GLOBAL_SCRATCH], -1, &global_scratch) ||
      !device_pointer(args[PROFILE_SCRATCH], -1, &profile_scratch) || !resolve(arguments, args[TENSOR_MAP_TYPE]))
    return false;
  if (is_positive(launch.grid)) {
    CUresult code;
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < arguments->count; i++)
      if (arguments->values[i].parameter)
        parameters[count++] = arguments->values[i].parameter;
    parameters[count++] = &global_scratch;
    parameters[count++] = &profile_scratch;
    Py_BEGIN_ALLOW_THREADS
    code = start(&launch, parameters);
    Py_END_ALLOW_THREADS
    if (!succeeded(code))
      return false;
  }
  return call_hook(args[EXIT_HOOK], args[LAUNCH_METADATA]);
}

static PyObject *launch(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
  Value few_values[ON_STACK], *values = few_values;
  void *few_parameters[ON_STACK + 2], **parameters = few_parameters;
  (void)module;
  if (given < FIRST_ARGUMENT || !PyBytes_Check(args[KINDS])) {
    PyErr_Format(PyExc_TypeError, "launch takes the kinds of arguments as bytes, and at least %d arguments",
                 FIRST_ARGUMENT);
    return NULL;
  }
  Py_ssize_t length = PyBytes_GET_SIZE(args[KINDS]);
  if (length > MAX_KINDS) {
    bad_kinds("there are too many");
    return NULL;
  }
  if (length > ON_STACK) {
    values = PyMem_Malloc(length * sizeof *values);
    parameters = PyMem_Malloc((length + 2) * sizeof *parameters);
  }
  const char *kinds = PyBytes_AS_STRING(args[KINDS]);
  Arguments arguments = {.kinds = kinds, .end = kinds + length, .values = values};
  bool done = false;
  if (values && parameters)
    done = launch_with(args, given, &arguments, parameters);
  else
    PyErr_NoMemory();
  for (Py_ssize_t i = 0; i < arguments.count; i++)
    Py_XDECREF(values[i].object);
  if (length > ON_STACK) {
    PyMem_Free(values);
    PyMem_Free(parameters);
  }
  return done ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef methods[] = {
    {"launch", (PyCFunction)(void (*)(void))launch, METH_FASTCALL, "Launch a kernel whose argument kinds are data."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "privml_launcher",
    .m_doc = "One launcher for all Triton kernels, compiled when the image is made.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_privml_launcher(void)
{
  data_ptr = PyUnicode_InternFromString("data_ptr");
  return data_ptr ? PyModule_Create(&definition) : NULL;
}
