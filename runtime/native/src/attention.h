// Causal self-attention over a KV cache of 8-bit codes, written once for all kinds of CPUs, as in
// `linear.h`.
//
// Order of the floating-point operations, which fixes the bits of the results. Those of a query
// depend on nothing but the query, its keys and values, their biases and the scales:
// - score of key j: fma over the channels in order, from 0, of (q * (scale * scale of the keys)) and
//   the key's code; then the bias is added.
// - p of key j: exp(score - the largest score of the visible keys), as in `exponential`.
// - sum of p: lane l of 16 adds the keys j with j mod 16 = l in order. Then lanes l and l + 8 are
//   added, l and l + 4, l and l + 2, l and l + 1.
// - output: fma over the keys in order, from 0, of p and the value's code; then this is multiplied by
//   (scale of the values / sum of p).
// Keys that a query does not see have p = 0, and change nothing where they are computed.
#pragma once

#include "linear.h"

namespace edgeseq {

constexpr int64_t KEYS = 16;          // keys that are computed at once: the lanes of a vector
constexpr int64_t KEY_BLOCK = 64;     // keys that are converted at a time for many queries
constexpr int64_t QUERY_BLOCK = 64;   // queries of a head that a thread computes at a time
constexpr int64_t SMALL_WORK = 1 << 15;  // products that one thread computes as fast as several

template <class Isa>
struct Attention {
  using Floats = typename Isa::Floats;
  using Ints = typename Isa::Ints;
  static constexpr int QUERIES = Isa::QUERIES;  // queries of a tile
  static constexpr int VECTORS = Isa::VECTORS;  // vectors of keys or channels of a tile
  struct Memory {};                             // purpose of the scratch memory

  static int64_t rounded_up(int64_t count) { return (count + KEYS - 1) / KEYS * KEYS; }
  static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
  static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

  // e^x for x <= 0, with a relative error below 2e-7. 0 below -87, so that no result is subnormal.
  static Floats exponential(Floats x) {
    const auto shift = Isa::broadcast(12582912.0f);  // 1.5 * 2^23: its sum has x / ln 2 rounded
    const auto sum = Isa::multiply_add(x, Isa::broadcast(1.44269504f), shift);
    const auto n = Isa::subtract(sum, shift);
    auto r = Isa::multiply_add(n, Isa::broadcast(-0.693359375f), x);
    r = Isa::multiply_add(n, Isa::broadcast(2.12194440e-4f), r);
    auto p = Isa::broadcast(1.9875691500e-4f);
    p = Isa::multiply_add(p, r, Isa::broadcast(1.3981999507e-3f));
    p = Isa::multiply_add(p, r, Isa::broadcast(8.3334519073e-3f));
    p = Isa::multiply_add(p, r, Isa::broadcast(4.1665795894e-2f));
    p = Isa::multiply_add(p, r, Isa::broadcast(1.6666665459e-1f));
    p = Isa::multiply_add(p, r, Isa::broadcast(5.0000001201e-1f));
    p = Isa::multiply_add(p, r, Isa::broadcast(1.0f));
    p = Isa::multiply_add(p, r, Isa::broadcast(1.0f));
    return Isa::unless_below(Isa::multiply(p, Isa::power_of_two(sum)), x, Isa::broadcast(-87.0f));
  }

  // Writes codes as ONNX Runtime does: what is not a number becomes 127.
  static void quantize(const float* x, int64_t count, float scale, int8_t* codes) {
    const auto factor = Isa::broadcast(scale != 0 ? 1.0f / scale : 1.0f);
    const auto store = [&](const float* from, int8_t* to) {
      const auto value = Isa::multiply(Isa::load_floats(from), factor);
      const auto limited = Isa::minimum(value, Isa::broadcast(127.0f));
      Isa::store_codes(to, Isa::maximum(limited, Isa::broadcast(-128.0f)));
    };
    int64_t k = 0;
    for (; k + 16 <= count; k += 16) store(x + k, codes + k);
    if (k < count) {
      alignas(64) float rest[16] = {};
      alignas(64) int8_t last[16];
      __builtin_memcpy(rest, x + k, sizeof(float) * static_cast<size_t>(count - k));
      store(rest, last);
      __builtin_memcpy(codes + k, last, static_cast<size_t>(count - k));
    }
  }

