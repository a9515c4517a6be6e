// Use edgeseq from Node or Electron: start it as a helper process, stream text, cancel, close.
//
//   node client.mjs [COMMAND...]
//
// COMMAND starts the helper, by default "edgeseq serve --stdio --demo". In an app, it begins with the
// path of the frozen program. This file needs Node 18 or later, and no packages.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const CANCELLED = -32800;

/** A helper process. `await helper.ready` ends once its models are loaded. */
export class Edgeseq {
  #child;
  #waiting = new Map(); // from ids of requests, and "ready", to what to do with their answers
  #nextId = 1;

  constructor([program, ...args] = ["edgeseq", "serve", "--stdio", "--demo"]) {
    // If this process ends in any way, so does the standard input of the helper, and the helper.
    this.#child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
    this.#child.stdin.on("error", () => {}); // the helper has ended, which "close" tells
    this.ready = new Promise((resolve, reject) => {
      this.#waiting.set("ready", { resolve, reject });
    });
    this.ready.catch(() => {}); // whoever waits for it gets the error
    this.ended = new Promise((resolve) => {
      this.#child.on("error", (error) => this.#fail(error));
      this.#child.on("close", (status) => {
        this.#fail(new Error(`edgeseq has ended with status ${status}`));
        resolve(status);
      });
    });
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      this.#take(JSON.parse(line));
    });
  }

  /** Send a request; return `{ id, result }`, where `result` is a promise. */
  request(method, params = {}, onPiece = () => {}) {
    const id = this.#nextId++;
    const result = new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, onPiece });
    });
    this.#send({ jsonrpc: "2.0", id, method, params });
    return { id, result };
  }

  /** Cancel a request: unless it has its answer, its promise fails with the code CANCELLED. */
  cancel(id) {
    this.#send({ jsonrpc: "2.0", method: "cancel", params: { id } });
  }

  /** End the helper; return the promise of its exit status. */
  close() {
    this.#child.stdin.end();
    return this.ended;
  }

  #send(message) {
    this.#child.stdin.write(JSON.stringify(message) + "\n");
  }

  #take({ method, params, id, result, error }) {
    if (method === "piece") {
      this.#waiting.get(params.id)?.onPiece(params.text);
      return;
    }
    const key = method === "ready" ? "ready" : id;
    const asked = this.#waiting.get(key);
    this.#waiting.delete(key);
    if (error) asked?.reject(Object.assign(new Error(error.message), { code: error.code }));
    else asked?.resolve(key === "ready" ? params : result);
  }

  #fail(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

async function main(command) {
  const helper = new Edgeseq(command.length ? command : undefined);
  const { models } = await helper.ready;
  console.log("models:", models.map(({ name }) => name).join(", "));

  // Each key cancels the suggestion for the text before it. The session reads only new text.
  const options = { model: "demo-gpt2", session: "document", stream: true, do_sample: false };
  let current;
  async function onKey(prompt) {
    if (current) helper.cancel(current.id);
    let grey = "";
    const params = { ...options, prompt, max_new_tokens: 10 };
    current = helper.request("generate", params, (piece) => (grey += piece));
    try {
      await current.result;
      return `${prompt} [${grey}]`;
    } catch (error) {
      if (error.code !== CANCELLED) throw error;
      return `${prompt} [cancelled]`;
    }
  }
  const suggestions = [onKey("The o"), onKey("The old woman")]; // two keys, one after the other
  for (const suggestion of suggestions) console.log(await suggestion);

  const fields = { text: "What a happy day!" };
  const task = helper.request("run", { model: "demo-gpt2", task: "classification", fields });
  console.log("classification:", (await task.result).text);
  console.log("status:", await helper.close());
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main(process.argv.slice(2));
}
