// Kernels for AVX-512 with VNNI.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "target.h"

EDGESEQ_BEGIN_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma,avx2")

#include "avx2.h"

namespace edgeseq {
namespace {

// Floats of four blocks and four outputs.
struct Avx512Lanes {
  __m512 at;

  static Avx512Lanes zero() { return {_mm512_setzero_ps()}; }
  static Avx512Lanes load(const float* from) { return {_mm512_load_ps(from)}; }
  // Adds total * (a * b).
  void add(Avx512Lanes total, Avx512Lanes a, Avx512Lanes b) {
    at = _mm512_fmadd_ps(total.at, _mm512_mul_ps(a.at, b.at), at);
  }
  void reduce(float* totals) const {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(at), _mm512_extractf32x8_ps(at, 1));
    _mm_storeu_ps(totals, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
};

struct Avx512 {
  static constexpr int ROWS = 6, BLOCK_ROWS = 6;
  static constexpr bool KEEPS_WEIGHTS = true;  // in registers, for several rows
  static constexpr bool HAS_BLOCK_PANELS = true;
  static constexpr int PARTS = 1;
  using Part = Avx512;
  template <int InStep>
  using Lanes = std::conditional_t<InStep == 4, Avx512Lanes, Avx2Lanes<InStep>>;
  static constexpr int64_t PANEL = 32, GROUP = 12;  // outputs and most rows that are computed at once
  static constexpr int64_t MANY_ROWS = 9, MANY_BLOCK_ROWS = 5;  // from which reordering pays; the second: 8 bits
  using Bytes = __m512i;
  using Ints = __m512i;
  using Floats = __m512;

  static void prefetch(const void* at) { _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0); }

  static void prefetch_for_later(const void* at) {
    _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T1);
  }

  static Bytes load(const void* from) { return _mm512_loadu_si512(from); }
  static Bytes fill(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
  static Bytes plus64(Bytes v) { return _mm512_add_epi8(v, _mm512_set1_epi8(64)); }
  static Ints zero() { return _mm512_setzero_si512(); }
  static Ints dot7(Ints sum, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(sum, a, b); }
  template <int Count>
  static void totals(const Ints* v, int32_t* results) {
    if constexpr (Count == 4) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(results), four_totals(four_sums(v)));
    } else {
      for (int j = 0; j < Count; j++) results[j] = total(v[j]);
    }
  }
  static int32_t total(Ints v) { return _mm512_reduce_add_epi32(v); }

  // A step of the weights of four outputs.
  template <int Bits>
  struct Weights { Bytes part[8 / Bits][4]; };
  template <int Bits>
  static Weights<Bits> weights(const uint8_t* const (&codes)[4]) {
    Weights<Bits> result;
EDGESEQ_UNROLL
    for (int j = 0; j < 4; j++) {
      const Bytes all = load(codes[j]);
      if constexpr (Bits == 8) {
        result.part[0][j] = all;
      } else {
        const Bytes mask = _mm512_set1_epi8(15);
        result.part[0][j] = _mm512_and_si512(all, mask);
        result.part[1][j] = _mm512_and_si512(_mm512_srli_epi16(all, 4), mask);
      }
    }
    return result;
  }
  template <int InStep, class Weights>
  static Lanes<InStep> block_sums(const Weights& weights, const int8_t* values, const int32_t* zeros) {
    constexpr int PIECES = sizeof(Weights) / sizeof(Bytes) / 4;
    Ints sums[4];
EDGESEQ_UNROLL
    for (int j = 0; j < 4; j++) {
      sums[j] = dot7(zero(), weights.part[0][j], load(values));
      if constexpr (PIECES == 2) sums[j] = dot7(sums[j], weights.part[1][j], load(values + STEP_BYTES));
    }
    const Ints four = four_sums(sums);
    if constexpr (InStep == 4) {
      return {_mm512_cvtepi32_ps(_mm512_add_epi32(four, _mm512_load_si512(zeros)))};
    } else if constexpr (InStep == 2) {
      const Ints two = _mm512_add_epi32(four, _mm512_shuffle_i32x4(four, four, 0xb1));
      const __m256i sum = _mm512_castsi512_si256(_mm512_shuffle_i32x4(two, two, 0x08));
      const __m256i start = _mm256_load_si256(reinterpret_cast<const __m256i*>(zeros));
      return {_mm256_cvtepi32_ps(_mm256_add_epi32(sum, start))};
    } else {
      const __m128i start = _mm_load_si128(reinterpret_cast<const __m128i*>(zeros));
      return {_mm_cvtepi32_ps(_mm_add_epi32(four_totals(four), start))};
    }
  }
  template <int InStep, class Scale>
  static Lanes<InStep> scales(const Scale* const (&from)[4]) {
    if constexpr (InStep == 4) {
      const Avx2Lanes<4> halves = scales_of<4>(from);
      return {_mm512_insertf32x8(_mm512_castps256_ps512(halves.at[0]), halves.at[1], 1)};
    } else {
      return scales_of<InStep>(from);
    }
  }

