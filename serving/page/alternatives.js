// The table of the alternatives of a token.

import { byId, newElement, percent, setText, spelled } from "./elements.js";

export const alternativesOf = new WeakMap(); // element of a token -> its probabilities
let shown = null;

export function showAlternatives(element) {
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

// Show what the pointer points at; a token that has the focus keeps its table.
export function pointAt(element) {
  const token = element.closest(".token");
  if (token) showAlternatives(token);
  else if (!element.closest("#alternatives") && shown !== document.activeElement) {
    hideAlternatives();
  }
}

export function hideAlternatives() {
  shown?.classList.remove("shown");
  shown = null;
  byId("alternatives").hidden = true;
}

export function sayAlternatives(element) {
  const { token, logprob, tops } = alternativesOf.get(element);
  const others = Object.entries(tops ?? {}).filter(([other]) => other !== token);
  const list = others.map(([other, value]) => `${spelled(other)} ${percent(Math.exp(value))}`);
  const chosen = `${spelled(token)} ${percent(Math.exp(logprob))}`;
  setText("spoken", `${chosen}. Alternatives: ${list.join(", ")}`);
}

// Move the focus to another token of the same text.
export function moveToToken(event, element) {
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
