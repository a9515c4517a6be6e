// Requests to the server, and their errors.

import { byId } from "./elements.js";

const KEY = "edgeseq-key";

// A message for the user, in one sentence.
export class Problem extends Error {}

let apiKey = storedKey();

function storedKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // the browser forbids storage: the key is kept in memory alone
  }
}

export function useKey(key) {
  apiKey = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // as above
  }
}

export async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer: check that edgeseq serve is running.");
  }
}

// Return the response to a request: GET, or POST with a body. An error becomes a Problem.
export async function call(path, body, signal) {
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
export async function* eventsOf(response) {
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
