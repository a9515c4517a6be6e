// Kernels for any CPU, in plain C++. They define the results: the others compute the same bits.
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "logits.h"

namespace edgeseq {
namespace {

// Floats of `InStep` blocks and four outputs.
template <int InStep>
struct GenericLanes {
  float at[4 * InStep];

  static GenericLanes zero() { return {}; }
  static GenericLanes load(const float* from) {
    GenericLanes result;
    std::memcpy(&result, from, sizeof result);
    return result;
  }
  // Adds total * (a * b).
  void add(const GenericLanes& total, const GenericLanes& a, const GenericLanes& b) {
    for (int i = 0; i < 4 * InStep; i++) at[i] = std::fma(total.at[i], a.at[i] * b.at[i], at[i]);
  }
  void reduce(float* totals) const {
    GenericLanes rest = *this;
    for (int half = 4 * InStep / 2; half >= 4; half /= 2)
      for (int i = 0; i < half; i++) rest.at[i] += rest.at[i + half];
    std::memcpy(totals, &rest, 4 * sizeof(float));
  }
};

struct Generic {
  static constexpr int ROWS = 2, BLOCK_ROWS = 2;
  static constexpr bool KEEPS_WEIGHTS = true;
  static constexpr int PARTS = 1;
  using Part = Generic;
  template <int InStep>
  using Lanes = GenericLanes<InStep>;
  struct Bytes { uint8_t at[64]; };
  struct Ints { int32_t at[16]; };
  struct Floats { float at[16]; };

  template <class Lane>
  static Floats floats(Lane lane) {
    Floats result;
    for (int i = 0; i < 16; i++) result.at[i] = lane(i);
    return result;
  }
  template <class Byte>
  static Bytes bytes(Byte byte) {
    Bytes result;
    for (int i = 0; i < 64; i++) result.at[i] = static_cast<uint8_t>(byte(i));
    return result;
  }

  static void prefetch(const void*) {}

  static Bytes load(const void* from) {
    Bytes result;
    std::memcpy(&result, from, sizeof result);
    return result;
  }
  static Bytes fill(int value) { return bytes([&](int) { return value; }); }
  static Bytes plus64(Bytes v) { return bytes([&](int i) { return v.at[i] + 64; }); }
  static Ints zero() { return Ints{}; }
  static Ints dot7(Ints sum, Bytes a, Bytes b) {
    for (int i = 0; i < 64; i++) sum.at[i / 4] += a.at[i] * static_cast<int8_t>(b.at[i]);
    return sum;
  }
  template <int Count>
  static void totals(const Ints* v, int32_t* results) {
    for (int j = 0; j < Count; j++) results[j] = total(v[j]);
  }
  static int32_t total(Ints v) {
    int32_t sum = 0;
    for (int32_t value : v.at) sum += value;
    return sum;
  }

  // A step of the weights of four outputs.
  template <int Bits>
  struct Weights {
    static constexpr int PIECES = 8 / Bits;
    uint8_t codes[4][PIECES][STEP_BYTES];
  };
  template <int Bits>
  static Weights<Bits> weights(const uint8_t* const (&codes)[4]) {
    Weights<Bits> result;
    for (int j = 0; j < 4; j++)
      for (int i = 0; i < STEP_BYTES; i++)
        for (int piece = 0; piece < 8 / Bits; piece++)
          result.codes[j][piece][i] = Bits == 8 ? codes[j][i] : codes[j][i] >> 4 * piece & 15;
    return result;
  }
  template <int InStep, class Weights>
  static Lanes<InStep> block_sums(const Weights& weights, const int8_t* values, const int32_t* zeros) {
    Lanes<InStep> result;
    for (int block = 0; block < InStep; block++)
      for (int j = 0; j < 4; j++) {
        int32_t sum = zeros[4 * block + j];
        for (int64_t i = block * STEP_BYTES / InStep; i < (block + 1) * STEP_BYTES / InStep; i++)
          for (int piece = 0; piece < Weights::PIECES; piece++)
            sum += weights.codes[j][piece][i] * values[piece * STEP_BYTES + i];
        result.at[4 * block + j] = static_cast<float>(sum);
      }
    return result;
  }
  template <int InStep, class Scale>
  static Lanes<InStep> scales(const Scale* const (&from)[4]) {
    Lanes<InStep> result;
    for (int block = 0; block < InStep; block++)
      for (int j = 0; j < 4; j++) {
        if constexpr (sizeof(Scale) == 2)
          result.at[4 * block + j] = to_float(from[j][block]);
        else
          result.at[4 * block + j] = from[j][block];
      }
    return result;
  }

