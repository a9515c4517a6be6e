// The products, written once for all kinds of CPUs. `Isa` has the vectors of one kind: `Bytes` of 64
// bytes, `Ints` of 16 32-bit integers, `Floats` of 16 floats.
//
// The largest magnitude of activations is that of their bits as integers, so that a value that is not
// a number makes the scale, and thus the results, no numbers.
//
// Everything here is a template over `Isa`, so that no code for one CPU is linked into another's.
//
// Order of the floating-point operations, which fixes the bits of the results:
// - rows: the integer sum is exact; then (sum * scale of the row) * scale of the output + bias.
// - blocks: the integer sum of a block, or of a step's part of it, is exact. A step is 64 bytes of
//   codes. With B blocks in a step (1, 2 or 4) there are B sums, one for each block of the steps, in
//   order: sum = fma(integer sum, scale of the weight's block * scale of the activations' block, sum).
//   Then sums 0 and 2 are added, 1 and 3, and both; then the bias.
#pragma once

#include "kernels.h"

// Loops over the rows and outputs of a tile, whose sums have to stay in registers.
#if defined(__clang__)
#define EDGESEQ_UNROLL _Pragma("unroll")
#else
#define EDGESEQ_UNROLL _Pragma("GCC unroll 16")
#endif

namespace edgeseq {

constexpr int64_t STEP_BYTES = 64;
constexpr int64_t UNIT = 32;  // outputs that a thread computes at a time
constexpr int64_t LARGEST_UNIT = 512;
constexpr int64_t UNITS = 8;  // units at least, if each is large enough
constexpr int64_t FEW_ROWS = 8;
constexpr int64_t AHEAD = 512;  // bytes that are fetched before they are read
constexpr float SMALLEST_PEAK = 1e-30f;  // blocks with smaller values count as zeros

// Memory that a thread keeps for its next call, for one purpose.
template <class Purpose>
inline char* scratch(size_t size) {
  struct Memory {
    char* begin = nullptr;
    size_t size = 0;
    ~Memory() { release(begin); }
  };
  static thread_local Memory memory;
  if (memory.size < size) {
    release(memory.begin);
    memory.begin = allocate(size);
    memory.size = size;
  }
  return memory.begin;
}

// How far ahead weights are fetched that lie in pieces of `size` bytes, one for each output. The first
// rows of a tile read them from memory. The other rows read them again, and meanwhile the next piece,
// which is the next tile's, is fetched.
inline int64_t bytes_ahead(int64_t row, int64_t size) { return row == 0 ? AHEAD : size; }

template <class Isa>
inline typename Isa::Bytes load_some(const void* from, int64_t count) {
  alignas(64) unsigned char bytes[64] = {};
  __builtin_memcpy(bytes, from, static_cast<size_t>(count));
  return Isa::load(bytes);
}

// The number of codes of `bits` in a step.
constexpr int64_t step_codes(int64_t bits) { return STEP_BYTES * 8 / bits; }

// Calls tile(first row, number of rows) with at most `Most` rows at a time, as a constant.
template <int Most, class Tile>
inline void in_groups(int64_t rows, Tile tile) {
  int64_t row = 0;
  for (; row + Most <= rows; row += Most) tile.template run<Most>(row);
  if constexpr (Most > 1) {
    switch (rows - row) {
      case 1: tile.template run<1>(row); break;
      case 2: if constexpr (Most > 2) tile.template run<2>(row); break;
      case 3: if constexpr (Most > 3) tile.template run<3>(row); break;
      case 4: if constexpr (Most > 4) tile.template run<4>(row); break;
      case 5: if constexpr (Most > 5) tile.template run<5>(row); break;
      default: break;
    }
  }
}

// Calls work(first output, end) for units of outputs.
//
// A tile has outputs from each quarter of a unit, so four places of memory are read in order, each
// for long. With few rows, where reading is the limit, units are therefore as large as threads allow.
template <class Work>
inline void in_units(int64_t outputs, int64_t rows, const Threads& threads, Work work) {
  int64_t size = UNIT;
  if (rows <= FEW_ROWS) size = outputs / UNITS / UNIT * UNIT;
  if (size < UNIT) size = UNIT;
  if (size > LARGEST_UNIT) size = LARGEST_UNIT;
  threads.for_each(static_cast<size_t>((outputs + size - 1) / size), [&](size_t unit) {
    const int64_t begin = static_cast<int64_t>(unit) * size;
    work(begin, begin + size < outputs ? begin + size : outputs);
  });
}

// --- One scale for each output -------------------------------------------------------------------

template <class Isa>
struct Rows {
  using Part = typename Isa::Part;
  using Total = typename Part::Ints;

