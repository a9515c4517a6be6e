// The operators that ONNX Runtime sees, and the functions of the library.
#include <new>
#include <vector>

#include "kernels.h"
#include "onnxruntime_c.h"

#if defined(_WIN32)
#define EDGESEQ_EXPORT extern "C" __declspec(dllexport)
#else
#define EDGESEQ_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace edgeseq {

const Kernels* kernels(size_t index) {
  // Found once: asking a virtual machine's processor for its features takes microseconds.
  static const std::vector<const Kernels*> all = [] {
    std::vector<const Kernels*> found;
    for (const Kernels* one : {avx512_vnni(), avx_vnni(), avx2(), neon_dot(), generic()})
      if (one) found.push_back(one);
    return found;
  }();
  return index < all.size() ? all[index] : nullptr;
}

namespace {

const ort::Api* api;  // of the one ONNX Runtime in the process

#define EDGESEQ_RETURN_IF_FAILED(call) \
  if (ort::Status* status = (call)) return status

// The threads of the session that computes.
class SessionThreads : public Threads {
 public:
  explicit SessionThreads(const ort::KernelContext* context) : context_(context) {}
  void run(size_t count, void (*work)(void*, size_t), void* data) const override {
    if (count == 1) {
      work(data, 0);
    } else if (ort::Status* status = ort::parallel_for(api, context_, work, count, 0, data)) {
      failure_ = status;
    }
  }
  ort::Status* failure() const { return failure_; }

 private:
  const ort::KernelContext* context_;
  mutable ort::Status* failure_ = nullptr;
};

ort::Status* shape_of(const ort::Value* value, std::vector<int64_t>& sizes,
                      ort::ElementType* type = nullptr) {
  ort::ShapeInfo* info = nullptr;
  EDGESEQ_RETURN_IF_FAILED(ort::shape_info(api, value, &info));
  size_t count = 0;
  ort::Status* status = ort::dimension_count(api, info, &count);
  if (!status) {
    sizes.resize(count);
    status = ort::dimensions(api, info, sizes.data(), count);
  }
  if (!status && type) status = ort::element_type(api, info, type);
  ort::release_shape_info(api, info);
  return status;
}

// A constant input; `sizes` is its shape.
template <class Element>
ort::Status* constant(const ort::KernelInfo* info, size_t index, std::vector<int64_t>& sizes,
                      const Element** data, ort::ElementType* type = nullptr) {
  int is_constant = 0;
  const ort::Value* value = nullptr;
  EDGESEQ_RETURN_IF_FAILED(ort::constant_input(api, info, index, &is_constant, &value));
  if (!is_constant)
    return ort::create_status(api, ort::INVALID_ARGUMENT, "A weight is no constant of the graph.");
  EDGESEQ_RETURN_IF_FAILED(shape_of(value, sizes, type));
  void* found = nullptr;
  EDGESEQ_RETURN_IF_FAILED(ort::tensor_data(api, value, &found));
  *data = static_cast<const Element*>(found);
  return nullptr;
}

int64_t product(const std::vector<int64_t>& sizes) {
  int64_t result = 1;
  for (int64_t size : sizes) result *= size;
  return result;
}

ort::Status* wrong(const char* message) {
  return ort::create_status(api, ort::INVALID_ARGUMENT, message);
}

struct RowLinear {
  static constexpr const char* NAME = "RowLinear";
  static constexpr size_t INPUTS = 3;
  RowWeight weight{};

  ort::Status* read(const ort::KernelInfo* info) {
    std::vector<int64_t> sizes, scales;
    EDGESEQ_RETURN_IF_FAILED(constant(info, 1, sizes, &weight.codes));
    EDGESEQ_RETURN_IF_FAILED(constant(info, 2, scales, &weight.scales));
    if (sizes.size() != 2) return wrong("The codes of RowLinear are no matrix.");
    weight.outputs = sizes[0];
    weight.inputs = sizes[1];
    if (product(scales) != weight.outputs) return wrong("RowLinear needs a scale for each output.");
    return nullptr;
  }
  static ort::ElementType input_type(size_t index) { return index == 1 ? ort::INT8 : ort::FLOAT; }
  void multiply(const float* x, int64_t rows, float* y, const Threads& threads) const {
    kernels(0)->multiply_rows(weight, x, rows, y, threads);
  }
};

struct BiasedRowLinear : RowLinear {
  static constexpr const char* NAME = "BiasedRowLinear";
  static constexpr size_t INPUTS = 4;
};

struct BlockLinear {
  static constexpr size_t INPUTS = 4;  // the last is optional
  BlockWeight weight{};

