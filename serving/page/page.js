// The page of `edgeseq serve`: it calls the server's API and shows what comes.

const EXAMPLES = { "demo-gpt2": "Once upon a time,", "demo-t5": "pronounce: winter" };
const MAX_TOKENS = "64"; // of completions; tasks have their own
const LOGPROBS = 5; // alternatives of each token
const UNLIKELY = 0.02; // tokens below this probability are marked
const KEY = "edgeseq-key";

const byId = (id) => document.getElementById(id);

// A message for the user, in one sentence.
class Problem extends Error {}

// ---- The server ----

let apiKey = storedKey();

function storedKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // the browser forbids storage: the key is kept in memory alone
  }
}

function useKey(key) {
  apiKey = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // as above
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer: check that edgeseq serve is running.");
  }
}

// Return the response to a request: GET, or POST with a body. An error becomes a Problem.
async function call(path, body, signal) {
  const headers = apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
  const options = { headers, signal };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  const response = await reach(path, options);
  if (response.ok) return response;
  if (response.status === 401) {
    byId("access").hidden = false;
    byId("key").focus();
    throw new Problem(apiKey ? "The API key is wrong: enter it again." : "Enter the API key.");
  }
  throw new Problem(await messageOf(response));
}

async function messageOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `The server answered with status ${response.status}: look at its log.`;
  }
}

// Yield the JSON of each event of a stream, until [DONE].
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(ended);
    if (done) ended();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return;
      if (!line.startsWith("data: ")) continue; // a comment, or the line between two events
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Problem(event.error.message);
      yield event;
    }
  }
}

function ended(error) {
  if (error?.name === "AbortError") throw error;
  throw new Problem("The server has ended the connection: the text is incomplete, try again.");
}

// ---- The form ----

let models = [];
let tasks = [];

const model = () => models.find((found) => found.id === byId("model").value);
const task = () => tasks.find((found) => found.id === byId("task").value);