  static Floats zero_floats() { return _mm512_setzero_ps(); }
  static Floats broadcast(float value) { return _mm512_set1_ps(value); }
  static Floats load_floats(const float* from) { return _mm512_loadu_ps(from); }
  static Ints larger(Ints v, const float* from) {
    const Ints magnitudes = _mm512_and_si512(load(from), _mm512_set1_epi32(0x7fffffff));
    return _mm512_max_epi32(v, magnitudes);
  }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
  static float largest(Ints v) {
    const int32_t bits = _mm512_reduce_max_epi32(v);
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
  }
  static float sum(Floats v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static void store_codes(int8_t* to, Floats v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
  }

  // Attention
  static constexpr int QUERIES = 6, VECTORS = 2;
  static void transpose(const int8_t* from, int64_t stride, Ints* parts) {
    __m512i rows[4];  // each with rows i, i + 4, i + 8 and i + 12
    for (int i = 0; i < 4; i++) {
      const auto at = [&](int row) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + row * stride));
      };
      rows[i] = _mm512_castsi128_si512(at(i));
      rows[i] = _mm512_inserti32x4(rows[i], at(i + 4), 1);
      rows[i] = _mm512_inserti32x4(rows[i], at(i + 8), 2);
      rows[i] = _mm512_inserti32x4(rows[i], at(i + 12), 3);
    }
    const __m512i a = _mm512_unpacklo_epi32(rows[0], rows[1]);
    const __m512i b = _mm512_unpackhi_epi32(rows[0], rows[1]);
    const __m512i c = _mm512_unpacklo_epi32(rows[2], rows[3]);
    const __m512i d = _mm512_unpackhi_epi32(rows[2], rows[3]);
    parts[0] = _mm512_unpacklo_epi64(a, c);
    parts[1] = _mm512_unpackhi_epi64(a, c);
    parts[2] = _mm512_unpacklo_epi64(b, d);
    parts[3] = _mm512_unpackhi_epi64(b, d);
  }
  static Floats byte_of(Ints v, int byte) {
    const auto up = static_cast<unsigned>(24 - 8 * byte);
    return to_floats(_mm512_srai_epi32(_mm512_slli_epi32(v, up), 24));
  }
  static Floats load_codes(const int8_t* from) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return to_floats(_mm512_cvtepi8_epi32(codes));
  }
  static void store_floats(float* to, Floats v) { _mm512_storeu_ps(to, v); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats minimum(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  static Floats maximum(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static Floats power_of_two(Floats v) {
    const Ints exponents = _mm512_slli_epi32(_mm512_castps_si512(v), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(exponents, _mm512_set1_epi32(0x3f800000)));
  }
  static Floats unless_below(Floats v, Floats x, Floats limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), v);
  }

  // Many rows: codes are reordered so that a lane is an output, and nothing has to be added across
  // lanes. x becomes groups of (inputs / 4, group, 4) codes, all of the same number of rows, and the
  // weight of 32 outputs at a time becomes a panel of (inputs / 4, PANEL, 4) codes.
  static bool multiply_many(const RowWeight& weight, const float* x, int64_t rows, float* y,
                            const Threads& threads) {
    if (rows < MANY_ROWS) return false;
    const int64_t stride = (weight.inputs + STEP_BYTES - 1) / STEP_BYTES * STEP_BYTES;
    const int64_t groups = (rows + GROUP - 1) / GROUP;
    const int64_t group = (rows + groups - 1) / groups, padded = groups * group;
    char* memory = scratch<Activations>(static_cast<size_t>(padded * (stride + 8)));
    auto* scales = reinterpret_cast<float*>(memory + padded * stride);
    auto* sums = reinterpret_cast<int32_t*>(scales + padded);
    threads.for_each(static_cast<size_t>(groups), [&](size_t number) {
      const int64_t first = static_cast<int64_t>(number) * group;
      char* to = memory + first * stride;
      auto* codes = reinterpret_cast<int8_t*>(scratch<Row>(static_cast<size_t>(stride)));
      std::memset(codes, 0, static_cast<size_t>(stride));
      for (int64_t row = first; row < first + group; row++, to += 4) {
        if (row < rows) {
          Rows<Avx512>::quantize(x + row * weight.inputs, weight.inputs, codes, scales + row,
                                 sums + row);
        } else {
          scales[row] = 0;
          sums[row] = 0;
        }
        for (int64_t k = 0; k < stride; k += 4) std::memcpy(to + k * group, codes + k, 4);
      }
    });
    for_each_panel<PANEL>(weight.outputs, threads, [&](int64_t n) {
      const int64_t outputs = weight.outputs - n < PANEL ? weight.outputs - n : PANEL;
      auto* panel = reinterpret_cast<uint8_t*>(scratch<Panel>(static_cast<size_t>(stride * PANEL)));
      for (int64_t half = 0; half < PANEL; half += 16)
        reorder(weight, n + half, outputs - half, stride, panel + half * 4);
      for (int64_t row = 0; row < rows; row += group)
        panel_rows<GROUP>(group, weight, panel, memory + row * stride, stride, scales + row,
                          sums + row, n, outputs, rows - row < group ? rows - row : group,
                          y + row * weight.outputs);
    });
    return true;
  }

  // The same for blocks, 16 outputs at a time. Each lane adds steps and blocks in the order in which
  // `Blocks` does, so the bits are the same.
  template <int Bits, int InStep, class Scale, class Record>
  static bool multiply_many_blocks(const BlockWeight& weight, const Scale* scales,
                                   const Record* records, int64_t steps, int64_t rows, float* y,
                                   const Threads& threads) {
    constexpr int64_t MOST = InStep == 1 ? 12 : InStep == 2 ? 8 : 5;
    if (rows < (Bits == 8 ? MANY_BLOCK_ROWS : MANY_ROWS)) return false;
    const int64_t groups = (rows + MOST - 1) / MOST, group = (rows + groups - 1) / groups;
    const int64_t blocks = weight.blocks(), row_bytes = blocks * weight.block_size * Bits / 8;
    const int64_t last = InStep > 1 ? steps * InStep : blocks;
    const int64_t steps_in_block = InStep > 1 ? 1 : weight.block_size / step_codes(Bits);
    for_each_panel<16>(weight.outputs, threads, [&](int64_t n) {
      const int64_t outputs = weight.outputs - n < 16 ? weight.outputs - n : 16;
      const auto codes_bytes = steps * 16 * STEP_BYTES;
      char* memory = scratch<BlockPanel>(static_cast<size_t>(codes_bytes + last * 64));
      auto* panel = reinterpret_cast<uint8_t*>(memory);
      auto* factors = reinterpret_cast<float*>(memory + codes_bytes);
      for (int64_t s = 0; s < steps; s++) {
        const int64_t left = row_bytes - s * STEP_BYTES;
        __m512i r[16];
        for (int i = 0; i < 16; i++) {
          const uint8_t* from = weight.codes + (n + i) * row_bytes + s * STEP_BYTES;
          if (i >= outputs)
            r[i] = zero();
          else
            r[i] = left < STEP_BYTES ? load_some<Avx512>(from, left) : load(from);
          prefetch_for_later(from + 16 * row_bytes);  // the next panel
        }
        store_transposed(r, panel + s * 16 * STEP_BYTES, STEP_BYTES);
      }
      std::memset(factors, 0, static_cast<size_t>(last * 64));
      for (int64_t i = 0; i < outputs; i++)
        for (int64_t b = 0; b < blocks; b++)
          factors[b * 16 + i] = scale_of(scales[(n + i) * blocks + b]);
      for (int64_t row = 0; row < rows; row += group)
        block_rows<MOST, Bits, InStep>(rows - row < group ? rows - row : group, weight, panel, factors,
                                 records + row * steps, steps, steps_in_block, n, outputs,
                                 y + row * weight.outputs);
    });
    return true;
  }

 private:
  // Scratch memory of its own for each purpose.
  struct Activations {};
  struct Row {};
  struct Panel {};
  struct BlockPanel {};

  // Calls work(first output) for each panel; a thread gets several that lie in a row.
  template <int64_t Size, class Work>
  static void for_each_panel(int64_t outputs, const Threads& threads, Work work) {
    constexpr int64_t UNIT_SIZE = 128;
    threads.for_each(static_cast<size_t>((outputs + UNIT_SIZE - 1) / UNIT_SIZE), [&](size_t unit) {
      const int64_t first = static_cast<int64_t>(unit) * UNIT_SIZE;
      for (int64_t n = first; n < outputs && n < first + UNIT_SIZE; n += Size) work(n);
    });
  }

  static float scale_of(float scale) { return scale; }
  static float scale_of(uint16_t scale) { return _cvtsh_ss(scale); }

  // Calls block_tile for that many rows, at most `Most`.
  template <int64_t Most, int Bits, int InStep, class... Rest>
  static void block_rows(int64_t rows, const Rest&... rest) {
    if (rows == Most) return block_tile<Most, Bits, InStep>(rest...);
    if constexpr (Most > 1) block_rows<Most - 1, Bits, InStep>(rows, rest...);
  }

  // Adds the products of four codes of each row, from `at` on in its record.
  template <size_t R, class Record>
  static void add_fours(Ints (&totals)[R], Bytes weights, const Record* records, int64_t steps,
                        int at) {
EDGESEQ_UNROLL
    for (size_t r = 0; r < R; r++) {
      int32_t four;
      std::memcpy(&four, records[static_cast<int64_t>(r) * steps].codes + at, sizeof four);
      totals[r] = dot7(totals[r], weights, _mm512_set1_epi32(four));
    }
  }

  template <int64_t R, int Bits, int InStep, class Record>
  static void block_tile(const BlockWeight& weight, const uint8_t* panel, const float* factors,
                         const Record* records, int64_t steps, int64_t steps_in_block, int64_t n,
                         int64_t outputs, float* y) {
    constexpr int FOURS = 16 / InStep;  // four codes of a block in a step
    Floats sums[InStep][R];
EDGESEQ_UNROLL
    for (int r = 0; r < R; r++)
      for (int b = 0; b < InStep; b++) sums[b][r] = zero_floats();
    for (int64_t s = 0; s < steps; s++) {
EDGESEQ_UNROLL
      for (int b = 0; b < InStep; b++) {
        Ints totals[R];
EDGESEQ_UNROLL
        for (int r = 0; r < R; r++) totals[r] = _mm512_set1_epi32(records[r * steps + s].zeros[4 * b]);
        for (int k = b * FOURS; k < (b + 1) * FOURS; k++) {
          const Bytes all = load(panel);
          if constexpr (Bits == 8) {
            add_fours(totals, all, records + s, steps, 4 * k);
          } else {
            const Bytes mask = _mm512_set1_epi8(15);
            add_fours(totals, _mm512_and_si512(all, mask), records + s, steps, 4 * k);
            add_fours(totals, _mm512_and_si512(_mm512_srli_epi16(all, 4), mask), records + s, steps,
                      STEP_BYTES + 4 * k);
          }
          panel += STEP_BYTES;
        }
        const int64_t block = InStep > 1 ? s * InStep + b : s >> __builtin_ctzll(steps_in_block);
        const Floats factor = load_floats(factors + block * 16);
EDGESEQ_UNROLL
        for (int r = 0; r < R; r++) {
          const Floats scale = multiply(factor, broadcast(records[r * steps + s].scales[4 * b]));
          sums[b][r] = multiply_add(to_floats(totals[r]), scale, sums[b][r]);
        }
      }
    }
    const __mmask16 mask = outputs < 16 ? (1u << outputs) - 1 : 0xffff;
EDGESEQ_UNROLL
    for (int r = 0; r < R; r++) {
      Floats total = sums[0][r];
      if constexpr (InStep == 2) total = add(total, sums[1][r]);
      if constexpr (InStep == 4)
        total = add(add(total, sums[2][r]), add(sums[1][r], sums[3][r]));
      if (weight.bias) total = add(total, _mm512_maskz_loadu_ps(mask, weight.bias + n));
      _mm512_mask_storeu_ps(y + r * weight.outputs + n, mask, total);
    }
  }

  // From four times (4, 4) integers to the sums of four: (4, 4 times).
  static Ints four_sums(const Ints* t) {
    const Ints ab = _mm512_add_epi32(_mm512_unpacklo_epi32(t[0], t[1]), _mm512_unpackhi_epi32(t[0], t[1]));
    const Ints cd = _mm512_add_epi32(_mm512_unpacklo_epi32(t[2], t[3]), _mm512_unpackhi_epi32(t[2], t[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  }
  static __m128i four_totals(Ints four) {
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64(four, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  }

  // Writes 64 codes of each of 16 outputs as 16 times (16 outputs, 4), `apart` bytes apart.
  static void store_transposed(__m512i (&r)[16], uint8_t* to, int64_t apart) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int c = 0; c < 4; c++, to += apart) {
      const __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);
      const __m512i b = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
      const __m512i d = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
      const __m512i e = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
      _mm512_storeu_si512(to, _mm512_shuffle_i32x4(a, d, 0x88));
      _mm512_storeu_si512(to + 4 * apart, _mm512_shuffle_i32x4(b, e, 0x88));
      _mm512_storeu_si512(to + 8 * apart, _mm512_shuffle_i32x4(a, d, 0xdd));
      _mm512_storeu_si512(to + 12 * apart, _mm512_shuffle_i32x4(b, e, 0xdd));
    }
  }

  // Writes the codes of 16 outputs as (inputs / 4, PANEL, 4), plus 64; zeros beyond `outputs`.
  static void reorder(const RowWeight& weight, int64_t n, int64_t outputs, int64_t stride,
                      uint8_t* panel) {
    const int64_t inputs = weight.inputs;
    for (int64_t k = 0; k < stride; k += STEP_BYTES) {
      __m512i r[16];
      for (int i = 0; i < 16; i++) {
        const int8_t* from = weight.codes + (n + i) * inputs + k;
        prefetch_for_later(from + PANEL * inputs);  // the next panel
        if (i >= outputs)
          r[i] = zero();
        else
          r[i] = plus64(inputs - k < STEP_BYTES ? load_some<Avx512>(from, inputs - k) : load(from));
      }
      store_transposed(r, panel + k / 4 * PANEL * 4, PANEL * 4);
    }
  }

  // Calls panel_tile for a group of that many rows, at most `Most`.
  template <int64_t Most, class... Rest>
  static void panel_rows(int64_t group, const Rest&... rest) {
    if (group == Most) return panel_tile<Most>(rest...);
    if constexpr (Most > 1) panel_rows<Most - 1>(group, rest...);
  }

  template <int64_t Group>
  static void panel_tile(const RowWeight& weight, const uint8_t* panel, const char* codes,
                         int64_t stride, const float* x_scales, const int32_t* x_sums, int64_t n,
                         int64_t outputs, int64_t rows, float* y) {
    __m512i sums[Group][2];
EDGESEQ_UNROLL
    for (int r = 0; r < Group; r++) sums[r][0] = sums[r][1] = zero();
    for (int64_t k = 0; k < stride; k += 4) {
      const __m512i first = load(panel), second = load(panel + 64);
EDGESEQ_UNROLL
      for (int r = 0; r < Group; r++) {
        int32_t four;
        std::memcpy(&four, codes + r * 4, sizeof four);
        const __m512i values = _mm512_set1_epi32(four);
        sums[r][0] = dot7(sums[r][0], first, values);
        sums[r][1] = dot7(sums[r][1], second, values);
      }
      panel += PANEL * 4;
      codes += Group * 4;
    }
    __mmask16 masks[2];
    for (int half = 0; half < 2; half++) {
      const int64_t lanes = outputs - 16 * half;
      masks[half] = lanes >= 16 ? 0xffff : lanes > 0 ? (1u << lanes) - 1 : 0;
    }
EDGESEQ_UNROLL
    for (int r = 0; r < Group; r++) {
      if (r >= rows) break;
      for (int half = 0; half < 2; half++) {
        const int64_t at = n + half * 16;
        const Ints totals = _mm512_sub_epi32(sums[r][half], _mm512_set1_epi32(x_sums[r]));
        Floats value = multiply(to_floats(totals), broadcast(x_scales[r]));
        value = multiply(value, _mm512_maskz_loadu_ps(masks[half], weight.scales + at));
        if (weight.bias)
          value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(masks[half], weight.bias + at));
        _mm512_mask_storeu_ps(y + r * weight.outputs + at, masks[half], value);
      }
    }
  }
};

}  // namespace

static const Kernels AVX512_VNNI{"avx512-vnni", Rows<Avx512>::multiply, multiply_blocks<Avx512>,
                                 Attention<Avx512>::run, scan_row<Avx512>};

}  // namespace edgeseq

EDGESEQ_END_TARGET

namespace edgeseq {

const Kernels* avx512_vnni() {
  const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
  return has ? &AVX512_VNNI : nullptr;
}

}  // namespace edgeseq

#else
namespace edgeseq {
const Kernels* avx512_vnni() { return nullptr; }
}  // namespace edgeseq
#endif
