// The form: models, tasks and options, and the request that they describe.

import { byId, setText } from "./elements.js";
import { Problem, call, reach } from "./server.js";

const EXAMPLES = { "demo-gpt2": "Once upon a time,", "demo-t5": "pronounce: winter" };
const MAX_TOKENS = "64"; // of completions; tasks have their own
const LOGPROBS = 5; // alternatives of each token

let models = [];
let tasks = [];

const model = () => models.find((found) => found.id === byId("model").value);
const task = () => tasks.find((found) => found.id === byId("task").value);

export async function loadForm() {
  tasks = (await (await call("/v1/tasks")).json()).data;
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

// Offer the tasks and the search that fit the model.
export function modelChanged() {
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
export function taskChanged() {
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
export function showOptions() {
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

export function searchChanged() {
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
  byId("options").open = true; // all of these fields are options
  byId(id).focus();
  return new Problem(message);
}

// Return the request that the form describes: its path, its body and how its answer comes.
export function requestInForm() {
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
