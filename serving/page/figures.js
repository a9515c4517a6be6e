// Times and numbers of tokens, above the answer.

import { byId } from "./elements.js";

// Times and numbers of tokens of one request.
export class Figures {
  constructor() {
    this.began = performance.now();
    this.firstAt = null;
    this.tokens = 0;
    this.firstTokens = 0;
  }

  add({ text, logprobs }) {
    if (!text && !logprobs) return;
    this.lastAt = performance.now();
    this.tokens += logprobs ? logprobs.tokens.length : 1; // a guess, until the usage comes
    if (this.firstAt === null) {
      this.firstAt = this.lastAt;
      this.firstTokens = this.tokens;
    }
    this.write();
  }

  end(usage) {
    this.lastAt ??= performance.now();
    this.tokens = usage.completion_tokens;
    this.promptTokens = usage.prompt_tokens;
    this.write();
  }

  // Choices are scored, not generated: there is no speed of tokens.
  endOfChoices({ prompt_tokens: count }) {
    this.lastAt = performance.now();
    this.promptTokens = count;
    this.write();
  }

  write() {
    byId("figures").hidden = false;
    const isStream = this.firstAt !== null;
    const after = isStream ? this.tokens - this.firstTokens : this.tokens;
    const seconds = (this.lastAt - (isStream ? this.firstAt : this.began)) / 1000;
    const speed = after / seconds;
    writeFigure("first", isStream && `${Math.round(this.firstAt - this.began)} ms`);
    writeFigure("speed", after > 0 && seconds > 0 && speed.toFixed(speed < 10 ? 1 : 0));
    writeFigure("count", this.tokens && String(this.tokens));
    writeFigure("prompt-count", this.promptTokens !== undefined && String(this.promptTokens));
  }

  seconds() {
    return ((performance.now() - this.began) / 1000).toFixed(2);
  }

  summary() {
    const plural = this.tokens === 1 ? "" : "s";
    const what = this.tokens ? `${this.tokens} token${plural} in` : "it took";
    return `The answer is complete: ${what} ${this.seconds()} s.`;
  }

  stopped() {
    return `Stopped after ${this.seconds()} s.`;
  }
}

function writeFigure(id, text) {
  byId(id).parentElement.hidden = !text;
  byId(id).textContent = text || "";
}