  // Writes what `past` holds to `present`, unless they are the same memory, and the codes of the new
  // keys or values after it; x is the first of them.
  static void append(const CachedAttention& call, int64_t row, int64_t head, const float* x,
                     float scale, const int8_t* past, int8_t* present) {
    const int64_t size = call.size, begin = call.past(row), at = row * call.heads + head;
    const int64_t end = smaller(begin + call.tokens, call.capacity);
    const int8_t* from = past + at * call.past_capacity * size;
    int8_t* to = present + at * call.capacity * size;
    if (from != to) {
      __builtin_memcpy(to, from, static_cast<size_t>(begin * size));
      __builtin_memset(to + end * size, 0, static_cast<size_t>((call.capacity - end) * size));
    }
    for (int64_t key = begin; key < end; key++, x += 3 * call.heads * size)
      quantize(x, size, scale, to + key * size);
  }

  static void append(const CachedAttention& call, int64_t row, int64_t head) {
    const int64_t width = call.heads * call.size;
    const float* qkv = call.qkv + row * call.tokens * 3 * width + head * call.size;
    append(call, row, head, qkv + width, call.key_scale, call.past_keys, call.keys);
    append(call, row, head, qkv + 2 * width, call.value_scale, call.past_values, call.values);
  }

  // Some queries of a head of a row, with their scratch memory.
  struct Queries {
    const CachedAttention& call;
    const int8_t *keys, *values;
    int64_t length, past;    // keys of the row; those before the first new token
    int64_t first, count;    // the new tokens whose queries these are
    int64_t low, stride;     // the first key of the scores; a multiple of KEYS
    int64_t width;           // a head's size, rounded up to a multiple of 16
    float *queries;          // (count, width), scaled
    float *scores;           // (count, stride); later the probabilities
    float *outputs;          // (count, width)
    float *block;            // (KEY_BLOCK, width), for many queries
    float *factors;          // (count,), of the outputs
    int8_t *padded;          // (KEYS, width)

    // The keys that query i sees: from begin(i) to end(i).
    int64_t end(int64_t i) const { return past + first + i + 1; }
    int64_t begin(int64_t i) const {
      return call.window >= 0 ? larger(end(i) - call.window, 0) : 0;
    }
    // The first key of a vector with key `begin(i)`.
    int64_t aligned_begin(int64_t i) const { return begin(i) / KEYS * KEYS; }
    float* scores_at(int64_t i, int64_t key) const { return scores + i * stride + key - low; }

    // The codes of 16 keys from `key`, with `width` bytes each: in the cache if it has them in this
    // form, otherwise a copy with zeros beyond the row's keys and channels.
    const int8_t* padded_keys(int64_t key) const {
      const int8_t* from = keys + key * call.size;
      const int64_t rows = smaller(length - key, KEYS);
      if (rows == KEYS && call.size == width) return from;
      __builtin_memset(padded, 0, static_cast<size_t>(KEYS * width));
      for (int64_t k = 0; k < rows; k++)
        __builtin_memcpy(padded + k * width, from + k * call.size, static_cast<size_t>(call.size));
      return padded;
    }

    Floats load_values(int64_t key, int64_t c) const {
      const int8_t* from = values + key * call.size + c;
      if (c + 16 <= call.size) return Isa::load_codes(from);
      alignas(64) int8_t some[16] = {};
      __builtin_memcpy(some, from, static_cast<size_t>(call.size - c));
      return Isa::load_codes(some);
    }

    // --- Few queries: codes are converted where they are used. Heads have whole vectors of channels.

    struct FewScores {
      const Queries& of;