async function loadModels() {
  for (;;) {
    const chosen = byId("model").value;
    models = (await (await call("/v1/models")).json()).data;
    byId("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
    if (models.some(({ id }) => id === chosen)) byId("model").value = chosen;
    else if (models.length) modelChanged();
    const health = await (await reach("/health")).json();
    if (health.status === "ok") break;
    if (health.error) throw new Problem(health.error.message); // the server is shutting down
    if (health.status === "error") {
      throw new Problem("The server could not load all of its models: look at its log.");
    }
    setText("status", "The models are being loaded.");
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  setText("status", "");
}

async function start() {
  setText("error", "");
  try {
    tasks = (await (await call("/v1/tasks")).json()).data;
    await loadModels();
    byId("access").hidden = true;
  } catch (error) {
    show(error);
  }
}

// Offer the tasks and the search that fit the model.
function modelChanged() {
  const { id, kind } = model();
  const chosen = byId("task").value;
  const fitting = tasks.filter(({ forms }) => kind in forms);
  byId("task").replaceChildren(
    new Option("Complete the prompt", ""),
    ...fitting.map((found) => new Option(found.title, found.id)),
  );
  if (kind === "encoder-decoder") byId("task").options[0].text = "Answer the prompt";
  if (fitting.some((found) => found.id === chosen)) byId("task").value = chosen;
  taskChanged();
  const prompt = byId("prompt");
  if (prompt && ["", ...Object.values(EXAMPLES)].includes(prompt.value)) {
    prompt.value = EXAMPLES[id] ?? "";
  }
}

// Show the fields of the task, with the text that was written before.
function taskChanged() {
  const found = task();
  const names = found?.fields ?? ["prompt"];
  const before = byId("inputs").querySelector("textarea").value;
  const fields = names.flatMap((name, index) => {
    const label = document.createElement("label");
    const words = name.replaceAll("_", " ");
    label.textContent = words[0].toUpperCase() + words.slice(1);
    label.htmlFor = name;
    const field = document.createElement("textarea");
    field.id = name;
    field.rows = index ? 1 : 6;
    field.value = index ? (found.defaults[name] ?? "") : before;
    field.setAttribute("aria-describedby", "keys-hint");
    return [label, field];
  });
  byId("inputs").replaceChildren(...fields);
  byId("search").value =
    found ? "task" : model().kind === "encoder-decoder" ? "greedy" : "sampling";
  const limit = byId("max_tokens");
  if (found && limit.value === MAX_TOKENS) limit.value = "";
  if (!found && limit.value === "") limit.value = MAX_TOKENS;
  showOptions();
}

// Show the options that have an effect; `valuesOf` reads only these.
function showOptions() {
  const found = task();
  const search = byId("search").value;
  const output = found ? "text" : byId("output").value;
  const isFree = output !== "choices";
  const samples = isFree && search === "sampling";
  byId("options").hidden = Boolean(found?.forms[model().kind].labels.length);
  byId("search").options[0].hidden = !found;
  showField("output", !found);
  showField("search", isFree);
  showField("choices", output === "choices");
  showField("schema", output === "json_schema");
  showField("max_tokens", isFree);
  showField("n", isFree && !found && (search === "sampling" || search === "beams"));
  showField("num_beams", isFree && search === "beams");
  for (const id of ["temperature", "top_p", "top_k", "seed"]) showField(id, samples);
  showField("stops", isFree);
  showField("logprobs", isFree && !found);
}

function showField(id, isShown) {
  byId(id).parentElement.hidden = !isShown;
}

function searchChanged() {
  // All beams are shown, unless the user has asked for another number of texts.
  if (byId("search").value === "beams" && byId("n").value === "1") {
    byId("n").value = byId("num_beams").value;
  }
  showOptions();
}

const isShown = (id) => byId(id).closest("[hidden]") === null;
const labelOf = (id) => document.querySelector(`label[for="${id}"]`).textContent;

// Return the number in a field; undefined if it is empty or has no effect.
function numberIn(id) {
  const field = byId(id);
  if (!isShown(id)) return undefined;
  if (field.validity.badInput) throw badField(id, `${labelOf(id)} is not a number: correct it.`);
  if (field.value === "") return undefined;
  const value = field.valueAsNumber;
  const kind = field.step === "1" ? "an integer" : "a number";
  const range = field.max ? `from ${field.min} to ${field.max}` : `of at least ${field.min}`;
  const isWrong = field.validity.rangeUnderflow || field.validity.rangeOverflow;
  if (isWrong || (field.step === "1" && !Number.isSafeInteger(value))) {
    throw badField(id, `${labelOf(id)} is ${field.value}; it must be ${kind} ${range}.`);
  }
  return value;
}

function linesIn(id) {
  return isShown(id) ? byId(id).value.split("\n").filter((line) => line !== "") : [];
}

function badField(id, message) {
  byId(id).focus();
  return new Problem(message);
}

// Return the request that the form describes: its path, its body and how its answer comes.
function requestInForm() {
  if (!model()) throw new Problem("There is no model yet: wait until one is loaded.");
  const found = task();
  const search = byId("search").value;
  const body = { model: model().id };
  const numbers = ["temperature", "top_p", "top_k", "seed", "num_beams"];
  for (const id of numbers) body[id] = numberIn(id);
  const stops = linesIn("stops").map(unescaped);
  if (found) {
    for (const name of found.fields) body[name] = byId(name).value;
    body.max_new_tokens = numberIn("max_tokens");
    if (stops.length) body.stop_strings = stops;
    if (isShown("search") && search !== "task") body.do_sample = search === "sampling";
    return { path: `/v1/tasks/${found.id}`, body, form: "task" };
  }
  body.prompt = byId("prompt").value;
  const path = "/v1/completions";
  if (isShown("choices")) {
    body.choices = linesIn("choices");
    if (!body.choices.length) {
      throw badField("choices", "There are no choices: write one on each line.");
    }
    return { path, body, form: "choices" };
  }
  body.max_tokens = numberIn("max_tokens");
  body.n = numberIn("n");
  if (stops.length) body.stop = stops;
  if (search === "greedy") body.temperature = 0;
  if (isShown("schema")) body.json_schema = schemaInForm();
  if (byId("logprobs").checked) body.logprobs = LOGPROBS;
  if (search === "beams" && body.logprobs) return { path, body, form: "whole" };
  body.stream = true;
  body.stream_options = { include_usage: true };
  return { path, body, form: "stream" };
}

function unescaped(line) {
  const characters = { n: "\n", t: "\t", "\\": "\\" };
  return line.replace(/\\([nt\\])/g, (_, letter) => characters[letter]);
}

function schemaInForm() {
  try {
    return JSON.parse(byId("schema").value);
  } catch (error) {
    throw badField("schema", `The JSON Schema is not valid JSON (${error.message}): correct it.`);
  }
}

// ---- The answer ----

let running = null; // the AbortController of the request that is being answered

async function generate() {
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

// Times and numbers of tokens of one request.
class Figures {
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

function show(error) {
  const isKnown = error instanceof Problem;
  const own = `The page has an error of its own (${error}): reload it.`;
  setText("error", isKnown ? error.message : own);
  if (!isKnown) console.error(error);
}

// ---- Alternatives of a token ----

const alternativesOf = new WeakMap(); // element of a token -> its probabilities
let shown = null;

function showAlternatives(element) {
  if (element === shown) return;
  hideAlternatives();
  shown = element;
  element.classList.add("shown");
  const { token, logprob, tops } = alternativesOf.get(element);
  const panel = byId("alternatives");
  setText("alternatives-title", `${spelled(token)} has ${percent(Math.exp(logprob))}`);
  const rows = Object.entries(tops ?? {}).map(([other, value]) => {
    const row = newElement("tr", other === token ? "chosen" : "");
    row.append(newElement("td", "", spelled(other)));
    row.append(newElement("td", "", percent(Math.exp(value))));
    return row;
  });
  panel.querySelector("tbody").replaceChildren(...rows);
  panel.hidden = false;
  // Below the token, without a gap, so that the pointer can reach the table.
  const body = document.body.getBoundingClientRect();
  const place = [...element.getClientRects()].at(-1) ?? element.getBoundingClientRect();
  const left = Math.min(place.left - body.left, body.width - panel.offsetWidth - 8);
  panel.style.left = `${Math.max(left, 8)}px`;
  panel.style.top = `${place.bottom - body.top}px`;
}

function hideAlternatives() {
  shown?.classList.remove("shown");
  shown = null;
  byId("alternatives").hidden = true;
}

function sayAlternatives(element) {
  const { token, logprob, tops } = alternativesOf.get(element);
  const others = Object.entries(tops ?? {}).filter(([other]) => other !== token);
  const list = others.map(([other, value]) => `${spelled(other)} ${percent(Math.exp(value))}`);
  const chosen = `${spelled(token)} ${percent(Math.exp(logprob))}`;
  setText("spoken", `${chosen}. Alternatives: ${list.join(", ")}`);
}

// Return a token with its spaces and line breaks as visible characters.
function spelled(token) {
  return token
    .replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length))
    .replaceAll("\n", "⏎")
    .replaceAll("\t", "⇥");
}

function percent(probability) {
  const value = 100 * probability;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  return `${value.toFixed(value < 1 ? 2 : 1)} %`;
}

// Move the focus to another token of the same text.
function moveToToken(event, element) {
  const tokens = [...element.parentElement.querySelectorAll(".token:not(:empty)")];
  const index = tokens.indexOf(element);
  const last = tokens.length - 1;
  const targets = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: last };
  const target = targets[event.key];
  if (target === undefined) return;
  event.preventDefault();
  const next = tokens[target];
  if (!next) return;
  element.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

// ---- Elements and events ----

function newElement(name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}

function setText(id, text) {
  byId(id).textContent = text;
}

byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (byId("access").hidden) {
    await generate();
  } else {
    useKey(byId("key").value.trim());
    await start();
  }
});
byId("stop").addEventListener("click", () => running?.abort());
byId("model").addEventListener("change", modelChanged);
byId("task").addEventListener("change", taskChanged);
byId("output").addEventListener("change", showOptions);
byId("search").addEventListener("change", searchChanged);

document.addEventListener("keydown", (event) => {
  const token = event.target.closest(".token");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    byId("form").requestSubmit();
  } else if (event.key === "Escape") {
    if (running) running.abort();
    else hideAlternatives();
  } else if (token) {
    moveToToken(event, token);
  }
});
// Not pointerover, which also comes when the table is hidden above a token.
document.addEventListener("pointermove", (event) => {
  const token = event.target.closest(".token");
  if (token) showAlternatives(token);
  else if (!event.target.closest("#alternatives") && shown !== document.activeElement) {
    hideAlternatives();
  }
});
byId("cards").addEventListener("focusin", (event) => {
  const token = event.target.closest(".token");
  if (!token) return;
  showAlternatives(token);
  sayAlternatives(token);
});
byId("cards").addEventListener("focusout", hideAlternatives);

// In a narrow window, options would stand between the prompt and the answer.
byId("options").open = !matchMedia("(max-width: 56rem)").matches;
await start();