  static Floats zero_floats() { return Floats{}; }
  static Floats broadcast(float value) { return floats([&](int) { return value; }); }
  static Floats load_floats(const float* from) { return floats([&](int i) { return from[i]; }); }
  static Ints larger(Ints v, const float* from) {
    for (int i = 0; i < 16; i++) {
      int32_t bits;
      std::memcpy(&bits, from + i, sizeof bits);
      bits &= 0x7fffffff;
      v.at[i] = bits > v.at[i] ? bits : v.at[i];
    }
    return v;
  }
  static Floats multiply(Floats a, Floats b) { return floats([&](int i) { return a.at[i] * b.at[i]; }); }
  static Floats divide(Floats a, Floats b) { return floats([&](int i) { return a.at[i] / b.at[i]; }); }
  static Floats multiply_add(Floats a, Floats b, Floats c) {
    return floats([&](int i) { return std::fma(a.at[i], b.at[i], c.at[i]); });
  }
  static Floats to_floats(Ints v) { return floats([&](int i) { return static_cast<float>(v.at[i]); }); }
  static float largest(Ints v) {
    int32_t bits = 0;
    for (int32_t value : v.at) bits = value > bits ? value : bits;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
  }
  static float sum(Floats v) {
    for (int half = 8; half; half /= 2)
      for (int i = 0; i < half; i++) v.at[i] += v.at[i + half];
    return v.at[0];
  }
  static void store_codes(int8_t* to, Floats v) {
    for (int i = 0; i < 16; i++) {
      const float code = std::nearbyint(v.at[i]);
      to[i] = static_cast<int8_t>(code > 127 ? 127 : code >= -128 ? code : -128);
    }
  }
  // Attention.

  static constexpr int QUERIES = 2, VECTORS = 1;
  // Lane k of parts[i] gets the four bytes 4i to 4i + 3 of row k; rows have 16 bytes.
  static void transpose(const int8_t* from, int64_t stride, Ints* parts) {
    for (int i = 0; i < 4; i++)
      for (int k = 0; k < 16; k++) std::memcpy(&parts[i].at[k], from + k * stride + 4 * i, 4);
  }
  // A byte of each lane, the lowest first, as a signed number.
  static Floats byte_of(Ints v, int byte) {
    return floats([&](int i) {
      return static_cast<float>(static_cast<int8_t>(static_cast<uint32_t>(v.at[i]) >> (8 * byte)));
    });
  }
  static Floats load_codes(const int8_t* from) {
    return floats([&](int i) { return static_cast<float>(from[i]); });
  }
  static void store_floats(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }
  static Floats add(Floats a, Floats b) { return floats([&](int i) { return a.at[i] + b.at[i]; }); }
  static Floats subtract(Floats a, Floats b) { return floats([&](int i) { return a.at[i] - b.at[i]; }); }
  // The second one where the first is not a number.
  static Floats minimum(Floats a, Floats b) {
    return floats([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
  }
  static Floats maximum(Floats a, Floats b) {
    return floats([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
  }
  // 2^n, for n + 1.5 * 2^23.
  static Floats power_of_two(Floats v) {
    return floats([&](int i) {
      uint32_t bits;
      std::memcpy(&bits, v.at + i, sizeof bits);
      bits = (bits << 23) + 0x3f800000u;
      float result;
      std::memcpy(&result, &bits, sizeof result);
      return result;
    });
  }
  // v, but 0 where x < limit.
  static Floats unless_below(Floats v, Floats x, Floats limit) {
    return floats([&](int i) { return x.at[i] < limit.at[i] ? 0.0f : v.at[i]; });
  }
  static constexpr bool HAS_BLOCK_PANELS = false;
  static bool multiply_many(const RowWeight&, const float*, int64_t, float*, const Threads&) {
    return false;
  }
};

}  // namespace

float to_float(uint16_t half) {
  const uint32_t sign = half & 0x8000u, fraction = half & 0x3ffu;
  const int exponent = half >> 10 & 0x1f;
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                   : std::ldexp(static_cast<float>(fraction | 0x400u), exponent - 25);
  return sign ? -size : size;
}

char* allocate(size_t size) {
  return static_cast<char*>(std::aligned_alloc(64, (size + 63) & ~size_t{63}));
}

void release(char* memory) { std::free(memory); }

const Kernels* generic() {
  static const Kernels kernels{"generic", Rows<Generic>::multiply, multiply_blocks<Generic>,
                               Attention<Generic>::run, scan_row<Generic>};
  return &kernels;
}

}  // namespace edgeseq
