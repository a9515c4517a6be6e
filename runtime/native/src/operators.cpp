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

// The input `index` of the operator: scales as 16-bit or 32-bit floats.
ort::Status* constant_scales(const ort::KernelInfo* info, size_t index, std::vector<int64_t>& sizes,
                             const float** scales, const uint16_t** half_scales) {
  ort::ElementType type = ort::ANY;
  const void* data = nullptr;
  EDGESEQ_RETURN_IF_FAILED(constant(info, index, sizes, &data, &type));
  if (type == ort::FLOAT16)
    *half_scales = static_cast<const uint16_t*>(data);
  else if (type == ort::FLOAT)
    *scales = static_cast<const float*>(data);
  else
    return wrong("The scales of blocks are float or float16.");
  return nullptr;
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
    EDGESEQ_RETURN_IF_FAILED(constant(info, 1, sizes, &weight.codes));
    EDGESEQ_RETURN_IF_FAILED(
        constant_scales(info, 2, scales, &weight.scales, &weight.half_scales));
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

template <class Operator>
ort::Status* create(const ort::CustomOp*, const ort::Api*, const ort::KernelInfo* info,
                    void** kernel) {
  auto* made = new (std::nothrow) Operator;
  if (!made) return ort::create_status(api, ort::FAIL, "Out of memory.");
  if (ort::Status* status = made->read(info)) {
    delete made;
    return status;
  }
  *kernel = made;
  return nullptr;
}

// Inputs: x, codes, scales and perhaps a bias.
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

// Inputs: qkv, past keys, past values, seqlens_k, total sequence length, scales of the keys and values,
// and perhaps a bias of the scores. Outputs: the attention's, keys, values.
struct Attend {
  static constexpr const char* NAME = "CachedAttention";
  int64_t heads = 0, window = -1;
  float scale = 0;

  ort::Status* read(const ort::KernelInfo* info) {
    EDGESEQ_RETURN_IF_FAILED(ort::integer_attribute(api, info, "num_heads", &heads));
    EDGESEQ_RETURN_IF_FAILED(ort::integer_attribute(api, info, "local_window_size", &window));
    EDGESEQ_RETURN_IF_FAILED(ort::float_attribute(api, info, "scale", &scale));
    if (heads < 1 || window == 0 || window < -1)
      return wrong("CachedAttention needs heads, and a window of -1 or at least 1.");
    return nullptr;
  }
  static ort::ElementType input_type(size_t index) {
    if (index == 1 || index == 2) return ort::INT8;
    return index == 3 || index == 4 ? ort::INT32 : ort::FLOAT;
  }
};

// A tensor and its shape.
template <class Element>
struct Tensor {
  std::vector<int64_t> sizes;
  Element* data = nullptr;

  ort::Status* read(const ort::Value* value) {
    EDGESEQ_RETURN_IF_FAILED(shape_of(value, sizes));
    void* found = nullptr;
    EDGESEQ_RETURN_IF_FAILED(ort::tensor_data(api, value, &found));
    data = static_cast<Element*>(found);
    return nullptr;
  }
  ort::Status* input(const ort::KernelContext* context, size_t index) {
    const ort::Value* value = nullptr;
    EDGESEQ_RETURN_IF_FAILED(ort::input(api, context, index, &value));
    return value ? read(value) : nullptr;
  }
  ort::Status* output(ort::KernelContext* context, size_t index) {  // of the shape `sizes`
    ort::Value* value = nullptr;
    EDGESEQ_RETURN_IF_FAILED(
        ort::output(api, context, index, sizes.data(), sizes.size(), &value));
    return value ? read(value) : wrong("An operator of edgeseq lacks an output.");
  }
};

ort::Status* attend(void* kernel, ort::KernelContext* context) {
  const Attend& op = *static_cast<Attend*>(kernel);
  Tensor<const float> qkv, key_scale, value_scale, bias;
  Tensor<const int8_t> past_keys, past_values;
  Tensor<const int32_t> last, total;
  EDGESEQ_RETURN_IF_FAILED(qkv.input(context, 0));
  EDGESEQ_RETURN_IF_FAILED(past_keys.input(context, 1));
  EDGESEQ_RETURN_IF_FAILED(past_values.input(context, 2));
  EDGESEQ_RETURN_IF_FAILED(last.input(context, 3));
  EDGESEQ_RETURN_IF_FAILED(total.input(context, 4));
  EDGESEQ_RETURN_IF_FAILED(key_scale.input(context, 5));
  EDGESEQ_RETURN_IF_FAILED(value_scale.input(context, 6));
  EDGESEQ_RETURN_IF_FAILED(bias.input(context, 7));
  if (qkv.sizes.size() != 3 || qkv.sizes[2] % (3 * op.heads) != 0)
    return wrong("The queries, keys and values of CachedAttention are (rows, tokens, 3 * features).");
  CachedAttention call{};
  call.rows = qkv.sizes[0];
  call.tokens = qkv.sizes[1];
  call.heads = op.heads;
  call.size = qkv.sizes[2] / (3 * op.heads);
  const auto& past = past_keys.sizes;
  if (past != past_values.sizes || past.size() != 4 || past[0] != call.rows ||
      past[1] != call.heads || past[3] != call.size)
    return wrong("The KV cache of CachedAttention is (rows, heads, capacity, head size).");
  if (product(last.sizes) != call.rows)
    return wrong("CachedAttention needs a length for each row.");
  if (product(total.sizes) != 1 || product(key_scale.sizes) != 1 || product(value_scale.sizes) != 1)
    return wrong("The total length and the scales of CachedAttention are single numbers.");
  call.past_capacity = past[2];
  call.capacity = *total.data > past[2] ? *total.data : past[2];
  call.last = last.data;
  for (int64_t row = 0; row < call.rows; row++) {
    if (last.data[row] < 0 || call.length(row) > *total.data)
      return wrong("A row's length is not between 1 and the total length in CachedAttention.");
    if (call.past(row) > call.past_capacity)
      return wrong("A row has more past keys than the KV cache of CachedAttention.");
  }
  if (bias.data) {
    const auto& sizes = bias.sizes;
    if (sizes.size() != 4 || (sizes[0] != 1 && sizes[0] != call.rows) ||
        (sizes[1] != 1 && sizes[1] != call.heads) || sizes[2] != call.tokens ||
        sizes[3] != *total.data)
      return wrong("The bias of CachedAttention is (rows, heads, tokens, total length).");
    call.bias = bias.data;
    call.bias_token = sizes[3];
    call.bias_head = sizes[1] == 1 ? 0 : sizes[2] * sizes[3];
    call.bias_row = sizes[0] == 1 ? 0 : sizes[1] * sizes[2] * sizes[3];
  }
  Tensor<float> y;
  Tensor<int8_t> keys, values;
  y.sizes = {call.rows, call.tokens, call.heads * call.size};
  keys.sizes = values.sizes = {call.rows, call.heads, call.capacity, call.size};
  EDGESEQ_RETURN_IF_FAILED(y.output(context, 0));
  EDGESEQ_RETURN_IF_FAILED(keys.output(context, 1));
  EDGESEQ_RETURN_IF_FAILED(values.output(context, 2));
  if (call.capacity != call.past_capacity &&
      (keys.data == past_keys.data || values.data == past_values.data))
    return wrong("The total length is larger than the KV cache that CachedAttention appends to.");
  call.qkv = qkv.data;
  call.past_keys = past_keys.data;
  call.past_values = past_values.data;
  call.keys = keys.data;
  call.values = values.data;
  call.window = op.window;
  call.scale = op.scale;
  call.key_scale = *key_scale.data;
  call.value_scale = *value_scale.data;
  const SessionThreads threads(context);
  if (product(y.sizes) > 0) kernels(0)->attend(call, y.data, threads);
  return threads.failure();
}

// Rows of a table whose codes are stored as those of a BlockLinear. Inputs: codes, ids, scales and
// perhaps zero points, which are always the middle of the codes. Output: the rows of the ids.
struct BlockLookup {
  static constexpr const char* NAME = "BlockLookup";
  BlockWeight table{};  // its outputs are the rows
  int64_t width = 0;    // of a row, padding included

  ort::Status* read(const ort::KernelInfo* info) {
    EDGESEQ_RETURN_IF_FAILED(ort::integer_attribute(api, info, "bits", &table.bits));
    EDGESEQ_RETURN_IF_FAILED(ort::integer_attribute(api, info, "block_size", &table.block_size));
    if (!has_blocks(table.bits, table.block_size))
      return wrong("BlockLookup has 4 or 8 bits in blocks of 16 to 256.");
    std::vector<int64_t> sizes, scales;
    EDGESEQ_RETURN_IF_FAILED(constant(info, 0, sizes, &table.codes));
    EDGESEQ_RETURN_IF_FAILED(constant_scales(info, 2, scales, &table.scales, &table.half_scales));
    if (sizes.size() != 2) return wrong("The codes of BlockLookup are no matrix.");
    table.outputs = sizes[0];
    table.inputs = width = sizes[1] * 8 / table.bits;
    if (width % table.block_size || product(scales) != table.outputs * table.blocks())
      return wrong("The scales of BlockLookup do not fit its codes.");
    return nullptr;
  }
  static ort::ElementType input_type(size_t index) {
    constexpr ort::ElementType types[] = {ort::UINT8, ort::INT64, ort::ANY, ort::UINT8};
    return types[index];
  }
  void row(int64_t id, float* y) const {
    const int64_t blocks = table.blocks();
    const uint8_t* codes = table.codes + id * width * table.bits / 8;
    for (int64_t block = 0; block < blocks; block++, y += table.block_size) {
      const int64_t at = id * blocks + block;
      const float scale = table.scales ? table.scales[at] : to_float(table.half_scales[at]);
      if (table.bits == 8) {
        for (int64_t i = 0; i < table.block_size; i++)
          y[i] = static_cast<float>(codes[i] - 128) * scale;
        codes += table.block_size;
      } else {
        for (int64_t i = 0; i < table.block_size; i += 2, codes++) {
          y[i] = static_cast<float>((*codes & 15) - 8) * scale;
          y[i + 1] = static_cast<float>((*codes >> 4) - 8) * scale;
        }
      }
    }
  }
};

ort::Status* look_up(void* kernel, ort::KernelContext* context) {
  const BlockLookup& op = *static_cast<BlockLookup*>(kernel);
  Tensor<const int64_t> ids;
  Tensor<float> y;
  EDGESEQ_RETURN_IF_FAILED(ids.input(context, 1));
  const int64_t count = product(ids.sizes);
  for (int64_t i = 0; i < count; i++) {
    if (ids.data[i] < 0 || ids.data[i] >= op.table.outputs)
      return wrong("An id is not in the table of BlockLookup.");
  }
  y.sizes = ids.sizes;
  y.sizes.push_back(op.width);
  EDGESEQ_RETURN_IF_FAILED(y.output(context, 0));
  for (int64_t i = 0; i < count; i++) op.row(ids.data[i], y.data + i * op.width);
  return nullptr;
}

struct BlockLinear4 : BlockLinear {
  static constexpr const char* NAME = "BlockLinear4";
};

struct BlockLinear8 : BlockLinear {
  static constexpr const char* NAME = "BlockLinear8";
};

// What all operators have in common.
template <class Operator>
ort::CustomOp make_any() {
  ort::CustomOp op{};
  op.version = ort::API_VERSION;
  op.GetName = [](const ort::CustomOp*) { return Operator::NAME; };
  op.GetExecutionProviderType = [](const ort::CustomOp*) { return "CPUExecutionProvider"; };
  op.GetInputType = [](const ort::CustomOp*, size_t index) { return Operator::input_type(index); };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Operator*>(kernel); };
  op.GetOutputCharacteristic = [](const ort::CustomOp*, size_t) { return ort::REQUIRED; };
  op.GetInputMemoryType = [](const ort::CustomOp*, size_t) { return 0; };
  const auto one = [](const ort::CustomOp*) { return 1; };
  op.GetVariadicInputMinArity = op.GetVariadicInputHomogeneity = one;
  op.GetVariadicOutputMinArity = op.GetVariadicOutputHomogeneity = one;
  op.CreateKernelV2 = create<Operator>;
  op.GetStartVersion = one;
  op.GetEndVersion = [](const ort::CustomOp*) { return INT32_MAX; };
  return op;
}