  ort::Status* read(const ort::KernelInfo* info) {
    EDGESEQ_RETURN_IF_FAILED(ort::integer_attribute(api, info, "K", &weight.inputs));
    EDGESEQ_RETURN_IF_FAILED(ort::integer_attribute(api, info, "N", &weight.outputs));
    EDGESEQ_RETURN_IF_FAILED(ort::integer_attribute(api, info, "bits", &weight.bits));
    EDGESEQ_RETURN_IF_FAILED(ort::integer_attribute(api, info, "block_size", &weight.block_size));
    if (!has_blocks(weight.bits, weight.block_size))
      return wrong("BlockLinear has 4 or 8 bits in blocks of 16 to 256.");
    std::vector<int64_t> sizes, scales;
    ort::ElementType type = ort::ANY;
    const void* data = nullptr;
    EDGESEQ_RETURN_IF_FAILED(constant(info, 1, sizes, &weight.codes));
    EDGESEQ_RETURN_IF_FAILED(constant(info, 2, scales, &data, &type));
    if (type == ort::FLOAT16)
      weight.half_scales = static_cast<const uint16_t*>(data);
    else if (type == ort::FLOAT)
      weight.scales = static_cast<const float*>(data);
    else
      return wrong("The scales of BlockLinear are float or float16.");
    const int64_t blocks = weight.outputs * weight.blocks();
    if (product(sizes) != blocks * weight.block_size * weight.bits / 8 || product(scales) != blocks)
      return wrong("The codes and scales of BlockLinear do not fit its attributes.");
    return nullptr;
  }
  static ort::ElementType input_type(size_t index) {
    return index == 1 ? ort::UINT8 : index == 2 ? ort::ANY : ort::FLOAT;
  }
  void multiply(const float* x, int64_t rows, float* y, const Threads& threads) const {
    kernels(0)->multiply_blocks(weight, x, rows, y, threads);
  }
};

// Inputs: x, codes, scales and perhaps a bias.
template <class Linear>
ort::Status* create(const ort::CustomOp*, const ort::Api*, const ort::KernelInfo* info,
                    void** kernel) {
  auto* linear = new (std::nothrow) Linear;
  if (!linear) return ort::create_status(api, ort::FAIL, "Out of memory.");
  if (ort::Status* status = linear->read(info)) {
    delete linear;
    return status;
  }
  *kernel = linear;
  return nullptr;
}

template <class Linear>
ort::Status* compute(void* kernel, ort::KernelContext* context) {
  Linear linear = *static_cast<Linear*>(kernel);
  const ort::Value *x = nullptr, *bias = nullptr;
  EDGESEQ_RETURN_IF_FAILED(ort::input(api, context, 0, &x));
  if (Linear::INPUTS == 4) EDGESEQ_RETURN_IF_FAILED(ort::input(api, context, 3, &bias));
  std::vector<int64_t> sizes;
  EDGESEQ_RETURN_IF_FAILED(shape_of(x, sizes));
  if (sizes.empty() || sizes.back() != linear.weight.inputs)
    return wrong("The last dimension of the input is not the weight's.");
  sizes.back() = 1;
  const int64_t rows = product(sizes);
  sizes.back() = linear.weight.outputs;
  void *from = nullptr, *to = nullptr, *added = nullptr;
  EDGESEQ_RETURN_IF_FAILED(ort::tensor_data(api, x, &from));
  if (bias) {
    std::vector<int64_t> bias_sizes;
    EDGESEQ_RETURN_IF_FAILED(shape_of(bias, bias_sizes));
    if (product(bias_sizes) != linear.weight.outputs) return wrong("A bias has another size.");
    EDGESEQ_RETURN_IF_FAILED(ort::tensor_data(api, bias, &added));
  }
  linear.weight.bias = static_cast<const float*>(added);
  ort::Value* y = nullptr;
  EDGESEQ_RETURN_IF_FAILED(ort::output(api, context, 0, sizes.data(), sizes.size(), &y));
  EDGESEQ_RETURN_IF_FAILED(ort::tensor_data(api, y, &to));
  const SessionThreads threads(context);
  if (rows > 0)
    linear.multiply(static_cast<const float*>(from), rows, static_cast<float*>(to), threads);
  return threads.failure();
}

struct BlockLinear4 : BlockLinear {
  static constexpr const char* NAME = "BlockLinear4";
};

struct BlockLinear8 : BlockLinear {
  static constexpr const char* NAME = "BlockLinear8";
};

template <class Linear>
ort::CustomOp make_operator() {
  ort::CustomOp op{};
  op.version = ort::API_VERSION;
  op.GetName = [](const ort::CustomOp*) { return Linear::NAME; };
  op.GetExecutionProviderType = [](const ort::CustomOp*) { return "CPUExecutionProvider"; };
  op.GetInputType = [](const ort::CustomOp*, size_t index) { return Linear::input_type(index); };
  op.GetInputTypeCount = [](const ort::CustomOp*) { return Linear::INPUTS; };
  op.GetOutputType = [](const ort::CustomOp*, size_t) { return ort::FLOAT; };
  op.GetOutputTypeCount = [](const ort::CustomOp*) -> size_t { return 1; };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Linear*>(kernel); };
  op.GetInputCharacteristic = [](const ort::CustomOp*, size_t index) {
    return index == 3 ? ort::OPTIONAL : ort::REQUIRED;
  };
  op.GetOutputCharacteristic = [](const ort::CustomOp*, size_t) { return ort::REQUIRED; };
  op.GetInputMemoryType = [](const ort::CustomOp*, size_t) { return 0; };
  const auto one = [](const ort::CustomOp*) { return 1; };
  op.GetVariadicInputMinArity = op.GetVariadicInputHomogeneity = one;
  op.GetVariadicOutputMinArity = op.GetVariadicOutputHomogeneity = one;
  op.CreateKernelV2 = create<Linear>;
  op.KernelComputeV2 = compute<Linear>;
  op.GetStartVersion = one;
  op.GetEndVersion = [](const ort::CustomOp*) { return INT32_MAX; };
  return op;
}