      template <int R>
      void run(int64_t i) const {
        constexpr int G = R == 1 ? 2 : 1;  // enough sums that do not wait for each other
        int64_t key = of.aligned_begin(i);
        const int64_t end = rounded_up(of.end(i + R - 1)), whole = smaller(of.length, end);
        for (; key + G * KEYS <= whole; key += G * KEYS)
          tile<R, G>(i, key, of.keys + key * of.width);
        for (; key < end; key += KEYS) tile<R, 1>(i, key, of.padded_keys(key));
      }
      template <int R, int G>
      void tile(int64_t i, int64_t key, const int8_t* from) const {
        const int64_t width = of.width;
        const float* x = of.queries + i * width;
        Floats sums[R][G];
EDGESEQ_UNROLL
        for (int r = 0; r < R; r++)
EDGESEQ_UNROLL
          for (int g = 0; g < G; g++) sums[r][g] = Isa::zero_floats();
        for (int64_t c = 0; c < width; c += 16)
EDGESEQ_UNROLL
          for (int g = 0; g < G; g++) {
            Ints parts[4];
            Isa::transpose(from + g * KEYS * width + c, width, parts);
EDGESEQ_UNROLL
            for (int part = 0; part < 4; part++)
EDGESEQ_UNROLL
              for (int byte = 0; byte < 4; byte++) {
                const auto codes = Isa::byte_of(parts[part], byte);
EDGESEQ_UNROLL
                for (int r = 0; r < R; r++) {
                  const auto value = Isa::broadcast(x[r * width + c + 4 * part + byte]);
                  sums[r][g] = Isa::multiply_add(value, codes, sums[r][g]);
                }
              }
          }
EDGESEQ_UNROLL
        for (int r = 0; r < R; r++)
EDGESEQ_UNROLL
          for (int g = 0; g < G; g++)
            Isa::store_floats(of.scores_at(i + r, key + g * KEYS), sums[r][g]);
      }
    };

    struct FewOutputs {
      const Queries& of;

      template <int R>
      void run(int64_t i) const {
        constexpr int C = R == 1 ? 4 : R == 2 ? 2 : 1;
        int64_t c = 0;
        for (; c + 16 * C <= of.width; c += 16 * C) tile<R, C>(i, c);
        for (; c < of.width; c += 16) tile<R, 1>(i, c);
      }
      template <int R, int C>
      void tile(int64_t i, int64_t c) const {
        Floats sums[R][C];
EDGESEQ_UNROLL
        for (int r = 0; r < R; r++)
EDGESEQ_UNROLL
          for (int v = 0; v < C; v++) sums[r][v] = Isa::zero_floats();
        const int64_t width = of.width, stride = of.stride;
        int64_t left = of.end(i + R - 1) - of.begin(i);
        const float* p = of.scores_at(i, of.begin(i));
        for (const int8_t* from = of.values + of.begin(i) * width + c; left > 0; left--) {
EDGESEQ_UNROLL
          for (int v = 0; v < C; v++) {
            const auto codes = Isa::load_codes(from + 16 * v);
EDGESEQ_UNROLL
            for (int r = 0; r < R; r++)
              sums[r][v] = Isa::multiply_add(Isa::broadcast(p[r * stride]), codes, sums[r][v]);
          }
          from += width;
          p++;
        }
EDGESEQ_UNROLL
        for (int r = 0; r < R; r++)
EDGESEQ_UNROLL
          for (int v = 0; v < C; v++)
            Isa::store_floats(of.outputs + (i + r) * width + c + 16 * v, sums[r][v]);
      }
    };

    // --- Many queries: the codes of KEY_BLOCK keys at a time are converted to floats.

    // Writes keys from `key` to `end` to the block as (vectors of keys, channels, KEYS).
    void convert_keys(int64_t key, int64_t end) const {
      float* to = block;
      for (; key < end; key += KEYS) {
        const int8_t* from = padded_keys(key);
        for (int64_t c = 0; c < width; c += 16) {
          Ints parts[4];
          Isa::transpose(from + c, width, parts);
EDGESEQ_UNROLL
          for (int part = 0; part < 4; part++)
EDGESEQ_UNROLL
            for (int byte = 0; byte < 4; byte++, to += KEYS)
              Isa::store_floats(to, Isa::byte_of(parts[part], byte));
        }
      }
    }

