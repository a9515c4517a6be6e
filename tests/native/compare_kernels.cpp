// Compares the kernels of every kind that this CPU can run with the generic ones, bit by bit.
//
// CI builds it with sanitizers. By hand it also runs for other processors, in an emulator:
//
//   aarch64-linux-gnu-g++ -std=c++17 -O2 -ffp-contract=off -static -pthread \
//       tests/native/compare_kernels.cpp runtime/native/src/*.cpp -o compare && qemu-aarch64 compare
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "../../runtime/native/src/kernels.h"

using namespace edgeseq;

namespace {

std::mt19937 randomness(0);

int integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(randomness); }
float normal() { return std::normal_distribution<float>()(randomness); }

// Several threads, each with a part of the work.
class Parallel : public Threads {
 public:
  void run(size_t count, void (*work)(void*, size_t), void* data) const override {
    std::vector<std::thread> threads;
    for (size_t first = 0; first < 3; first++)
      threads.emplace_back([=] {
        for (size_t i = first; i < count; i += 3) work(data, i);
      });
    for (auto& thread : threads) thread.join();
  }
};

// Memory of exactly `count` elements, so that a sanitizer sees a read beyond them.
template <class Element>
std::vector<Element> filled(size_t count, Element (*value)()) {
  std::vector<Element> result(count);
  for (auto& element : result) element = value();
  return result;
}

std::vector<float> activations(size_t rows, size_t inputs) {
  auto x = filled<float>(rows * inputs, normal);
  for (size_t i = 0; i < inputs; i++) {
    if (rows > 1) x[inputs + i] = 0;
    if (rows > 2) x[2 * inputs + i] = x[i] < 0 ? -50.f : 50.f;
    if (rows > 3) x[3 * inputs + i] *= 1e-3f;
  }
  return x;
}

int failures = 0, comparisons = 0;

void compare(const std::vector<float>& found, const std::vector<float>& expected, const char* name,
             const char* what, int64_t inputs, int64_t outputs, int64_t rows) {
  comparisons++;
  if (std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0) return;
  failures++;
  std::printf("%s: %s of %lld inputs, %lld outputs, %lld rows differs from generic\n", name, what,
              static_cast<long long>(inputs), static_cast<long long>(outputs),
              static_cast<long long>(rows));
}

template <class Multiply>
void compare_all(const char* what, int64_t inputs, int64_t outputs, int64_t rows,
                 Multiply multiply) {
  const Parallel threads;
  const auto size = static_cast<size_t>(rows * outputs);
  std::vector<float> expected(size);
  multiply(*generic(), expected.data(), threads);
  for (size_t index = 0; const Kernels* found = kernels(index); index++) {
    std::vector<float> y(size, -1.0f);
    multiply(*found, y.data(), threads);
    compare(y, expected, found->name, what, inputs, outputs, rows);
  }
}

void rows_of(int64_t inputs, int64_t outputs, int64_t rows) {
  const auto size = static_cast<size_t>(inputs * outputs);
  const auto codes = filled<int8_t>(size, [] { return static_cast<int8_t>(integer(-64, 63)); });
  const auto scales = filled<float>(static_cast<size_t>(outputs), normal);
  const auto bias = filled<float>(static_cast<size_t>(outputs), normal);
  const auto x = activations(static_cast<size_t>(rows), static_cast<size_t>(inputs));
  const RowWeight weight{codes.data(), scales.data(), rows % 2 ? bias.data() : nullptr, inputs,
                         outputs};
  compare_all("rows", inputs, outputs, rows, [&](const Kernels& k, float* y, const Threads& t) {
    k.multiply_rows(weight, x.data(), rows, y, t);
  });
}

void blocks_of(int64_t inputs, int64_t outputs, int64_t rows, int64_t block_size, int64_t bits,
               bool is_half) {
  BlockWeight weight{};
  weight.inputs = inputs;
  weight.outputs = outputs;
  weight.block_size = block_size;
  weight.bits = bits;
  const auto blocks = static_cast<size_t>(outputs * weight.blocks());
  const auto codes = filled<uint8_t>(blocks * static_cast<size_t>(block_size * bits / 8),
                                     [] { return static_cast<uint8_t>(integer(0, 255)); });
  const auto scales = filled<float>(blocks, normal);
  const auto halves =
      filled<uint16_t>(blocks, [] { return static_cast<uint16_t>(integer(0, 0x7bff)); });
  const auto x = activations(static_cast<size_t>(rows), static_cast<size_t>(inputs));
  weight.codes = codes.data();
  weight.scales = is_half ? nullptr : scales.data();
  weight.half_scales = is_half ? halves.data() : nullptr;
  compare_all("blocks", inputs, outputs, rows, [&](const Kernels& k, float* y, const Threads& t) {
    k.multiply_blocks(weight, x.data(), rows, y, t);
  });
}

struct Shape {
  int64_t size, tokens;
  std::vector<int32_t> lengths;
  int64_t room, window;  // keys that the cache has room for beside the longest row's; -1: all keys
};

