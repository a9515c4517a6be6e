// Vectors of 64 bytes as two AVX2 registers. `Dot` has the sums of products of four bytes each:
// dot8 for any bytes, dot7 for bytes up to 127 on the unsigned side.
#pragma once

#include "attention.h"

namespace edgeseq {

template <class Dot>
struct Avx2 {
  static constexpr int ROWS = 2, BLOCK_ROWS = 2;
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
  static Bytes plus64(Bytes v) {
    const __m256i add = _mm256_set1_epi8(64);
    return {_mm256_add_epi8(v.low, add), _mm256_add_epi8(v.high, add)};
  }
  static Bytes low_halves(Bytes v) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(v.low, mask), _mm256_and_si256(v.high, mask)};
  }
  static Bytes high_halves(Bytes v) {
    return low_halves({_mm256_srli_epi16(v.low, 4), _mm256_srli_epi16(v.high, 4)});
  }

  static Ints zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Ints load_ints(const int32_t* from) { return load(from); }
  static void store_ints(int32_t* to, Ints v) {
    auto* at = reinterpret_cast<__m256i*>(to);
    _mm256_storeu_si256(at, v.low);
    _mm256_storeu_si256(at + 1, v.high);
  }
  static Ints negative(Ints v) {
    const __m256i none = _mm256_setzero_si256();
    return {_mm256_sub_epi32(none, v.low), _mm256_sub_epi32(none, v.high)};
  }
  static Ints dot8(Ints sum, Bytes a, Bytes b) {
    return {Dot::dot8(sum.low, a.low, b.low), Dot::dot8(sum.high, a.high, b.high)};
  }
  static Ints dot7(Ints sum, Bytes a, Bytes b) {
    return {Dot::dot7(sum.low, a.low, b.low), Dot::dot7(sum.high, a.high, b.high)};
  }
  template <int Count>
  static void sums(const Ints* v, int32_t* totals) {
    for (int j = 0; j < Count; j++) {
      const __m256i eight = _mm256_add_epi32(v[j].low, v[j].high);
      __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
      four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
      four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
      totals[j] = _mm_cvtsi128_si32(four);
    }
  }

  static Floats zero_floats() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Floats broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Floats load_floats(const float* from) {
    return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
  }
  template <int Spread>
  static Floats spread(const float* from) {
    if constexpr (Spread == 1) return broadcast(*from);
    if constexpr (Spread == 2) return {_mm256_set1_ps(from[0]), _mm256_set1_ps(from[1])};
    alignas(32) float all[16];
    for (int i = 0; i < 16; i++) all[i] = from[i * Spread / 16];
    return load_floats(all);
  }
  template <int Spread>
  static Floats spread(const uint16_t* from) {
    __m128i halves = _mm_setzero_si128();
    std::memcpy(&halves, from, Spread * sizeof(uint16_t));
    alignas(32) float floats[8];
    _mm256_store_ps(floats, _mm256_cvtph_ps(halves));
    return spread<Spread>(floats);
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
  static float sum(Floats v) {
    const __m256 eight = _mm256_add_ps(v.low, v.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static void store_codes(int8_t* to, Floats v) {
    const __m256i low = _mm256_cvtps_epi32(v.low), high = _mm256_cvtps_epi32(v.high);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    const __m128i codes = _mm_packs_epi16(_mm256_castsi256_si128(words),
                                          _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), codes);
  }
  // Attention
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
  static bool multiply_many(const RowWeight&, const float*, int64_t, float*, const Threads&) {
    return false;
  }
};

}  // namespace edgeseq
