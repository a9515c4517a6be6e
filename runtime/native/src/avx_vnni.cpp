// Kernels for AVX2 with VNNI (AVX-VNNI), which client processors without AVX-512 have.
#include "kernels.h"

#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#include <immintrin.h>

#include <cstdlib>
#include <cstring>

#include "target.h"

EDGESEQ_BEGIN_TARGET("avx2,f16c,fma,avxvnni")

#include "avx2.h"

namespace edgeseq {
namespace {

struct Dot {
  static __m256i dot7(__m256i sum, __m256i a, __m256i b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }

  template <int Bits>
  struct Weights {
    static constexpr bool HAS_ZEROS = true;
    __m256i part[8 / Bits];
  };
  template <int Bits>
  static Weights<Bits> weights(__m256i codes) {
    const __m256i mask = _mm256_set1_epi8(15);
    if constexpr (Bits == 8)
      return {{codes}};
    else
      return {{_mm256_and_si256(codes, mask), _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask)}};
  }
  template <int Bits>
  static __m256i sums(const Weights<Bits> (&w)[4], const __m256i* values) {
    __m256i t[4];
    for (int j = 0; j < 4; j++) {
      t[j] = dot7(_mm256_setzero_si256(), w[j].part[0], _mm256_load_si256(values));
      if constexpr (Bits == 4) t[j] = dot7(t[j], w[j].part[1], _mm256_load_si256(values + 2));
    }
    return four_sums(t);
  }
};

}  // namespace

static const Kernels AVX_VNNI{"avx-vnni", Rows<Avx2<Dot>>::multiply, multiply_blocks<Avx2<Dot>>,
                              Attention<Avx2<Dot>>::run, scan_row<Avx2<Dot>>};

}  // namespace edgeseq

EDGESEQ_END_TARGET

#include <cpuid.h>

namespace edgeseq {

const Kernels* avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool has_vnni = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
  return has_vnni && avx2() ? &AVX_VNNI : nullptr;
}

}  // namespace edgeseq

#else
namespace edgeseq {
const Kernels* avx_vnni() { return nullptr; }
}  // namespace edgeseq
#endif
