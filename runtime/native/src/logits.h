// A pass over logits for beam search, written once for all kinds of CPUs, as in `linear.h`.
//
// Order of the floating-point operations, which fixes the bits of the results: e^(logit - peak), as in
// `Attention::exponential`, of 4096 logits at a time. Lane l of 16 adds those with place mod 16 = l, in
// order; then lanes l and l + 8 are added, l and l + 4, l and l + 2, l and l + 1. These sums are added
// in double precision.
#pragma once

#include "attention.h"

namespace edgeseq {

constexpr int64_t PIECE = 4096;

// Writes the maxima of `sets` sets, where logit i * sets + j is the i-th of `set_size` of set j, and the
// maximum of the logits after the sets (minus infinity without any). Returns the highest logit and the
// sum of e^(logit - highest), which is not a number if a logit is not, or if the highest is infinite.
template <class Isa>
RowScan scan_row(const float* logits, int64_t count, int64_t sets, int64_t set_size, float* maxima) {
  constexpr float NEVER = -__builtin_inff();
  const int64_t whole = sets / 16 * 16;
  for (int64_t j = 0; j < sets; j++) maxima[j] = NEVER;
  for (int64_t i = 0; i < set_size && sets; i++) {
    const float* from = logits + i * sets;
    for (int64_t j = 0; j < whole; j += 16)
      Isa::store_floats(maxima + j,
                        Isa::maximum(Isa::load_floats(maxima + j), Isa::load_floats(from + j)));
    for (int64_t j = whole; j < sets; j++) maxima[j] = maxima[j] < from[j] ? from[j] : maxima[j];
  }
  RowScan result{NEVER, NEVER, 0};
  for (int64_t k = sets * set_size; k < count; k++)
    result.rest = result.rest < logits[k] ? logits[k] : result.rest;
  result.peak = result.rest;
  for (int64_t j = 0; j < sets; j++)
    result.peak = result.peak < maxima[j] ? maxima[j] : result.peak;
  const auto peak = Isa::broadcast(result.peak);
  for (int64_t begin = 0; begin < count; begin += PIECE) {
    const int64_t end = begin + PIECE < count ? begin + PIECE : count;
    auto sum = Isa::zero_floats();
    int64_t k = begin;
    const auto add = [&](const float* from) {
      const auto below = Isa::subtract(Isa::load_floats(from), peak);
      sum = Isa::add(sum, Attention<Isa>::exponential(below));
    };
    for (; k + 16 <= end; k += 16) add(logits + k);
    if (k < end) {
      alignas(64) float last[16];
      for (float& value : last) value = NEVER;
      __builtin_memcpy(last, logits + k, sizeof(float) * static_cast<size_t>(end - k));
      add(last);
    }
    result.sum += static_cast<double>(Isa::sum(sum));
  }
  return result;
}

}  // namespace edgeseq