  // The rows of x as 8-bit codes, padded with zeros to `stride`.
  struct Codes {
    const int8_t* codes;
    const float* scales;
    const int32_t* sums;  // of a row's codes, times 64
    int64_t stride;
  };

  static void quantize(const float* x, int64_t inputs, int8_t* codes, float* scale, int32_t* sum) {
    auto largest = Isa::zero();
    int64_t k = 0;
    for (; k + 16 <= inputs; k += 16) largest = Isa::larger(largest, x + k);
    alignas(64) float rest[16] = {};
    if (k < inputs) {
      __builtin_memcpy(rest, x + k, sizeof(float) * static_cast<size_t>(inputs - k));
      largest = Isa::larger(largest, rest);
    }
    *scale = Isa::largest(largest) * (1.0f / 127.0f);
    if (*scale == 0) {
      __builtin_memset(codes, 0, static_cast<size_t>(inputs));
      *sum = 0;
      return;
    }
    const auto divisor = Isa::broadcast(*scale);
    for (k = 0; k + 16 <= inputs; k += 16)
      Isa::store_codes(codes + k, Isa::divide(Isa::load_floats(x + k), divisor));
    if (k < inputs) {
      alignas(64) int8_t last[16];
      Isa::store_codes(last, Isa::divide(Isa::load_floats(rest), divisor));
      __builtin_memcpy(codes + k, last, static_cast<size_t>(inputs - k));
    }
    auto total = Isa::zero();
    const auto zeros = Isa::fill(64);
    for (k = 0; k + STEP_BYTES <= inputs; k += STEP_BYTES)
      total = Isa::dot7(total, zeros, Isa::load(codes + k));
    if (k < inputs) total = Isa::dot7(total, zeros, load_some<Isa>(codes + k, inputs - k));
    *sum = Isa::total(total);
  }

  template <int Outputs>
  struct Tile {
    const RowWeight& weight;
    const Codes& x;
    float* y;
    int64_t n, apart;  // outputs n, n + apart...

    // Adds the products of a step: of the codes from k on, and of the rows from `values` on.
    template <int R>
    void add(Total (&sums)[R][Outputs], const int8_t* const (&codes)[Outputs],
             int64_t k, const int8_t* values) const {
      for (int part = 0; part < Isa::PARTS; part++) {
        const int64_t byte = part * STEP_BYTES / Isa::PARTS;
        if constexpr (Isa::KEEPS_WEIGHTS) {
          typename Part::Bytes weights[Outputs];
EDGESEQ_UNROLL
          for (int j = 0; j < Outputs; j++)
            weights[j] = Part::plus64(Part::load(codes[j] + k + byte));
EDGESEQ_UNROLL
          for (int r = 0; r < R; r++) {
            const auto row = Part::load(values + r * x.stride + byte);
EDGESEQ_UNROLL
            for (int j = 0; j < Outputs; j++) sums[r][j] = Part::dot7(sums[r][j], weights[j], row);
          }
        } else {
EDGESEQ_UNROLL
          for (int j = 0; j < Outputs; j++) {
            const auto weights = Part::plus64(Part::load(codes[j] + k + byte));
EDGESEQ_UNROLL
            for (int r = 0; r < R; r++)
              sums[r][j] = Part::dot7(sums[r][j], weights, Part::load(values + r * x.stride + byte));
          }
        }
      }
    }