    // Writes values from `key` to `end` to the block as (keys, channels).
    void convert_values(int64_t key, int64_t end) const {
      float* to = block;
      for (; key < end; key++)
        for (int64_t c = 0; c < width; c += 16, to += 16)
          Isa::store_floats(to, load_values(key, c));
    }

    struct ManyScores {
      const Queries& of;
      int64_t block_begin, block_end;  // keys

      template <int R>
      void run(int64_t i) const {
        int64_t key = larger(of.aligned_begin(i), block_begin);
        const int64_t end = smaller(rounded_up(of.end(i + R - 1)), block_end);
        for (; key + VECTORS * KEYS <= end; key += VECTORS * KEYS) tile<R, VECTORS>(i, key);
        for (; key < end; key += KEYS) tile<R, 1>(i, key);
      }
      template <int R, int G>
      void tile(int64_t i, int64_t key) const {
        const int64_t width = of.width;
        const float* x = of.queries + i * width;
        const float* codes = of.block + (key - block_begin) * width;
        Floats sums[R][G];
EDGESEQ_UNROLL
        for (int r = 0; r < R; r++)
EDGESEQ_UNROLL
          for (int g = 0; g < G; g++) sums[r][g] = Isa::zero_floats();
        for (int64_t c = 0; c < width; c++) {
          Floats part[G];
EDGESEQ_UNROLL
          for (int g = 0; g < G; g++)
            part[g] = Isa::load_floats(codes + g * KEYS * width + c * KEYS);
EDGESEQ_UNROLL
          for (int r = 0; r < R; r++) {
            const auto value = Isa::broadcast(x[r * width + c]);
EDGESEQ_UNROLL
            for (int g = 0; g < G; g++) sums[r][g] = Isa::multiply_add(value, part[g], sums[r][g]);
          }
        }
EDGESEQ_UNROLL
        for (int r = 0; r < R; r++)
EDGESEQ_UNROLL
          for (int g = 0; g < G; g++)
            Isa::store_floats(of.scores_at(i + r, key + g * KEYS), sums[r][g]);
      }
    };

    struct ManyOutputs {
      const Queries& of;
      int64_t block_begin, block_end;  // keys

      template <int R>
      void run(int64_t i) const {
        const int64_t begin = larger(of.begin(i), block_begin);
        const int64_t end = smaller(of.end(i + R - 1), block_end);
        if (begin >= end) return;
        int64_t c = 0;
        for (; c + 16 * VECTORS <= of.width; c += 16 * VECTORS) tile<R, VECTORS>(i, c, begin, end);
        for (; c < of.width; c += 16) tile<R, 1>(i, c, begin, end);
      }
      template <int R, int C>
      void tile(int64_t i, int64_t c, int64_t begin, int64_t end) const {
        const int64_t width = of.width, stride = of.stride;
        float* to = of.outputs + i * width + c;
        const float* codes = of.block + (begin - block_begin) * width + c;
        const float* p = of.scores_at(i, begin);
        Floats sums[R][C];
EDGESEQ_UNROLL
        for (int r = 0; r < R; r++)
EDGESEQ_UNROLL
          for (int v = 0; v < C; v++) sums[r][v] = Isa::load_floats(to + r * width + 16 * v);
        for (int64_t key = begin; key < end; key++, codes += width, p++) {
          Floats part[C];
EDGESEQ_UNROLL
          for (int v = 0; v < C; v++) part[v] = Isa::load_floats(codes + 16 * v);
EDGESEQ_UNROLL
          for (int r = 0; r < R; r++) {
            const auto value = Isa::broadcast(p[r * stride]);
EDGESEQ_UNROLL
            for (int v = 0; v < C; v++) sums[r][v] = Isa::multiply_add(value, part[v], sums[r][v]);
          }
        }
EDGESEQ_UNROLL
        for (int r = 0; r < R; r++)
EDGESEQ_UNROLL
          for (int v = 0; v < C; v++) Isa::store_floats(to + r * width + 16 * v, sums[r][v]);
      }
    };

