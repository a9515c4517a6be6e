// Small helpers for elements and their texts.

export const byId = (id) => document.getElementById(id);

export function newElement(name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}

export function setText(id, text) {
  byId(id).textContent = text;
}

// Return a token with its spaces and line breaks as visible characters.
export function spelled(token) {
  return token
    .replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length))
    .replaceAll("\n", "⏎")
    .replaceAll("\t", "⇥");
}

export function percent(probability) {
  const value = 100 * probability;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  return `${value.toFixed(value < 1 ? 2 : 1)} %`;
}