    template <int R>
    void run(int64_t row) const {
      const int64_t inputs = weight.inputs, ahead = bytes_ahead(row, inputs);
      const int8_t* codes[Outputs];
EDGESEQ_UNROLL
      for (int j = 0; j < Outputs; j++) codes[j] = weight.codes + (n + j * apart) * inputs;
      const int8_t* rows = x.codes + row * x.stride;
      Total sums[R][Outputs];
EDGESEQ_UNROLL
      for (int r = 0; r < R; r++)
EDGESEQ_UNROLL
        for (int j = 0; j < Outputs; j++) sums[r][j] = Part::zero();
      int64_t k = 0;
      for (; k + STEP_BYTES <= inputs; k += STEP_BYTES) {
EDGESEQ_UNROLL
        for (int j = 0; j < Outputs; j++) Isa::prefetch(codes[j] + k + ahead);
        add(sums, codes, k, rows + k);
      }
      if (k < inputs) {
        alignas(64) int8_t last[Outputs][STEP_BYTES] = {};
        for (int j = 0; j < Outputs; j++) {
          __builtin_memcpy(last[j], codes[j] + k, static_cast<size_t>(inputs - k));
          codes[j] = last[j];
        }
        add(sums, codes, 0, rows + k);
      }
EDGESEQ_UNROLL
      for (int r = 0; r < R; r++) {
        int32_t totals[Outputs];
        Part::template totals<Outputs>(sums[r], totals);
        float* out = y + (row + r) * weight.outputs;
EDGESEQ_UNROLL
        for (int j = 0; j < Outputs; j++) {
          const int64_t at = n + j * apart;
          const float total = static_cast<float>(totals[j] - x.sums[row + r]);
          const float value = total * x.scales[row + r] * weight.scales[at];
          out[at] = weight.bias ? value + weight.bias[at] : value;
        }
      }
    }
  };

  static void multiply(const RowWeight& weight, const float* x, int64_t rows, float* y,
                       const Threads& threads) {
    if (Isa::multiply_many(weight, x, rows, y, threads)) return;
    const int64_t stride = (weight.inputs + STEP_BYTES - 1) / STEP_BYTES * STEP_BYTES;
    char* memory = scratch<Isa>(static_cast<size_t>(rows * (stride + 8)));
    auto* codes = reinterpret_cast<int8_t*>(memory);
    auto* scales = reinterpret_cast<float*>(memory + rows * stride);
    auto* sums = reinterpret_cast<int32_t*>(scales + rows);
    const auto quantize_row = [&](size_t i) {
      const auto row = static_cast<int64_t>(i);
      quantize(x + row * weight.inputs, weight.inputs, codes + row * stride, scales + row,
               sums + row);
      __builtin_memset(codes + row * stride + weight.inputs, 0,
                       static_cast<size_t>(stride - weight.inputs));
    };
    if (rows <= 8)
      for (int64_t row = 0; row < rows; row++) quantize_row(static_cast<size_t>(row));
    else
      threads.for_each(static_cast<size_t>(rows), quantize_row);
    const Codes quantized{codes, scales, sums, stride};
    in_units(weight.outputs, rows, threads, [&](int64_t n, int64_t end) {
      const int64_t quarter = (end - n) / 4, last = n + 4 * quarter;
      for (const int64_t next = n + quarter; n < next; n++)
        in_groups<Isa::ROWS>(rows, Tile<4>{weight, quantized, y, n, quarter});
      for (n = last; n < end; n++)
        in_groups<Isa::ROWS>(rows, Tile<1>{weight, quantized, y, n, 0});
    });
  }
};

// --- One scale for each block --------------------------------------------------------------------

// `Bits`: of a weight's code. `InStep`: the number of blocks in a step, at least 1.
template <class Isa, int Bits, int InStep, class Scale>
struct Blocks {
  static constexpr int64_t STEP = step_codes(Bits);
  static constexpr int ZERO = 1 << (Bits - 1);
  using Lanes = typename Isa::template Lanes<InStep>;  // floats: (InStep, 4 outputs)

  // A step of a row of x: codes, and for each block, four times: what the weight's zero adds to the
  // sum, and the scale. Codes of 4 bits lie in the order of the weight's bytes: first those for the
  // lower halves of 64 bytes, then those for the upper halves.
  struct alignas(64) Record {
    int8_t codes[STEP];
    int32_t zeros[4 * InStep];
    float scales[4 * InStep];
  };

