// The answer: one request at a time, and the cards of its texts.

import { alternativesOf, hideAlternatives } from "./alternatives.js";
import { byId, newElement, percent, setText, spelled } from "./elements.js";
import { Figures } from "./figures.js";
import { requestInForm } from "./form.js";
import { Problem, call, eventsOf } from "./server.js";

const UNLIKELY = 0.02; // tokens below this probability are marked

let running = null; // the AbortController of the request that is being answered

export async function generate() {
  if (running) return;
  clearAnswer();
  let request;
  try {
    request = requestInForm();
  } catch (error) {
    show(error);
    return;
  }
  running = new AbortController();
  setBusy(true);
  setText("status", "Generating.");
  const { top } = byId("answer").getBoundingClientRect();
  if (top > innerHeight - 100) byId("answer").scrollIntoView(); // a narrow window
  const figures = new Figures();
  try {
    const response = await call(request.path, request.body, running.signal);
    if (request.form === "stream") await showStream(response, request.body.n ?? 1, figures);
    else showWhole(await response.json(), figures);
    setText("status", figures.summary());
  } catch (error) {
    setText("status", error.name === "AbortError" ? figures.stopped() : "");
    if (error.name !== "AbortError") show(error);
  }
  running = null;
  setBusy(false);
}

// Stop the request that is being answered; return whether there was one.
export function stop() {
  running?.abort();
  return running !== null;
}

async function showStream(response, count, figures) {
  const cards = Array.from({ length: count }, (_, index) => new Card(titleOf(index, count)));
  for await (const event of eventsOf(response)) {
    for (const choice of event.choices) {
      cards[choice.index].add(choice);
      figures.add(choice);
    }
    if (event.usage) figures.end(event.usage);
  }
}

function showWhole(answer, figures) {
  const found = answer.choices ?? answer.results;
  if (found[0].probabilities) figures.endOfChoices(answer.usage);
  else figures.end(answer.usage);
  for (const [index, choice] of found.entries()) {
    if (choice.probabilities) {
      showProbabilities(choice.probabilities);
    } else {
      new Card(titleOf(index, found.length)).add({ finish_reason: "", ...choice });
    }
  }
}

function titleOf(index, count) {
  return count > 1 ? `Text ${index + 1}` : "Text";
}

function showProbabilities(found) {
  const sorted = found.toSorted((a, b) => b.probability - a.probability);
  for (const { text, label, probability } of sorted) {
    const [card, end] = newCard(spelled(label ?? text));
    end.textContent = percent(probability);
    card.append(newBar(probability));
  }
}

function newCard(title) {
  const card = newElement("li", "card");
  const head = newElement("div", "head");
  const heading = newElement("h3", "", title);
  const end = newElement("span", "end");
  head.append(heading, end);
  card.append(head);
  byId("cards").append(card);
  return [card, end];
}

// Return a bar as a picture; its number is written beside it.
function newBar(part) {
  const drawing = "http://www.w3.org/2000/svg";
  const bar = document.createElementNS(drawing, "svg");
  bar.setAttribute("class", "bar");
  bar.setAttribute("aria-hidden", "true");
  const filled = document.createElementNS(drawing, "rect");
  filled.setAttribute("width", `${100 * part}%`);
  filled.setAttribute("height", "100%");
  bar.append(filled);
  return bar;
}

// One text, to which pieces are added; its tokens show their alternatives.
class Card {
  constructor(title) {
    const [card, end] = newCard(title);
    this.card = card;
    this.end = end;
    this.text = newElement("p", "text");
    card.append(this.text);
    card.classList.add("busy");
    this.characters = []; // code points, as the server counts them
    this.tokens = []; // with `offset`, the characters of this text before the token
    this.base = null; // the server's offset of the first token
  }

  add({ text, logprobs, finish_reason: reason }) {
    this.characters.push(...text);
    if (logprobs) this.addTokens(logprobs, reason);
    else this.text.append(text);
    if (typeof reason !== "string") return;
    this.card.classList.remove("busy");
    const ends = { stop: "ended", length: "token limit" };
    this.end.textContent = this.characters.length ? (ends[reason] ?? "") : "no text";
  }

  addTokens({ tokens, token_logprobs: values, top_logprobs: tops, text_offset: offsets }, reason) {
    this.base ??= offsets[0] ?? null;
    const first = Math.max(this.tokens.length - 1, 0); // the last one may have got more characters
    for (const [index, token] of tokens.entries()) {
      const element = newElement("span", "token");
      const offset = offsets[index] - this.base;
      const found = { token, logprob: values[index], tops: tops[index], offset, element };
      alternativesOf.set(element, found);
      element.classList.toggle("unlikely", Math.exp(found.logprob) < UNLIKELY);
      element.tabIndex = this.tokens.length ? -1 : 0;
      this.tokens.push(found);
      this.text.append(element);
    }
    if (this.tokens.length) byId("tokens-hint").hidden = false;
    for (let index = first; index < this.tokens.length; index++) this.write(index);
    const last = this.tokens.at(-1);
    if (reason === "stop" && last?.element.textContent === "") {
      last.element.classList.add("special"); // an end-of-sequence token, which has no text
      last.element.textContent = ` ${last.token}`;
    }
  }

  write(index) {
    const { offset, element } = this.tokens[index];
    const end = this.tokens[index + 1]?.offset ?? this.characters.length;
    element.textContent = this.characters.slice(offset, end).join("");
  }
}

function clearAnswer() {
  hideAlternatives();
  setText("error", "");
  setText("status", "");
  byId("cards").replaceChildren();
  byId("figures").hidden = true;
  byId("tokens-hint").hidden = true;
}

function setBusy(isBusy) {
  byId("cards").setAttribute("aria-busy", String(isBusy));
  byId("generate").setAttribute("aria-disabled", String(isBusy));
  if (!isBusy) {
    if (document.activeElement === byId("stop")) byId("generate").focus();
    for (const card of document.querySelectorAll(".busy")) card.classList.remove("busy");
  }
  byId("stop").disabled = !isBusy;
}

export function show(error) {
  const isKnown = error instanceof Problem;
  const own = `The page has an error of its own (${error}): reload it.`;
  setText("error", isKnown ? error.message : own);
  if (!isKnown) console.error(error);
}
