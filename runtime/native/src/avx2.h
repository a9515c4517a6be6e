// Vectors of 64 bytes as two AVX2 registers. `Dot` is what kinds of processors differ in:
//
// - dot7(sum, a, b): the sums of four products, with bytes up to 127 in `a`.
// - weights<Bits>(codes): the codes of an output in 32 bytes, as sums() takes them.
// - sums(weights of four outputs, values): (2, 4 outputs) sums, each over 16 bytes of codes.
#pragma once

#include "logits.h"

namespace edgeseq {
namespace {  // of the kind of CPU that includes this

// From four times (2, 4) integers to the sums of four: (2, 4 times).
inline __m256i four_sums(const __m256i (&t)[4]) {
  const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(t[0], t[1]), _mm256_unpackhi_epi32(t[0], t[1]));
  const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(t[2], t[3]), _mm256_unpackhi_epi32(t[2], t[3]));
  return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}

// The lanes of a step that are computed at a time: 8 of 16.
template <class Dot>
struct Avx2Part {
  using Bytes = __m256i;
  using Ints = __m256i;
  using Floats = __m256;

  static Bytes load(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  static Bytes plus64(Bytes v) { return _mm256_add_epi8(v, _mm256_set1_epi8(64)); }
  static Ints zero() { return _mm256_setzero_si256(); }
  static Ints dot7(Ints sum, Bytes a, Bytes b) { return Dot::dot7(sum, a, b); }
  template <int Count>
  static void totals(const Ints* v, int32_t* results) {
    if constexpr (Count == 4) {
      const __m256i four = four_sums({v[0], v[1], v[2], v[3]});
      const __m128i all = _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(results), all);
    } else {
      for (int j = 0; j < Count; j++) {
        __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v[j]), _mm256_extracti128_si256(v[j], 1));
        four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
        four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
        results[j] = _mm_cvtsi128_si32(four);
      }
    }
  }
};

// Floats of `InStep` blocks and four outputs.
template <int InStep>
struct Avx2Lanes {
  static constexpr int COUNT = InStep / 2;
  __m256 at[COUNT];

  static Avx2Lanes zero() { return {}; }
  static Avx2Lanes load(const float* from) {
    Avx2Lanes result;
    for (int i = 0; i < COUNT; i++) result.at[i] = _mm256_load_ps(from + 8 * i);
    return result;
  }
  // Adds total * (a * b).
  void add(const Avx2Lanes& total, const Avx2Lanes& a, const Avx2Lanes& b) {
    for (int i = 0; i < COUNT; i++)
      at[i] = _mm256_fmadd_ps(total.at[i], _mm256_mul_ps(a.at[i], b.at[i]), at[i]);
  }
  void reduce(float* totals) const {
    const __m256 all = InStep == 4 ? _mm256_add_ps(at[0], at[COUNT - 1]) : at[0];
    _mm_storeu_ps(totals, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
  }
};

template <>
struct Avx2Lanes<1> {
  __m128 at;

  static Avx2Lanes zero() { return {_mm_setzero_ps()}; }
  static Avx2Lanes load(const float* from) { return {_mm_load_ps(from)}; }
  void add(Avx2Lanes total, Avx2Lanes a, Avx2Lanes b) {
    at = _mm_fmadd_ps(total.at, _mm_mul_ps(a.at, b.at), at);
  }
  void reduce(float* totals) const { _mm_storeu_ps(totals, at); }
};

// The scales of `InStep` blocks of four outputs: 16-bit floats...
template <int InStep>
inline Avx2Lanes<InStep> scales_of(const uint16_t* const (&from)[4]) {
  __m128i outputs[4];
EDGESEQ_UNROLL
  for (int j = 0; j < 4; j++) {
    int32_t two;
    if constexpr (InStep == 4) {
      outputs[j] = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from[j]));
    } else if constexpr (InStep == 2) {
      std::memcpy(&two, from[j], sizeof two);
      outputs[j] = _mm_cvtsi32_si128(two);
    } else {
      outputs[j] = _mm_cvtsi32_si128(*from[j]);
    }
  }
  const __m128i ab = _mm_unpacklo_epi16(outputs[0], outputs[1]);
  const __m128i cd = _mm_unpacklo_epi16(outputs[2], outputs[3]);
  const __m128i first = _mm_unpacklo_epi32(ab, cd);
  if constexpr (InStep == 1)
    return {_mm_cvtph_ps(first)};
  else if constexpr (InStep == 2)
    return {_mm256_cvtph_ps(first)};
  else
    return {_mm256_cvtph_ps(first), _mm256_cvtph_ps(_mm_unpackhi_epi32(ab, cd))};
}

