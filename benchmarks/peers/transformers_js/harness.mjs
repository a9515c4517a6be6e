// The measurement of ../../compare/harness.py for a program in JavaScript: the same steps, and the
// same keys with the same meanings. A change there belongs here too.

import { readFileSync } from "node:fs";

import { randomPrompts } from "./prompts.mjs";

const IDLE_S = 5.0;
const SETTLE_S = 1.0;

// Print the measurement of what `load(job)` gives, or the error, as the last line of the output.
export async function main(load, versions) {
  try {
    console.log(JSON.stringify(await measure(load, versions, JSON.parse(process.argv[2]))));
  } catch (error) {
    const sentence = String(error.message ?? error).split(/\s+/).join(" ");
    console.log(JSON.stringify({ error: `${error.name}: ${sentence}` }));
    process.exitCode = 1;
  }
}

async function measure(load, versions, job) {
  const { shapes, idle } = job.workload;
  const imported = performance.now();
  const peer = await load(job);
  const result = { load_s: (performance.now() - imported) / 1e3, after_load: memory() };
  await checked(peer, randomPrompts(shapes[0], job.vocabulary), 1, shapes[0].beams);
  result.cold_start_s = Date.now() / 1e3 - job.started;
  result.cases = [];
  for (const shape of shapes) result.cases.push(await measureShape(peer, shape, job));
  result.after_runs = memory();
  if (idle) result.idle_cpu_share = await idleShare();
  result.versions = versions();
  return result;
}

async function measureShape(peer, shape, job) {
  const [beams, repeats] = [shape.beams, job.workload.repeats];
  const prompts = randomPrompts(shape, job.vocabulary);
  const [firsts, totals] = [[], []];
  for (let repeat = 0; repeat < repeats + (repeats > 0); repeat++) {
    const first = await timed(peer, prompts, 1, beams);
    const total = shape.new > 1 ? await timed(peer, prompts, shape.new, beams) : first;
    if (repeat > 0) {
      firsts.push(first);
      totals.push(total);
    }
  }
  return { ...shape, first_token_s: firsts, total_s: totals };
}

async function timed(peer, prompts, tokens, beams) {
  const start = performance.now();
  await checked(peer, prompts, tokens, beams);
  return (performance.now() - start) / 1e3;
}

async function checked(peer, prompts, tokens, beams) {
  const lengths = (await peer.generate(prompts, tokens, beams)).map((ids) => ids.length);
  if (lengths.length !== prompts.length || lengths.some((length) => length !== tokens))
    throw new Error(`asked for ${tokens} tokens after each of ${prompts.length}, got ${lengths}`);
}

function memory() {
  const names = { VmRSS: "resident_mb", VmHWM: "peak_mb", RssAnon: "anonymous_mb" };
  const result = {};
  if (process.platform !== "linux") return result;
  for (const line of readFileSync("/proc/self/status", "utf8").split("\n")) {
    const [name, value] = line.split(/:\s+/);
    if (name in names) result[names[name]] = parseInt(value) * 1.024e-3;
  }
  return result;
}

async function idleShare() {
  const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1e3));
  await sleep(SETTLE_S);
  const [busy, start] = [process.cpuUsage(), performance.now()];
  await sleep(IDLE_S);
  const { user, system } = process.cpuUsage(busy);
  return (user + system) / 1e3 / (performance.now() - start);
}
