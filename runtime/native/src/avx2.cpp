// Kernels for AVX2 with FMA.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdlib>
#include <cstring>

#include "target.h"

EDGESEQ_BEGIN_TARGET("avx2,f16c,fma")

#include "avx2.h"

namespace edgeseq {
namespace {

// AVX2 adds two products in 16 bits, which hold two of 127 * 128, but not two of 127 * 255.
struct Dot {
  static __m256i pairs_added(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
  static __m256i dot7(__m256i sum, __m256i a, __m256i b) {
    return _mm256_add_epi32(sum, pairs_added(_mm256_maddubs_epi16(a, b)));
  }

  template <int Bits>
  struct Weights;
  template <int Bits>
  static Weights<Bits> weights(__m256i codes) {
    if constexpr (Bits == 4) {
      const __m256i mask = _mm256_set1_epi8(15);
      return {_mm256_and_si256(codes, mask), _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask)};
    } else {
      const __m256i signed_codes = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
      return {signed_codes, _mm256_abs_epi8(signed_codes)};
    }
  }

  static __m256i sums(const Weights<4> (&w)[4], const __m256i* values);
  static __m256i sums(const Weights<8> (&w)[4], const __m256i* values);
  static __m256i sums_of_both(const Weights<8> (&w)[2][4], const __m256i* values);
};

template <>
struct Dot::Weights<4> {
  static constexpr bool HAS_ZEROS = true;
  __m256i low, high;
};
template <>
struct Dot::Weights<8> {
  static constexpr bool HAS_ZEROS = false;  // codes have signs
  __m256i codes, magnitudes;
};

// All 16 products of 15 * 127 fit into 16 bits, so that outputs are brought together first.
inline __m256i Dot::sums(const Weights<4> (&w)[4], const __m256i* values) {
  __m256i t[4];
  for (int j = 0; j < 4; j++)
    t[j] = _mm256_add_epi16(_mm256_maddubs_epi16(w[j].low, _mm256_load_si256(values)),
                            _mm256_maddubs_epi16(w[j].high, _mm256_load_si256(values + 2)));
  const __m256i ab = _mm256_add_epi16(_mm256_unpacklo_epi32(t[0], t[1]),
                                      _mm256_unpackhi_epi32(t[0], t[1]));
  const __m256i cd = _mm256_add_epi16(_mm256_unpacklo_epi32(t[2], t[3]),
                                      _mm256_unpackhi_epi32(t[2], t[3]));
  return pairs_added(_mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd)));
}

inline __m256i products_of_four(Dot::Weights<8> w, const __m256i* values) {
  const __m256i with_signs = _mm256_sign_epi8(_mm256_load_si256(values), w.codes);
  return Dot::pairs_added(_mm256_maddubs_epi16(w.magnitudes, with_signs));
}

inline __m256i Dot::sums(const Weights<8> (&w)[4], const __m256i* values) {
  __m256i t[4];
  for (int j = 0; j < 4; j++) t[j] = products_of_four(w[j], values);
  return four_sums(t);
}

inline __m256i Dot::sums_of_both(const Weights<8> (&w)[2][4], const __m256i* values) {
  __m256i t[4];
  for (int j = 0; j < 4; j++)
    t[j] = _mm256_add_epi32(products_of_four(w[0][j], values), products_of_four(w[1][j], values + 1));
  return four_sums(t);
}

}  // namespace

static const Kernels AVX2{"avx2", Rows<Avx2<Dot>>::multiply, multiply_blocks<Avx2<Dot>>,
                          Attention<Avx2<Dot>>::run, scan_row<Avx2<Dot>>};

}  // namespace edgeseq

EDGESEQ_END_TARGET

#include <cpuid.h>

namespace edgeseq {

const Kernels* avx2() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool has_half_floats = __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
  const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has && has_half_floats ? &AVX2 : nullptr;
}

}  // namespace edgeseq

#else
namespace edgeseq {
const Kernels* avx2() { return nullptr; }
}  // namespace edgeseq
#endif
