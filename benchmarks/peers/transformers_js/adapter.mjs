// Transformers.js on onnxruntime-node.
//
//     EDGESEQ_BENCH_MODULES=FOLDER node adapter.mjs JSON
//
// FOLDER is the node_modules folder that has @huggingface/transformers; without the variable it is
// node_modules in the current folder. NODE_PATH is not looked at, and it does not matter where this
// file lies as long as harness.mjs and prompts.mjs lie beside it.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

import { main } from "./harness.mjs";

const MODULES = resolve(process.env.EDGESEQ_BENCH_MODULES ?? "node_modules");
const PACKAGES = ["@huggingface/transformers", "onnxruntime-node"];

class Peer {
  // A model that generates greedily. No token ends a text because `eos_token_id` is null: then
  // the library asks about length only.

  static async load(job) {
    const require = createRequire(join(MODULES, "adapter.cjs"));
    const library = require("@huggingface/transformers");
    const seq2seq = job.workload.is_encoder_decoder;
    const family = seq2seq ? library.AutoModelForSeq2SeqLM : library.AutoModelForCausalLM;
    const model = await family.from_pretrained(resolve(job.model), {
      device: "cpu",
      dtype: job.format,
      local_files_only: true,
      session_options: { intraOpNumThreads: job.threads },
    });
    return new Peer(library.Tensor, model, seq2seq);
  }

  constructor(Tensor, model, seq2seq) {
    Object.assign(this, { Tensor, model, seq2seq });
  }

  async generate(prompts, newTokens, beams) {
    if (beams !== 1) throw new Error("Transformers.js has no beam search");
    const shape = [prompts.length, prompts[0].length];
    const ids = new this.Tensor("int64", BigInt64Array.from(prompts.flat(), BigInt), shape);
    const mask = new this.Tensor("int64", new BigInt64Array(ids.size).fill(1n), shape);
    const texts = await this.model.generate({
      inputs: ids,
      attention_mask: mask,
      max_new_tokens: newTokens,
      do_sample: false,
      eos_token_id: null,
    });
    const start = this.seq2seq ? 1 : shape[1];
    return texts.tolist().map((row) => row.slice(start).map(Number));
  }
}

function versions() {
  const manifest = (name) => JSON.parse(readFileSync(join(MODULES, name, "package.json"), "utf8"));
  const found = { node: process.versions.node };
  for (const name of PACKAGES) found[name] = manifest(name).version;
  return found;
}

await main(Peer.load, versions);
