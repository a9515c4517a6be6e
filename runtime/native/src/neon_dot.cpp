// Kernels for 64-bit ARM with the dot product instructions.
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstdlib>
#include <cstring>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "target.h"

#if defined(__clang__)
EDGESEQ_BEGIN_TARGET("dotprod")
#else
EDGESEQ_BEGIN_TARGET("arch=armv8.2-a+dotprod")
#endif

#include "logits.h"

namespace edgeseq {
namespace {

// Floats of `InStep` blocks and four outputs.
template <int InStep>
struct NeonLanes {
  float32x4_t at[InStep];

  static NeonLanes zero() { return {}; }
  static NeonLanes load(const float* from) {
    NeonLanes result;
    for (int i = 0; i < InStep; i++) result.at[i] = vld1q_f32(from + 4 * i);
    return result;
  }
  // Adds total * (a * b).
  void add(const NeonLanes& total, const NeonLanes& a, const NeonLanes& b) {
    for (int i = 0; i < InStep; i++)
      at[i] = vfmaq_f32(at[i], total.at[i], vmulq_f32(a.at[i], b.at[i]));
  }
  void reduce(float* totals) const {
    float32x4_t sum = at[0];
    if constexpr (InStep == 2) sum = vaddq_f32(at[0], at[1]);
    if constexpr (InStep == 4) sum = vaddq_f32(vaddq_f32(at[0], at[2]), vaddq_f32(at[1], at[3]));
    vst1q_f32(totals, sum);
  }
};

struct Neon {
  static constexpr int ROWS = 2, BLOCK_ROWS = 2;
  static constexpr bool KEEPS_WEIGHTS = true;  // in registers, for several rows
  static constexpr int PARTS = 1;
  using Part = Neon;
  template <int InStep>
  using Lanes = NeonLanes<InStep>;
  struct Bytes { uint8x16_t at[4]; };
  struct Ints { int32x4_t at[4]; };
  struct Floats { float32x4_t at[4]; };

  template <class Result, class Part>
  static Result parts(Part part) {
    Result result;
    for (int i = 0; i < 4; i++) result.at[i] = part(i);
    return result;
  }
  template <class Part>
  static Bytes bytes(Part part) { return parts<Bytes>(part); }
  template <class Part>
  static Ints ints(Part part) { return parts<Ints>(part); }
  template <class Part>
  static Floats floats(Part part) { return parts<Floats>(part); }

  static void prefetch(const void* at) { __builtin_prefetch(at); }