  static void quantize(const float* x, int64_t inputs, int64_t block_size, Record* records,
                       int64_t steps) {
    for (int64_t s = 0; s < steps; s++) {
      Record& record = records[s];
      alignas(64) float values[STEP] = {};
      alignas(64) int8_t codes[STEP];
      const int64_t left = inputs - s * STEP, count = left < STEP ? left : STEP;
      const float* from = x + s * STEP;
      if (count < STEP) {
        __builtin_memcpy(values, from, sizeof(float) * static_cast<size_t>(count > 0 ? count : 0));
        from = values;
      }
      const int64_t size = block_size < STEP ? block_size : STEP;
      for (int64_t begin = 0; begin < STEP; begin += size) {
        auto largest = Isa::zero();
        if (block_size <= STEP) {
          for (int64_t k = begin; k < begin + size; k += 16)
            largest = Isa::larger(largest, from + k);
        } else {  // the block has several steps
          const int64_t first = s * STEP / block_size * block_size;
          const int64_t end = first + block_size < inputs ? first + block_size : inputs;
          int64_t k = first;
          for (; k + 16 <= end; k += 16) largest = Isa::larger(largest, x + k);
          alignas(64) float rest[16] = {};
          if (k < end) {
            __builtin_memcpy(rest, x + k, sizeof(float) * static_cast<size_t>(end - k));
            largest = Isa::larger(largest, rest);
          }
        }
        const float peak = Isa::largest(largest);
        const bool is_zero = peak < SMALLEST_PEAK;
        const float scale = is_zero ? 0.0f : peak * (1.0f / 127.0f);
        const auto factor = Isa::broadcast(is_zero ? 0.0f : 127.0f / peak);
        for (int64_t k = begin; k < begin + size; k += 16)
          Isa::store_codes(codes + k, Isa::multiply(Isa::load_floats(from + k), factor));
        int32_t total = 0;
        for (int64_t k = begin; k < begin + size; k++) total += codes[k];
        for (int64_t i = 4 * begin / size; i < 4 * (begin / size + 1); i++) {
          record.zeros[i] = -ZERO * total;
          record.scales[i] = scale;
        }
      }
      if constexpr (Bits == 8) {
        __builtin_memcpy(record.codes, codes, STEP);
      } else {
        for (int64_t k = 0; k < STEP / 2; k++) {
          record.codes[k] = codes[2 * k];
          record.codes[STEP / 2 + k] = codes[2 * k + 1];
        }
      }
    }
  }

  struct Tile {
    const BlockWeight& weight;
    const Scale* scales;
    const Record* records;
    int64_t steps, steps_in_block;  // the second: a power of 2
    float* y;
    int64_t n, apart, outputs;  // up to four outputs: n, n + apart...

    // The first block of a step.
    int64_t block_of(int64_t step) const {
      return InStep > 1 ? step * InStep : step >> __builtin_ctzll(steps_in_block);
    }

    // Adds a step of `R` rows, from the record `values` on.
    template <int R>
    void add(Lanes (&sums)[R], const uint8_t* const (&codes)[4], const Scale* const (&from)[4],
             const Record* values) const {
      const auto weights = Isa::template weights<Bits>(codes);
      const Lanes factors = Isa::template scales<InStep>(from);
EDGESEQ_UNROLL
      for (int r = 0; r < R; r++) {
        const Record& x = values[r * steps];
        const Lanes totals = Isa::template block_sums<InStep>(weights, x.codes, x.zeros);
        sums[r].add(totals, factors, Lanes::load(x.scales));
      }
    }

    template <int R>
    void run(int64_t row) const {
      const int64_t blocks = weight.blocks();
      const int64_t row_bytes = blocks * weight.block_size * Bits / 8;
      const int64_t whole = row_bytes / STEP_BYTES, ahead = bytes_ahead(row, row_bytes);
      const Record* rows = records + row * steps;
      const uint8_t* codes[4];
      const Scale* output_scales[4];
      const Scale* from[4];
EDGESEQ_UNROLL
      for (int j = 0; j < 4; j++) {
        const int64_t at = n + (j < outputs ? j : 0) * apart;
        codes[j] = weight.codes + at * row_bytes;
        output_scales[j] = scales + at * blocks;
      }
      Lanes sums[R];
EDGESEQ_UNROLL
      for (int r = 0; r < R; r++) sums[r] = Lanes::zero();
      for (int64_t s = 0; s < whole; s++) {
EDGESEQ_UNROLL
        for (int j = 0; j < 4; j++) {
          Isa::prefetch(codes[j] + ahead);
          from[j] = output_scales[j] + block_of(s);
        }
        add(sums, codes, from, rows + s);
EDGESEQ_UNROLL
        for (int j = 0; j < 4; j++) codes[j] += STEP_BYTES;
      }
      if (whole < steps) {
        alignas(64) uint8_t last[4][STEP_BYTES] = {};
        Scale last_scales[4][4] = {};
        for (int j = 0; j < 4; j++) {
          const int64_t first = block_of(whole);
          __builtin_memcpy(last[j], codes[j], static_cast<size_t>(row_bytes % STEP_BYTES));
          for (int64_t b = 0; b < InStep && first + b < blocks; b++)
            last_scales[j][b] = output_scales[j][first + b];
          codes[j] = last[j];
          from[j] = last_scales[j];
        }
        add(sums, codes, from, rows + whole);
      }
EDGESEQ_UNROLL
      for (int r = 0; r < R; r++) {
        float totals[4];
        sums[r].reduce(totals);
        float* out = y + (row + r) * weight.outputs;
        for (int j = 0; j < outputs; j++) {
          const int64_t at = n + j * apart;
          out[at] = weight.bias ? totals[j] + weight.bias[at] : totals[j];
        }
      }
    }
  };