// ...or floats.
template <int InStep>
inline Avx2Lanes<InStep> scales_of(const float* const (&from)[4]) {
  if constexpr (InStep == 1) {
    return {_mm_setr_ps(*from[0], *from[1], *from[2], *from[3])};
  } else {
    const auto pair = [&](int j, int block) {
      double two;
      std::memcpy(&two, from[j] + block, sizeof two);
      return _mm_castpd_ps(_mm_set_sd(two));
    };
    const auto blocks = [&](int block) {
      const __m128 ab = _mm_unpacklo_ps(pair(0, block), pair(1, block));
      const __m128 cd = _mm_unpacklo_ps(pair(2, block), pair(3, block));
      return _mm256_set_m128(_mm_movehl_ps(cd, ab), _mm_movelh_ps(ab, cd));
    };
    if constexpr (InStep == 2)
      return {blocks(0)};
    else
      return {blocks(0), blocks(2)};
  }
}

template <class Dot>
struct Avx2 {
  static constexpr int ROWS = 2, BLOCK_ROWS = 4;
  static constexpr bool KEEPS_WEIGHTS = false;  // in registers, for several rows
  static constexpr int PARTS = 2;
  using Part = Avx2Part<Dot>;
  template <int InStep>
  using Lanes = Avx2Lanes<InStep>;
  struct Bytes { __m256i low, high; };
  using Ints = Bytes;
  struct Floats { __m256 low, high; };

