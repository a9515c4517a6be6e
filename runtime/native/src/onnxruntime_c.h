// The part of ONNX Runtime's C interface that custom operators need, declared here so that the
// library builds without ONNX Runtime's headers.
//
// The interface is a table of functions to which versions only append, so a position never changes.
// Positions and types are those of version 17 (onnxruntime_c_api.h of ONNX Runtime 1.17); any newer
// ONNX Runtime returns this table for GetApi(17).
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

constexpr uint32_t API_VERSION = 17;

struct Api;
struct CustomOpDomain;
struct KernelContext;
struct KernelInfo;
struct SessionOptions;
struct ShapeInfo;
struct Status;
struct Value;

struct ApiBase {
  const Api* (*GetApi)(uint32_t version);  // null for a version that is too new
  const char* (*GetVersionString)();
};

enum ErrorCode { FAIL = 1, INVALID_ARGUMENT = 2 };
enum ElementType { FLOAT = 1, UINT8 = 2, INT8 = 3, INT32 = 6, INT64 = 7, FLOAT16 = 10, ANY = 0 };
enum Characteristic { REQUIRED = 0, OPTIONAL = 1 };

struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  ElementType (*GetInputType)(const CustomOp*, size_t);
  size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void* kernel, KernelContext*);
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const CustomOp*, size_t);
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, size_t);
  int (*GetInputMemoryType)(const CustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext*);
  Status* (*InferOutputShapeFn)(const CustomOp*, void*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  size_t (*GetMayInplace)(int** input, int** output);
  void (*ReleaseMayInplace)(int* input, int* output);
  size_t (*GetAliasMap)(int** input, int** output);
  void (*ReleaseAliasMap)(int* input, int* output);
};

// Positions of functions in the table.
template <int Position, class Function>
Function function(const Api* api) {
  return reinterpret_cast<Function>(reinterpret_cast<void* const*>(api)[Position]);
}

inline Status* create_status(const Api* api, ErrorCode code, const char* message) {
  return function<0, Status* (*)(ErrorCode, const char*)>(api)(code, message);
}
inline Status* create_domain(const Api* api, const char* name, CustomOpDomain** domain) {
  return function<26, Status* (*)(const char*, CustomOpDomain**)>(api)(name, domain);
}
inline Status* add_operator(const Api* api, CustomOpDomain* domain, const CustomOp* op) {
  return function<27, Status* (*)(CustomOpDomain*, const CustomOp*)>(api)(domain, op);
}
inline Status* add_domain(const Api* api, SessionOptions* options, CustomOpDomain* domain) {
  return function<28, Status* (*)(SessionOptions*, CustomOpDomain*)>(api)(options, domain);
}
inline Status* tensor_data(const Api* api, const Value* value, void** data) {
  return function<51, Status* (*)(Value*, void**)>(api)(const_cast<Value*>(value), data);
}
inline Status* element_type(const Api* api, const ShapeInfo* info, ElementType* type) {
  return function<60, Status* (*)(const ShapeInfo*, ElementType*)>(api)(info, type);
}
inline Status* dimension_count(const Api* api, const ShapeInfo* info, size_t* count) {
  return function<61, Status* (*)(const ShapeInfo*, size_t*)>(api)(info, count);
}
inline Status* dimensions(const Api* api, const ShapeInfo* info, int64_t* sizes, size_t count) {
  return function<62, Status* (*)(const ShapeInfo*, int64_t*, size_t)>(api)(info, sizes, count);
}
inline Status* shape_info(const Api* api, const Value* value, ShapeInfo** info) {
  return function<65, Status* (*)(const Value*, ShapeInfo**)>(api)(value, info);
}
inline Status* float_attribute(const Api* api, const KernelInfo* info, const char* name,
                               float* value) {
  return function<85, Status* (*)(const KernelInfo*, const char*, float*)>(api)(info, name, value);
}
inline Status* integer_attribute(const Api* api, const KernelInfo* info, const char* name,
                                 int64_t* value) {
  return function<86, Status* (*)(const KernelInfo*, const char*, int64_t*)>(api)(info, name, value);
}
inline Status* input(const Api* api, const KernelContext* context, size_t index,
                     const Value** value) {
  return function<90, Status* (*)(const KernelContext*, size_t, const Value**)>(api)(context, index,
                                                                                     value);
}
inline Status* output(const Api* api, KernelContext* context, size_t index, const int64_t* sizes,
                      size_t count, Value** value) {
  return function<91, Status* (*)(KernelContext*, size_t, const int64_t*, size_t, Value**)>(api)(
      context, index, sizes, count, value);
}
inline void release_shape_info(const Api* api, ShapeInfo* info) {
  function<99, void (*)(ShapeInfo*)>(api)(info);
}
inline Status* constant_input(const Api* api, const KernelInfo* info, size_t index,
                              int* is_constant, const Value** value) {
  return function<249, Status* (*)(const KernelInfo*, size_t, int*, const Value**)>(api)(
      info, index, is_constant, value);
}
// Runs work(data, i) for every i below `count`, in `batches` batches; 0: as ONNX Runtime likes.
inline Status* parallel_for(const Api* api, const KernelContext* context,
                            void (*work)(void*, size_t), size_t count, size_t batches,
                            void* data) {
  return function<274, Status* (*)(const KernelContext*, void (*)(void*, size_t), size_t, size_t,
                                   void*)>(api)(context, work, count, batches, data);
}

}  // namespace ort