  static void multiply(const BlockWeight& weight, const Scale* scales, const float* x, int64_t rows,
                       float* y, const Threads& threads) {
    const int64_t padded = weight.blocks() * weight.block_size;
    const int64_t steps = (padded + STEP - 1) / STEP;
    const int64_t in_block = InStep > 1 ? 1 : weight.block_size / STEP;
    auto* records = reinterpret_cast<Record*>(
        scratch<Isa>(sizeof(Record) * static_cast<size_t>(rows * steps)));
    const auto quantize_row = [&](size_t i) {
      const auto row = static_cast<int64_t>(i);
      quantize(x + row * weight.inputs, weight.inputs, weight.block_size, records + row * steps,
               steps);
    };
    if (rows <= 8)
      for (int64_t row = 0; row < rows; row++) quantize_row(static_cast<size_t>(row));
    else
      threads.for_each(static_cast<size_t>(rows), quantize_row);
    if constexpr (Isa::HAS_BLOCK_PANELS) {
      if (Isa::template multiply_many_blocks<Bits, InStep>(weight, scales, records, steps, rows, y,
                                                           threads))
        return;
    }
    in_units(weight.outputs, rows, threads, [&](int64_t n, int64_t end) {
      const int64_t quarter = (end - n) / 4, last = n + 4 * quarter;
      const auto tile = [&](int64_t first, int64_t apart, int64_t outputs) {
        in_groups<Isa::BLOCK_ROWS>(
            rows, Tile{weight, scales, records, steps, in_block, y, first, apart, outputs});
      };
      for (int64_t i = 0; i < quarter; i++) tile(n + i, quarter, 4);
      if (last < end) tile(last, 1, end - last);
    });
  }
};

template <class Isa, int Bits, int InStep>
void multiply_blocks_of(const BlockWeight& weight, const float* x, int64_t rows, float* y,
                        const Threads& threads) {
  if (weight.scales)
    Blocks<Isa, Bits, InStep, float>::multiply(weight, weight.scales, x, rows, y, threads);
  else
    Blocks<Isa, Bits, InStep, uint16_t>::multiply(weight, weight.half_scales, x, rows, y, threads);
}

template <class Isa>
void multiply_blocks(const BlockWeight& weight, const float* x, int64_t rows, float* y,
                     const Threads& threads) {
  const int64_t in_step = step_codes(weight.bits) / weight.block_size;
  const bool is_8 = weight.bits == 8;
  if (is_8 && in_step <= 1) multiply_blocks_of<Isa, 8, 1>(weight, x, rows, y, threads);
  if (is_8 && in_step == 2) multiply_blocks_of<Isa, 8, 2>(weight, x, rows, y, threads);
  if (is_8 && in_step == 4) multiply_blocks_of<Isa, 8, 4>(weight, x, rows, y, threads);
  if (!is_8 && in_step <= 1) multiply_blocks_of<Isa, 4, 1>(weight, x, rows, y, threads);
  if (!is_8 && in_step == 2) multiply_blocks_of<Isa, 4, 2>(weight, x, rows, y, threads);
  if (!is_8 && in_step == 4) multiply_blocks_of<Isa, 4, 4>(weight, x, rows, y, threads);
}

}  // namespace edgeseq