  static void prefetch(const void* at) { _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0); }

  static Bytes load(const void* from) {
    const auto* at = static_cast<const __m256i*>(from);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
  }
  static Bytes fill(int value) {
    const __m256i all = _mm256_set1_epi8(static_cast<char>(value));
    return {all, all};
  }
  static Ints zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Ints dot7(Ints sum, Bytes a, Bytes b) {
    return {Dot::dot7(sum.low, a.low, b.low), Dot::dot7(sum.high, a.high, b.high)};
  }
  static int32_t total(Ints v) {
    const __m256i all = _mm256_add_epi32(v.low, v.high);
    int32_t result;
    Part::template totals<1>(&all, &result);
    return result;
  }
  // A step of the weights of four outputs.
  template <int Bits>
  struct Weights {
    static constexpr bool HAS_ZEROS = Dot::template Weights<Bits>::HAS_ZEROS;
    typename Dot::template Weights<Bits> half[2][4];
  };
  template <int Bits>
  static Weights<Bits> weights(const uint8_t* const (&codes)[4]) {
    Weights<Bits> result;
EDGESEQ_UNROLL
    for (int h = 0; h < 2; h++)
EDGESEQ_UNROLL
      for (int j = 0; j < 4; j++)
        result.half[h][j] = Dot::template weights<Bits>(Part::load(codes[j] + 32 * h));
    return result;
  }
  template <int InStep, class Weights>
  static Lanes<InStep> block_sums(const Weights& weights, const int8_t* values, const int32_t* zeros) {
    const auto* x = reinterpret_cast<const __m256i*>(values);
    const auto plus_zeros = [&](int i, __m256i sum) {
      if constexpr (!Weights::HAS_ZEROS) return sum;
      return _mm256_add_epi32(sum, _mm256_load_si256(reinterpret_cast<const __m256i*>(zeros) + i));
    };
    if constexpr (InStep == 1 && !Weights::HAS_ZEROS) {
      const __m256i both = Dot::sums_of_both(weights.half, x);
      return {_mm_cvtepi32_ps(
          _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)))};
    }
    // Each has (2, 4 outputs) sums, over 16 bytes of codes.
    const __m256i first = Dot::sums(weights.half[0], x), second = Dot::sums(weights.half[1], x + 1);
    if constexpr (InStep == 4) {
      return {_mm256_cvtepi32_ps(plus_zeros(0, first)), _mm256_cvtepi32_ps(plus_zeros(1, second))};
    } else if constexpr (InStep == 2) {
      const __m256i sum = _mm256_add_epi32(_mm256_permute2x128_si256(first, second, 0x20),
                                           _mm256_permute2x128_si256(first, second, 0x31));
      return {_mm256_cvtepi32_ps(plus_zeros(0, sum))};
    } else {
      const __m256i both = _mm256_add_epi32(first, second);
      __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
      if constexpr (Weights::HAS_ZEROS)
        sum = _mm_add_epi32(sum, _mm_load_si128(reinterpret_cast<const __m128i*>(zeros)));
      return {_mm_cvtepi32_ps(sum)};
    }
  }
  template <int InStep, class Scale>
  static Lanes<InStep> scales(const Scale* const (&from)[4]) {
    return scales_of<InStep>(from);
  }

  static Floats zero_floats() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Floats broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Floats load_floats(const float* from) {
    return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
  }
  static Ints larger(Ints v, const float* from) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    const Bytes bits = load(from);
    return {_mm256_max_epi32(v.low, _mm256_and_si256(bits.low, mask)),
            _mm256_max_epi32(v.high, _mm256_and_si256(bits.high, mask))};
  }
  static Floats multiply(Floats a, Floats b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static Floats divide(Floats a, Floats b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
  }
  static Floats multiply_add(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Floats to_floats(Ints v) {
    return {_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)};
  }
  static float largest(Ints v) {
    alignas(32) int32_t bits[8], most = 0;
    _mm256_store_si256(reinterpret_cast<__m256i*>(bits), _mm256_max_epi32(v.low, v.high));
    for (int32_t value : bits) most = value > most ? value : most;
    float result;
    std::memcpy(&result, &most, sizeof result);
    return result;
  }
  static void store_codes(int8_t* to, Floats v) {
    const __m256i low = _mm256_cvtps_epi32(v.low), high = _mm256_cvtps_epi32(v.high);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    const __m128i codes = _mm_packs_epi16(_mm256_castsi256_si128(words),
                                          _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), codes);
  }
  static float sum(Floats v) {
    const __m256 eight = _mm256_add_ps(v.low, v.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  // Attention.

  static constexpr int QUERIES = 6, VECTORS = 1;
  static void transpose(const int8_t* from, int64_t stride, Ints* parts) {
    __m256i halves[2][4];
    for (int half = 0; half < 2; half++, from += 8 * stride) {
      __m256i rows[4];  // each with rows i and i + 4
      for (int i = 0; i < 4; i++) {
        const auto at = [&](int row) {
          return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + row * stride));
        };
        rows[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(at(i)), at(i + 4), 1);
      }
      const __m256i a = _mm256_unpacklo_epi32(rows[0], rows[1]);
      const __m256i b = _mm256_unpackhi_epi32(rows[0], rows[1]);
      const __m256i c = _mm256_unpacklo_epi32(rows[2], rows[3]);
      const __m256i d = _mm256_unpackhi_epi32(rows[2], rows[3]);
      halves[half][0] = _mm256_unpacklo_epi64(a, c);
      halves[half][1] = _mm256_unpackhi_epi64(a, c);
      halves[half][2] = _mm256_unpacklo_epi64(b, d);
      halves[half][3] = _mm256_unpackhi_epi64(b, d);
    }
    for (int i = 0; i < 4; i++) parts[i] = {halves[0][i], halves[1][i]};
  }
  static Floats byte_of(Ints v, int byte) {
    const int up = 24 - 8 * byte;
    return to_floats({_mm256_srai_epi32(_mm256_slli_epi32(v.low, up), 24),
                      _mm256_srai_epi32(_mm256_slli_epi32(v.high, up), 24)});
  }
  static Floats load_codes(const int8_t* from) {
    const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    const __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 8));
    return to_floats({_mm256_cvtepi8_epi32(low), _mm256_cvtepi8_epi32(high)});
  }
  static void store_floats(float* to, Floats v) {
    _mm256_storeu_ps(to, v.low);
    _mm256_storeu_ps(to + 8, v.high);
  }
  static Floats add(Floats a, Floats b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static Floats subtract(Floats a, Floats b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  static Floats minimum(Floats a, Floats b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
  }
  static Floats maximum(Floats a, Floats b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static Floats power_of_two(Floats v) {
    const __m256i one = _mm256_set1_epi32(0x3f800000);
    const __m256i low = _mm256_slli_epi32(_mm256_castps_si256(v.low), 23);
    const __m256i high = _mm256_slli_epi32(_mm256_castps_si256(v.high), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(low, one)),
            _mm256_castsi256_ps(_mm256_add_epi32(high, one))};
  }
  static Floats unless_below(Floats v, Floats x, Floats limit) {
    return {_mm256_and_ps(v.low, _mm256_cmp_ps(x.low, limit.low, _CMP_NLT_UQ)),
            _mm256_and_ps(v.high, _mm256_cmp_ps(x.high, limit.high, _CMP_NLT_UQ))};
  }
  static constexpr bool HAS_BLOCK_PANELS = false;
  static bool multiply_many(const RowWeight&, const float*, int64_t, float*, const Threads&) {
    return false;
  }
};

}  // namespace
}  // namespace edgeseq