    // --- The steps

    void scale_queries(const float* from) const {
      const float scale = call.scale * call.key_scale;
      for (int64_t i = 0; i < count; i++, from += 3 * call.heads * call.size) {
        float* to = queries + i * width;
        for (int64_t c = 0; c < call.size; c++) to[c] = from[c] * scale;
        for (int64_t c = call.size; c < width; c++) to[c] = 0;
      }
    }

    // Replaces the scores of query i by p, with zeros for keys that only others of its tile see:
    // from `tile_begin` to `tile_end`. `bias` has a number for each key.
    void softmax(int64_t i, const float* bias, int64_t tile_begin, int64_t tile_end) const {
      const int64_t first_key = aligned_begin(i), last_key = end(i);
      const int64_t vectors = (last_key - first_key + KEYS - 1) / KEYS;
      float* s = scores_at(i, first_key);
      if (bias) {
        bias += first_key;
        const int64_t seen = last_key - first_key;
        int64_t k = 0;
        for (; k + KEYS <= seen; k += KEYS)
          Isa::store_floats(s + k, Isa::add(Isa::load_floats(s + k), Isa::load_floats(bias + k)));
        for (; k < seen; k++) s[k] += bias[k];
      }
      constexpr float NEVER = -__builtin_inff();
      for (int64_t k = 0; k < begin(i) - first_key; k++) s[k] = NEVER;
      for (int64_t k = last_key - first_key; k < vectors * KEYS; k++) s[k] = NEVER;
      auto most = Isa::load_floats(s);
      for (int64_t v = 1; v < vectors; v++)
        most = Isa::maximum(Isa::load_floats(s + v * KEYS), most);
      alignas(64) float peaks[KEYS];
      Isa::store_floats(peaks, most);
      for (int64_t half = KEYS / 2; half; half /= 2)
        for (int64_t k = 0; k < half; k++)
          peaks[k] = peaks[k] < peaks[k + half] ? peaks[k + half] : peaks[k];
      const auto peak = Isa::broadcast(peaks[0]);
      auto sum = Isa::zero_floats();
      for (int64_t v = 0; v < vectors; v++) {
        const auto p = exponential(Isa::subtract(Isa::load_floats(s + v * KEYS), peak));
        Isa::store_floats(s + v * KEYS, p);
        sum = Isa::add(sum, p);
      }
      factors[i] = call.value_scale / Isa::sum(sum);
      for (int64_t key = tile_begin; key < first_key; key++) *scores_at(i, key) = 0;
      for (int64_t key = first_key + vectors * KEYS; key < tile_end; key++) *scores_at(i, key) = 0;
    }

    void attend(const float* from, const float* bias, float* y) const {
      scale_queries(from);
      const int64_t stop = rounded_up(end(count - 1));
      const bool few = count <= QUERIES && call.size == width;
      if (few) {
        in_groups<QUERIES>(count, FewScores{*this});
      } else {
        for (int64_t key = low; key < stop; key += KEY_BLOCK) {
          const int64_t block_end = smaller(key + KEY_BLOCK, stop);
          convert_keys(key, block_end);
          in_groups<QUERIES>(count, ManyScores{*this, key, block_end});
        }
      }
      for (int64_t i = 0; i < count; i++) {
        const int64_t tile = i / QUERIES * QUERIES, last = smaller(tile + QUERIES, count) - 1;
        softmax(i, bias ? bias + i * call.bias_token : nullptr, aligned_begin(tile),
                rounded_up(end(last)));
      }
      if (few) {
        in_groups<QUERIES>(count, FewOutputs{*this});
      } else {
        __builtin_memset(outputs, 0, sizeof(float) * static_cast<size_t>(count * width));
        for (int64_t key = low; key < end(count - 1); key += KEY_BLOCK) {
          const int64_t block_end = smaller(key + KEY_BLOCK, end(count - 1));
          convert_values(key, block_end);
          in_groups<QUERIES>(count, ManyOutputs{*this, key, block_end});
        }
      }
      for (int64_t i = 0; i < count; i++, y += call.heads * call.size)
        for (int64_t c = 0; c < call.size; c++) y[c] = outputs[i * width + c] * factors[i];
    }
  };