template <class Linear>
ort::CustomOp make_operator() {
  ort::CustomOp op = make_any<Linear>();
  op.GetInputTypeCount = [](const ort::CustomOp*) { return Linear::INPUTS; };
  op.GetInputCharacteristic = [](const ort::CustomOp*, size_t index) {
    return index == 3 ? ort::OPTIONAL : ort::REQUIRED;
  };
  op.GetOutputType = [](const ort::CustomOp*, size_t) { return ort::FLOAT; };
  op.GetOutputTypeCount = [](const ort::CustomOp*) -> size_t { return 1; };
  op.KernelComputeV2 = compute<Linear>;
  return op;
}

ort::CustomOp make_attention() {
  ort::CustomOp op = make_any<Attend>();
  op.GetInputTypeCount = [](const ort::CustomOp*) -> size_t { return 8; };
  op.GetInputCharacteristic = [](const ort::CustomOp*, size_t index) {
    return index == 7 ? ort::OPTIONAL : ort::REQUIRED;
  };
  op.GetOutputType = [](const ort::CustomOp*, size_t index) {
    return index == 0 ? ort::FLOAT : ort::INT8;
  };
  op.GetOutputTypeCount = [](const ort::CustomOp*) -> size_t { return 3; };
  op.KernelComputeV2 = attend;
  return op;
}