// For tests, which call the kernels directly: a loop in place of threads.
class Loop : public Threads {
 public:
  void run(size_t count, void (*work)(void*, size_t), void* data) const override {
    for (size_t i = 0; i < count; i++) work(data, i);
  }
};

}  // namespace
}  // namespace edgeseq

EDGESEQ_EXPORT ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                              const ort::ApiBase* base) {
  using namespace edgeseq;
  static const ort::CustomOp rows = make_operator<RowLinear>();
  static const ort::CustomOp biased_rows = make_operator<BiasedRowLinear>();
  static const ort::CustomOp blocks4 = make_operator<BlockLinear4>();
  static const ort::CustomOp blocks8 = make_operator<BlockLinear8>();
  api = base->GetApi(ort::API_VERSION);
  if (!api) {  // older than 1.17
    return ort::create_status(base->GetApi(1), ort::FAIL, "edgeseq's kernels need ONNX Runtime 1.17.");
  }
  if (kernels(0) == generic())
    return ort::create_status(api, ort::FAIL, "there are no kernels for this kind of processor");
  ort::CustomOpDomain* domain = nullptr;
  EDGESEQ_RETURN_IF_FAILED(ort::create_domain(api, "edgeseq", &domain));
  EDGESEQ_RETURN_IF_FAILED(ort::add_operator(api, domain, &rows));
  EDGESEQ_RETURN_IF_FAILED(ort::add_operator(api, domain, &biased_rows));
  EDGESEQ_RETURN_IF_FAILED(ort::add_operator(api, domain, &blocks4));
  EDGESEQ_RETURN_IF_FAILED(ort::add_operator(api, domain, &blocks8));
  return ort::add_domain(api, options, domain);
}

// The name of the kernels of number `index`; null after the last. The first ones are used.
EDGESEQ_EXPORT const char* edgeseq_kernels(size_t index) {
  const edgeseq::Kernels* found = edgeseq::kernels(index);
  return found ? found->name : nullptr;
}

EDGESEQ_EXPORT void edgeseq_multiply_rows(size_t index, const int8_t* codes, const float* scales,
                                          const float* bias, int64_t inputs, int64_t outputs,
                                          const float* x, int64_t rows, float* y) {
  const edgeseq::RowWeight weight{codes, scales, bias, inputs, outputs};
  edgeseq::kernels(index)->multiply_rows(weight, x, rows, y, edgeseq::Loop());
}

EDGESEQ_EXPORT void edgeseq_multiply_blocks(size_t index, const uint8_t* codes, const float* scales,
                                            const uint16_t* half_scales, const float* bias,
                                            int64_t inputs, int64_t outputs, int64_t block_size,
                                            int64_t bits, const float* x, int64_t rows, float* y) {
  const edgeseq::BlockWeight weight{codes,  scales,  half_scales, bias,
                                    inputs, outputs, block_size,  bits};
  edgeseq::kernels(index)->multiply_blocks(weight, x, rows, y, edgeseq::Loop());
}