  // Computes the outputs of the new tokens from `first` to `end` of a head of a row. Padding gets
  // zeros.
  static void attend(const CachedAttention& call, int64_t row, int64_t head, int64_t first,
                     int64_t end, float* y) {
    const int64_t features = call.heads * call.size;
    const int64_t length = call.length(row), past = call.past(row);
    const int64_t real = smaller(end, length - past);
    const int64_t token = row * call.tokens;
    for (int64_t i = larger(first, real); i < end; i++)
      __builtin_memset(y + (token + i) * features + head * call.size, 0,
                       sizeof(float) * static_cast<size_t>(call.size));
    if (first >= real) return;
    const int64_t cache = (row * call.heads + head) * call.capacity * call.size;
    Queries queries{call, call.keys + cache, call.values + cache, length, past, first, real - first,
                    0, 0, rounded_up(call.size), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    queries.low = queries.aligned_begin(0);
    queries.stride = rounded_up(past + real) - queries.low;
    const int64_t count = queries.count, width = queries.width;
    const int64_t floats = count * (2 * width + queries.stride) + KEY_BLOCK * width + count;
    char* bytes = scratch<Memory>(static_cast<size_t>(KEYS * width) +
                                  sizeof(float) * static_cast<size_t>(floats));
    queries.padded = reinterpret_cast<int8_t*>(bytes);
    auto* memory = reinterpret_cast<float*>(bytes + KEYS * width);
    queries.queries = memory;
    queries.outputs = queries.queries + count * width;
    queries.block = queries.outputs + count * width;
    queries.scores = queries.block + KEY_BLOCK * width;
    queries.factors = queries.scores + count * queries.stride;
    const float* bias = call.bias;
    if (bias) bias += row * call.bias_row + head * call.bias_head + first * call.bias_token;
    queries.attend(call.qkv + (token + first) * 3 * features + head * call.size, bias,
                   y + (token + first) * features + head * call.size);
  }

  static void run(const CachedAttention& call, float* y, const Threads& threads) {
    const int64_t blocks = (call.tokens + QUERY_BLOCK - 1) / QUERY_BLOCK;
    const int64_t pairs = call.rows * call.heads;
    const auto row_of = [&](int64_t pair) { return pair % call.rows; };
    const auto head_of = [&](int64_t pair) { return pair / call.rows; };
    if (blocks > 1)  // several threads read what is appended here
      threads.for_each(static_cast<size_t>(pairs), [&](size_t i) {
        const auto pair = static_cast<int64_t>(i);
        append(call, row_of(pair), head_of(pair));
      });
    const auto work = [&](size_t i) {
      const int64_t pair = static_cast<int64_t>(i) / blocks;
      const int64_t first = static_cast<int64_t>(i) % blocks * QUERY_BLOCK;
      if (blocks == 1) append(call, row_of(pair), head_of(pair));
      attend(call, row_of(pair), head_of(pair), first, smaller(first + QUERY_BLOCK, call.tokens), y);
    };
    int64_t products = 0;
    for (int64_t row = 0; row < call.rows; row++)
      products += call.length(row) * call.tokens * call.heads * call.size;
    const auto count = static_cast<size_t>(pairs * blocks);
    if (products <= SMALL_WORK)
      for (size_t i = 0; i < count; i++) work(i);
    else
      threads.for_each(count, work);
  }
};

}  // namespace edgeseq
