// Compiles what follows for other CPUs than the rest of the library: EDGESEQ_BEGIN_TARGET("avx2")
// after all includes of the standard library, and EDGESEQ_END_TARGET at the end.
#pragma once

#define EDGESEQ_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define EDGESEQ_BEGIN_TARGET(names) \
  EDGESEQ_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define EDGESEQ_END_TARGET _Pragma("clang attribute pop")
#else
#define EDGESEQ_BEGIN_TARGET(names) _Pragma("GCC push_options") EDGESEQ_PRAGMA(GCC target(names))
#define EDGESEQ_END_TARGET _Pragma("GCC pop_options")
#endif
