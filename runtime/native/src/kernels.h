// Products with quantized weights, attention over a quantized KV cache, and a scan of logits. There is one set of
// kernels for each kind of CPU; all of them compute the same bits, however many rows are computed at
// once and however many threads compute.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgeseq {

// The threads that compute: `run` calls work(data, i) for every i below `count`.
class Threads {
 public:
  virtual ~Threads() = default;
  virtual void run(size_t count, void (*work)(void*, size_t), void* data) const = 0;

  template <class Work>
  void for_each(size_t count, Work work) const {
    run(count, [](void* data, size_t i) { (*static_cast<Work*>(data))(i); }, &work);
  }
};

// Memory that starts on a cache line.
char* allocate(size_t size);
void release(char* memory);  // null: nothing

// A weight with one scale for each output: codes from -64 to 63, (outputs, inputs). Activations
// have 8 bits and one scale for each row.
struct RowWeight {
  const int8_t* codes;
  const float* scales;  // (outputs,)
  const float* bias;    // (outputs,); null: no bias
  int64_t inputs, outputs;
};

// A weight whose inputs are divided into blocks with one scale each, in the layout of MatMulNBits:
// codes of 8 bits (zero is 128) or 4 bits (zero is 8, the first of a pair in the lower half of a
// byte), (outputs, blocks, block_size). Activations have 8 bits and one scale for each block.
struct BlockWeight {
  const uint8_t* codes;
  const float* scales;            // (outputs, blocks); null: half_scales has them
  const uint16_t* half_scales;    // the same as 16-bit floats
  const float* bias;              // (outputs,); null: no bias
  int64_t inputs, outputs, block_size, bits;

  int64_t blocks() const { return (inputs + block_size - 1) / block_size; }
};

// The number that a 16-bit float has, which is no infinity or NaN.
float to_float(uint16_t half);

// Whether the kernels can compute with such blocks.
inline bool has_blocks(int64_t bits, int64_t block_size) {
  const bool is_power = block_size <= 256 && !(block_size & (block_size - 1));
  return is_power && ((bits == 4 && block_size >= 32) || (bits == 8 && block_size >= 16));
}

// Causal self-attention that appends to a KV cache of 8-bit codes. The new tokens of a row are its last
// ones. Where a row has fewer keys than `tokens`, it was empty before, and padding follows its tokens.
struct CachedAttention {
  int64_t rows, tokens, heads, size;
  int64_t past_capacity, capacity;          // keys that fit into the cache before and after the step
  const float* qkv;                         // (rows, tokens, 3, heads, size)
  const int8_t *past_keys, *past_values;    // (rows, heads, past_capacity, size)
  int8_t *keys, *values;                    // (rows, heads, capacity, size); perhaps the same memory
  const int32_t* last;                      // (rows,): the number of keys after the step, minus 1
  const float* bias;                        // added to the scores; null: no bias
  int64_t bias_row, bias_head, bias_token;  // distances between rows, heads and tokens in it
  int64_t window;                           // keys that a query sees, its own included; -1: all
  float scale, key_scale, value_scale;

  int64_t length(int64_t row) const { return static_cast<int64_t>(last[row]) + 1; }
  int64_t past(int64_t row) const { return length(row) > tokens ? length(row) - tokens : 0; }
};

// What a scan of a row of logits finds, beside the maxima of sets: see `scan_row`.
struct RowScan {
  float peak, rest;
  double sum;
};

// y = x W + bias, with x of (rows, inputs) and y of (rows, outputs), and attention with y of (rows,
// tokens, heads * size).
struct Kernels {
  const char* name;
  void (*multiply_rows)(const RowWeight&, const float* x, int64_t rows, float* y, const Threads&);
  void (*multiply_blocks)(const BlockWeight&, const float* x, int64_t rows, float* y,
                          const Threads&);
  void (*attend)(const CachedAttention&, float* y, const Threads&);
  RowScan (*scan_row)(const float* logits, int64_t count, int64_t sets, int64_t set_size,
                      float* maxima);
};

// The kernels of one kind of CPU; null if this CPU or this build does not have them.
const Kernels* avx512_vnni();
const Kernels* avx_vnni();
const Kernels* avx2();
const Kernels* neon_dot();
const Kernels* generic();

// The kernels that this CPU has, fastest first; null after the last.
const Kernels* kernels(size_t index);

}  // namespace edgeseq