  static Bytes load(const void* from) {
    return bytes([&](int i) { return vld1q_u8(static_cast<const uint8_t*>(from) + 16 * i); });
  }
  static Bytes fill(int value) {
    return bytes([&](int) { return vdupq_n_u8(static_cast<uint8_t>(value)); });
  }
  static Bytes plus64(Bytes v) { return bytes([&](int i) { return vaddq_u8(v.at[i], vdupq_n_u8(64)); }); }
  static Ints zero() { return ints([](int) { return vdupq_n_s32(0); }); }
  static Ints dot7(Ints sum, Bytes a, Bytes b) {
    return ints([&](int i) {
      return vdotq_s32(sum.at[i], vreinterpretq_s8_u8(a.at[i]), vreinterpretq_s8_u8(b.at[i]));
    });
  }
  template <int Count>
  static void totals(const Ints* v, int32_t* results) {
    for (int j = 0; j < Count; j++) results[j] = total(v[j]);
  }
  static int32_t total(Ints v) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(v.at[0], v.at[1]), vaddq_s32(v.at[2], v.at[3])));
  }

  // A step of the weights of four outputs, as signed codes.
  template <int Bits>
  struct Weights { int8x16_t part[8 / Bits][4][4]; };
  template <int Bits>
  static Weights<Bits> weights(const uint8_t* const (&codes)[4]) {
    Weights<Bits> result;
    for (int j = 0; j < 4; j++) {
      for (int i = 0; i < 4; i++) {
        const uint8x16_t all = vld1q_u8(codes[j] + 16 * i);
        const auto minus = [](uint8x16_t v, int8_t zero) {
          return vsubq_s8(vreinterpretq_s8_u8(v), vdupq_n_s8(zero));
        };
        if constexpr (Bits == 8) {
          result.part[0][j][i] = minus(all, -128);
        } else {
          result.part[0][j][i] = minus(vandq_u8(all, vdupq_n_u8(15)), 8);
          result.part[1][j][i] = minus(vshrq_n_u8(all, 4), 8);
        }
      }
    }
    return result;
  }
  template <int InStep, class Weights>
  static Lanes<InStep> block_sums(const Weights& weights, const int8_t* values, const int32_t*) {
    constexpr int PIECES = sizeof(Weights) / sizeof(int8x16_t) / 16;
    Lanes<InStep> result;
EDGESEQ_UNROLL
    for (int block = 0; block < InStep; block++) {
      int32x4_t sums[4];
EDGESEQ_UNROLL
      for (int j = 0; j < 4; j++) {
        sums[j] = vdupq_n_s32(0);
        for (int i = block * 4 / InStep; i < (block + 1) * 4 / InStep; i++)
          for (int piece = 0; piece < PIECES; piece++)
            sums[j] = vdotq_s32(sums[j], weights.part[piece][j][i],
                                vld1q_s8(values + piece * STEP_BYTES + 16 * i));
      }
      const int32x4_t four = vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
      result.at[block] = vcvtq_f32_s32(four);
    }
    return result;
  }
  template <int InStep, class Scale>
  static Lanes<InStep> scales(const Scale* const (&from)[4]) {
    Lanes<InStep> result;
    for (int block = 0; block < InStep; block++) {
      Scale four[4];
      for (int j = 0; j < 4; j++) four[j] = from[j][block];
      if constexpr (sizeof(Scale) == 2)
        result.at[block] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(four)));
      else
        result.at[block] = vld1q_f32(four);
    }
    return result;
  }

  static Floats zero_floats() { return broadcast(0); }
  static Floats broadcast(float value) { return floats([&](int) { return vdupq_n_f32(value); }); }
  static Floats load_floats(const float* from) { return floats([&](int i) { return vld1q_f32(from + 4 * i); }); }
  static Ints larger(Ints v, const float* from) {
    return ints([&](int i) {
      const int32x4_t bits = vreinterpretq_s32_f32(vld1q_f32(from + 4 * i));
      return vmaxq_s32(v.at[i], vandq_s32(bits, vdupq_n_s32(0x7fffffff)));
    });
  }
  static Floats multiply(Floats a, Floats b) { return floats([&](int i) { return vmulq_f32(a.at[i], b.at[i]); }); }
  static Floats divide(Floats a, Floats b) { return floats([&](int i) { return vdivq_f32(a.at[i], b.at[i]); }); }
  static Floats multiply_add(Floats a, Floats b, Floats c) {
    return floats([&](int i) { return vfmaq_f32(c.at[i], a.at[i], b.at[i]); });
  }
  static Floats to_floats(Ints v) { return floats([&](int i) { return vcvtq_f32_s32(v.at[i]); }); }
  static float largest(Ints v) {
    const int32x4_t low = vmaxq_s32(v.at[0], v.at[1]), high = vmaxq_s32(v.at[2], v.at[3]);
    const int32_t bits = vmaxvq_s32(vmaxq_s32(low, high));
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
  }
  static float sum(Floats v) {
    const float32x4_t four = vaddq_f32(vaddq_f32(v.at[0], v.at[2]), vaddq_f32(v.at[1], v.at[3]));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
  static void store_codes(int8_t* to, Floats v) {
    int16x4_t words[4];
    for (int i = 0; i < 4; i++) words[i] = vqmovn_s32(vcvtnq_s32_f32(v.at[i]));
    const int8x8_t low = vqmovn_s16(vcombine_s16(words[0], words[1]));
    const int8x8_t high = vqmovn_s16(vcombine_s16(words[2], words[3]));
    vst1q_s8(to, vcombine_s8(low, high));
  }
  // Attention
  static constexpr int QUERIES = 6, VECTORS = 1;
  static void transpose(const int8_t* from, int64_t stride, Ints* parts) {
    for (int i = 0; i < 4; i++, from += 4 * stride) {
      int32x4_t rows[4];
      for (int k = 0; k < 4; k++) rows[k] = vreinterpretq_s32_s8(vld1q_s8(from + k * stride));
      const auto low = [](int32x4_t a, int32x4_t b) {
        return vreinterpretq_s64_s32(vzip1q_s32(a, b));
      };
      const auto high = [](int32x4_t a, int32x4_t b) {
        return vreinterpretq_s64_s32(vzip2q_s32(a, b));
      };
      const int64x2_t a = low(rows[0], rows[1]), b = high(rows[0], rows[1]);
      const int64x2_t c = low(rows[2], rows[3]), d = high(rows[2], rows[3]);
      parts[0].at[i] = vreinterpretq_s32_s64(vzip1q_s64(a, c));
      parts[1].at[i] = vreinterpretq_s32_s64(vzip2q_s64(a, c));
      parts[2].at[i] = vreinterpretq_s32_s64(vzip1q_s64(b, d));
      parts[3].at[i] = vreinterpretq_s32_s64(vzip2q_s64(b, d));
    }
  }
  static Floats byte_of(Ints v, int byte) {
    const int32x4_t up = vdupq_n_s32(24 - 8 * byte);
    return to_floats(ints([&](int i) { return vshrq_n_s32(vshlq_s32(v.at[i], up), 24); }));
  }
  static Floats load_codes(const int8_t* from) {
    const int8x16_t codes = vld1q_s8(from);
    const int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_s8(vget_high_s8(codes));
    return to_floats(Ints{{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
                           vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))}});
  }
  static void store_floats(float* to, Floats v) {
    for (int i = 0; i < 4; i++) vst1q_f32(to + 4 * i, v.at[i]);
  }
  static Floats add(Floats a, Floats b) { return floats([&](int i) { return vaddq_f32(a.at[i], b.at[i]); }); }
  static Floats subtract(Floats a, Floats b) { return floats([&](int i) { return vsubq_f32(a.at[i], b.at[i]); }); }
  static Floats minimum(Floats a, Floats b) { return floats([&](int i) { return vminnmq_f32(a.at[i], b.at[i]); }); }
  static Floats maximum(Floats a, Floats b) { return floats([&](int i) { return vmaxnmq_f32(a.at[i], b.at[i]); }); }
  static Floats power_of_two(Floats v) {
    return floats([&](int i) {
      const int32x4_t exponents = vshlq_n_s32(vreinterpretq_s32_f32(v.at[i]), 23);
      return vreinterpretq_f32_s32(vaddq_s32(exponents, vdupq_n_s32(0x3f800000)));
    });
  }
  static Floats unless_below(Floats v, Floats x, Floats limit) {
    return floats([&](int i) {
      const uint32x4_t below = vcltq_f32(x.at[i], limit.at[i]);
      return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v.at[i]), below));
    });
  }
  static constexpr bool HAS_BLOCK_PANELS = false;
  static bool multiply_many(const RowWeight&, const float*, int64_t, float*, const Threads&) {
    return false;
  }
};

}  // namespace

static const Kernels NEON_DOT{"neon-dot", Rows<Neon>::multiply, multiply_blocks<Neon>,
                              Attention<Neon>::run, scan_row<Neon>};

}  // namespace edgeseq

EDGESEQ_END_TARGET

namespace edgeseq {

const Kernels* neon_dot() {
#if defined(__linux__)
  constexpr unsigned long DOT_PRODUCT = 1ul << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & DOT_PRODUCT ? &NEON_DOT : nullptr;
#else
  return &NEON_DOT;  // every Mac with an ARM processor has it
#endif
}

}  // namespace edgeseq

#else
namespace edgeseq {
const Kernels* neon_dot() { return nullptr; }
}  // namespace edgeseq
#endif
