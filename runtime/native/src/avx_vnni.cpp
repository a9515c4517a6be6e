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
  static __m256i dot8(__m256i sum, __m256i a, __m256i b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
};

}  // namespace

static const Kernels AVX_VNNI{"avx-vnni", Rows<Avx2<Dot>>::multiply, multiply_blocks<Avx2<Dot>>,
                              Attention<Avx2<Dot>>::run};

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
