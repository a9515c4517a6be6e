// The page of `edgeseq serve`: it calls the server's API and shows what comes.

import {
  hideAlternatives,
  moveToToken,
  pointAt,
  sayAlternatives,
  showAlternatives,
} from "./alternatives.js";
import { generate, show, stop } from "./answer.js";
import { byId, setText } from "./elements.js";
import { loadForm, modelChanged, searchChanged, showOptions, taskChanged } from "./form.js";
import { useKey } from "./server.js";

async function start() {
  setText("error", "");
  try {
    await loadForm();
    byId("access").hidden = true;
  } catch (error) {
    show(error);
  }
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
byId("stop").addEventListener("click", stop);
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
    if (!stop()) hideAlternatives();
  } else if (token) {
    moveToToken(event, token);
  }
});
// Not pointerover, which also comes when the table is hidden above a token.
document.addEventListener("pointermove", (event) => pointAt(event.target));
byId("cards").addEventListener("focusin", (event) => {
  const token = event.target.closest(".token");
  if (!token) return;
  showAlternatives(token);
  sayAlternatives(token);
});
byId("cards").addEventListener("focusout", hideAlternatives);
addEventListener("resize", hideAlternatives);

// In a narrow window, options would stand between the prompt and the answer.
byId("options").open = !matchMedia("(max-width: 56rem)").matches;
await start();
