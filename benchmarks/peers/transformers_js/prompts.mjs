// The prompts of ../../compare/harness.py: the ids that Python's random.Random(shape.prompt) draws.

export function randomPrompts(shape, vocabulary) {
  const draw = mersenneTwister(shape.prompt);
  const span = vocabulary - 600;
  const shift = Math.clz32(span);
  const id = () => {
    for (;;) {
      const value = draw() >>> shift;
      if (value < span) return 300 + value;
    }
  };
  const row = () => Array.from({ length: shape.prompt }, id);
  return Array.from({ length: shape.rows }, row);
}

// MT19937 seeded with an array of one number (Matsumoto and Nishimura, init_by_array).
function mersenneTwister(seed) {
  const n = 624;
  const mt = new Uint32Array(n);
  const mixed = (i) => mt[i - 1] ^ (mt[i - 1] >>> 30);
  mt[0] = 19650218;
  for (let i = 1; i < n; i++) mt[i] = Math.imul(1812433253, mixed(i)) + i;
  let i = 1;
  const step = (factor, addend) => {
    mt[i] = (mt[i] ^ Math.imul(mixed(i), factor)) + addend;
    if (++i === n) [mt[0], i] = [mt[n - 1], 1];
  };
  for (let k = 0; k < n; k++) step(1664525, seed);
  for (let k = 1; k < n; k++) step(1566083941, -i);
  mt[0] = 0x80000000;
  let next = n;
  return () => {
    if (next === n) {
      for (let k = 0; k < n; k++) {
        const y = (mt[k] & 0x80000000) | (mt[(k + 1) % n] & 0x7fffffff);
        mt[k] = mt[(k + 397) % n] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      next = 0;
    }
    let y = mt[next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}
