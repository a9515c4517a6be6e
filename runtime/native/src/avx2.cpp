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

// AVX2 adds two products in 16 bits, which hold two of 127 * 127, but not two of 255 * 127.
struct Dot {
  static __m256i dot7(__m256i sum, __m256i a, __m256i b) {
    const __m256i pairs = _mm256_maddubs_epi16(a, b);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static __m256i dot8(__m256i sum, __m256i a, __m256i b) {
    const __m256i low = _mm256_and_si256(a, _mm256_set1_epi8(127));
    const __m256i top = _mm256_and_si256(_mm256_srli_epi16(a, 7), _mm256_set1_epi8(1));
    const __m256i tops = _mm256_maddubs_epi16(top, b);
    return _mm256_add_epi32(dot7(sum, low, b), _mm256_madd_epi16(tops, _mm256_set1_epi16(128)));
  }
};

}  // namespace

static const Kernels AVX2{"avx2", Rows<Avx2<Dot>>::multiply, multiply_blocks<Avx2<Dot>>,
                          Attention<Avx2<Dot>>::run};

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