// Attention in place and with a cache of its own, with and without a bias. `extreme`: scores that
// differ by more than the exponential's range, biases of -infinity, and codes at both ends.
void attention_of(const Shape& shape, bool extreme) {
  const int64_t rows = static_cast<int64_t>(shape.lengths.size()), heads = 3;
  int64_t longest = 0;
  std::vector<int32_t> last;
  for (const int32_t length : shape.lengths) {
    longest = length > longest ? length : longest;
    last.push_back(length - 1);
  }
  const int64_t most = longest > shape.tokens ? longest : shape.tokens;
  const int64_t capacity = most + shape.room, grown = capacity + (shape.room ? 0 : 5);
  const auto cells = [&](int64_t keys) { return static_cast<size_t>(rows * heads * keys * shape.size); };
  const auto code = [] { return static_cast<int8_t>(integer(-128, 127)); };
  const auto past_keys = filled<int8_t>(cells(capacity), code);
  const auto past_values = filled<int8_t>(cells(capacity), code);
  auto qkv = filled<float>(static_cast<size_t>(rows * shape.tokens * 3 * heads * shape.size), normal);
  const bool shared = shape.tokens % 2;
  const int64_t biases = shared ? 1 : rows * heads;
  auto bias = filled<float>(static_cast<size_t>(biases * shape.tokens * longest), normal);
  if (extreme) {
    for (auto& value : qkv) value *= 300;
    for (size_t i = 1; i < bias.size(); i += 3) bias[i] = i % 2 ? -3e38f : -1.0f / 0.0f;
  }
  CachedAttention call{};
  call.rows = rows;
  call.tokens = shape.tokens;
  call.heads = heads;
  call.size = shape.size;
  call.past_capacity = capacity;
  call.qkv = qkv.data();
  call.last = last.data();
  call.window = shape.window;
  call.scale = 0.2f;
  call.key_scale = 0.03f;
  call.value_scale = 0.02f;
  call.bias_token = longest;
  call.bias_head = shared ? 0 : shape.tokens * longest;
  call.bias_row = heads * call.bias_head;
  const Parallel threads;
  const auto compute = [&](const Kernels& kernels, bool in_place) {
    auto keys = past_keys, values = past_values;
    if (!in_place) {
      keys.assign(cells(grown), 99);
      values.assign(cells(grown), 99);
    }
    call.capacity = in_place ? capacity : grown;
    call.keys = keys.data();
    call.values = values.data();
    call.past_keys = in_place ? keys.data() : past_keys.data();
    call.past_values = in_place ? values.data() : past_values.data();
    std::vector<float> y(static_cast<size_t>(rows * shape.tokens * heads * shape.size), -1.0f);
    kernels.attend(call, y.data(), threads);
    y.insert(y.end(), keys.begin(), keys.end());
    y.insert(y.end(), values.begin(), values.end());
    return y;
  };
  for (const bool in_place : {true, false})
    for (const bool has_bias : {true, false}) {
      call.bias = has_bias ? bias.data() : nullptr;
      const auto expected = compute(*generic(), in_place);
      for (size_t index = 0; const Kernels* found = kernels(index); index++)
        compare(compute(*found, in_place), expected, found->name, "attention", shape.size,
                shape.tokens, rows);
    }
}

// A scan of logits in sets of 16, with some impossible tokens.
void scan_of(int64_t count) {
  auto logits = filled<float>(static_cast<size_t>(count), normal);
  for (size_t i = 2; i < logits.size(); i += 7) logits[i] = -1.0f / 0.0f;
  const int64_t sets = count / 16;
  const auto scan = [&](const Kernels& kernels) {
    std::vector<float> found(static_cast<size_t>(sets), -1.0f);
    const RowScan row = kernels.scan_row(logits.data(), count, sets, 16, found.data());
    found.insert(found.end(), {row.peak, row.rest, static_cast<float>(row.sum)});
    return found;
  };
  const auto expected = scan(*generic());
  for (size_t index = 0; const Kernels* found = kernels(index); index++)
    compare(scan(*found), expected, found->name, "a scan", count, sets, 1);
}

}  // namespace

int main() {
  const int64_t shapes[][2] = {{64, 32}, {768, 40}, {100, 5}, {3, 1}, {1, 7}, {257, 97}, {512, 520}};
  for (const auto& [inputs, outputs] : shapes)
    for (const int64_t rows : {1, 2, 3, 5, 8, 9, 13, 30}) {
      rows_of(inputs, outputs, rows);
      if (rows > 9) continue;
      for (const int64_t block_size : {16, 32, 64, 128, 256})
        for (const int64_t bits : {4, 8})
          for (const bool is_half : {false, true})
            if (has_blocks(bits, block_size))
            blocks_of(inputs, outputs, rows, block_size, bits, is_half);
    }
  const Shape attentions[] = {
      {64, 1, {1}, 0, -1},         {64, 1, {70, 1, 33, 16}, 9, -1}, {8, 5, {5, 2, 1}, 3, -1},
      {24, 3, {20, 50}, 0, -1},    {8, 1, {18, 5}, 0, 4},           {128, 2, {66}, 1, -1},
      {40, 9, {49}, 0, -1},        {64, 7, {7, 3}, 0, -1},          {64, 65, {165}, 2, -1},
      {32, 130, {130, 67, 1}, 0, -1}, {16, 70, {200}, 0, 33},       {16, 20, {20}, 40, 1},
      {13, 6, {31}, 0, -1},        {1, 12, {12, 8}, 0, 5},
  };
  for (const auto& shape : attentions)
    for (const bool extreme : {false, true}) attention_of(shape, extreme);
  for (const int64_t count : {1, 15, 16, 100, 256, 300, 4096, 5001, 9000}) scan_of(count);
  for (size_t index = 0; const Kernels* found = kernels(index); index++)
    std::printf("%s ", found->name);
  std::printf("%d comparisons, %d failures\n", comparisons, failures);
  return failures != 0;
}
