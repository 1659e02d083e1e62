// Draws an item: the prompt, the answers side by side, what marks them, and the field where an answer is written.

import { differences } from "./differences.js";
import { byId, element, prose } from "./elements.js";
import { MODES, chosen, letter } from "./modes.js";

const ROLES = { user: "Prompt", assistant: "Assistant", system: "Instructions" };

/** Fills the page with an item. `on` takes what is marked and written: value(row, value), text(text). */
export function draw(item, draft, compares, on) {
  byId("question").textContent = MODES[item.mode].asks;
  drawPrompt(item.messages);
  drawPlaces(item, draft, compares, on);
}

/** Draws the answers anew, and leaves the prompt as it is. */
export function drawPlaces(item, draft, compares, on) {
  const marked = compares ? compared(item.places) : null;
  const panes = item.places.map((place, at) => pane(item, draft, at, marked?.[at] ?? content(place), on));
  const written = MODES[item.mode].writes(item, draft);
  if (written !== null && item.places.length < 2) panes.push(sheet(draft, "Your answer", on));
  const places = byId("places");
  places.className = `places ${item.mode}`;
  places.dataset.count = panes.length;
  places.replaceChildren(...panes);
  const silent = compares && item.places.length > 1 && !marked;
  byId("remark").textContent = silent ? "These answers have no words in common, or are too long to compare." : "";
}

/** Shows which values are marked, and which row the digits go to. */
export function drawValues(draft, cursor) {
  for (const row of document.querySelectorAll("[data-row]")) {
    const at = Number(row.dataset.row);
    row.classList.toggle("cursor", at === cursor);
    for (const button of row.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Number(button.textContent) === draft.values[at]));
    }
  }
}

/** A row of values to mark one of. */
export function values(row, at, on) {
  const buttons = row.values.map((value) =>
    element("button", { type: "button", textContent: value, onclick: () => on.value(at, value) }),
  );
  return element("div", { className: "values", role: "group", "aria-label": row.name }, ...buttons);
}

function drawPrompt(messages) {
  const several = messages.length > 1;
  const turns = messages.map(({ role, html }) =>
    element(
      "div",
      { className: `message ${role}` },
      element("h2", { textContent: several && role === "user" ? "User" : (ROLES[role] ?? role) }),
      prose(html),
    ),
  );
  const prompt = byId("prompt");
  prompt.replaceChildren(...turns);
  prompt.classList.remove("whole");
  // The last turn is what is to be answered.
  prompt.scrollTop = turns.at(-1).offsetTop - prompt.offsetTop;
  const hides = prompt.scrollHeight > prompt.clientHeight + 1;
  prompt.tabIndex = hides ? 0 : -1;
  byId("whole").hidden = !hides;
}

function pane(item, draft, place, content, on) {
  const name = `Answer ${letter(place)}`;
  const edits = chosen(item, draft) === place && item.places.length > 1;
  const row = item.mode === "ranking" ? MODES.ranking.rows(item)[place] : null;
  const title = { id: `place-${place}`, textContent: item.places.length > 1 ? name : "Answer" };
  const head = element("header", {}, element("h2", title));
  if (row) head.append(values(row, place, on));
  const made = element(
    "article",
    { className: `pane place-${place}`, "aria-labelledby": `place-${place}` },
    head,
    edits ? field(draft, `Your version of ${name}`, on) : content,
  );
  if (row) made.dataset.row = place;
  return made;
}

/** An answer as prose; where there is nothing to see, that is said, or it would look as if it had not come. */
function content(place) {
  return place.text.trim() ? prose(place.html) : element("p", { className: "remark", textContent: "(An answer without text.)" });
}

function sheet(draft, name, on) {
  const head = element("header", {}, element("h2", { textContent: name }));
  return element("article", { className: "pane", "aria-label": name }, head, field(draft, name, on));
}

function field(draft, name, on) {
  return element("textarea", {
    id: "field",
    className: "field",
    "aria-label": name,
    "aria-describedby": "field-keys",
    rows: 10,
    dir: "auto",
    value: draft.text,
    oninput: (event) => on.text(event.target.value),
  });
}

/** Each answer with the words marked that the first one (of the first: the second one) does not have. */
function compared(places) {
  if (places.length < 2) return null;
  const pairs = places.slice(1).map((place) => differences(places[0].text, place.text));
  if (pairs.includes(null)) return null;
  return [pairs[0][0], ...pairs.map((pair) => pair[1])].map(raw);
}

function raw(runs) {
  const words = runs.map(({ text, only }) => (only ? element("mark", { textContent: text }) : text));
  return element("div", { className: "raw", dir: "auto" }, ...words);
}