ort::CustomOp make_lookup() {
  ort::CustomOp op = make_any<BlockLookup>();
  op.GetInputTypeCount = [](const ort::CustomOp*) -> size_t { return 4; };
  op.GetInputCharacteristic = [](const ort::CustomOp*, size_t index) {
    return index == 3 ? ort::OPTIONAL : ort::REQUIRED;
  };
  op.GetOutputType = [](const ort::CustomOp*, size_t) { return ort::FLOAT; };
  op.GetOutputTypeCount = [](const ort::CustomOp*) -> size_t { return 1; };
  op.KernelComputeV2 = look_up;
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
  static const ort::CustomOp attention = make_attention();
  static const ort::CustomOp lookup = make_lookup();
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
  EDGESEQ_RETURN_IF_FAILED(ort::add_operator(api, domain, &attention));
  EDGESEQ_RETURN_IF_FAILED(ort::add_operator(api, domain, &lookup));
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

EDGESEQ_EXPORT void edgeseq_attend(size_t index, const edgeseq::CachedAttention* call, float* y) {
  edgeseq::kernels(index)->attend(*call, y, edgeseq::Loop());
}

// For each of `rows` rows of `count` logits: `scan_row`. Arrays have a number for each row; maxima one
// for each row and set.
EDGESEQ_EXPORT void edgeseq_scan(size_t index, const float* logits, int64_t rows, int64_t count,
                                 int64_t set_size, float* maxima, float* rest, float* peaks,
                                 double* sums) {
  const int64_t sets = count / set_size;
  for (int64_t row = 0; row < rows; row++) {
    const edgeseq::RowScan found = edgeseq::kernels(index)->scan_row(
        logits + row * count, count, sets, set_size, maxima + row * sets);
    rest[row] = found.rest;
    peaks[row] = found.peak;
    sums[row] = found.sum;
  }
}
