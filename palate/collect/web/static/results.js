// The result of a blind comparison, for its owner: who is preferred, how sure that is, and what a decision still needs.

import { byId, counted, element } from "./elements.js";
import { Refused, ask } from "./wire.js";

// Milliseconds between looks.
const LOOK = 10_000;

const percent = (share) => `${(100 * share).toFixed(1)} %`;

async function look() {
  try {
    show(await ask("/api/result"));
  } catch (error) {
    const refused = error instanceof Refused;
    byId("verdict").textContent = refused ? "There is no result to show" : "No connection to the server";
    byId("figures").replaceChildren(element("p", { textContent: refused ? error.message : "This page tries again by itself." }));
  }
  setTimeout(look, LOOK);
}

function show(result) {
  byId("verdict").textContent = verdict(result);
  const votes = result.wins_a + result.wins_b + result.ties;
  const rows = [
    [`${result.b} better`, result.wins_b],
    [`${result.a} better`, result.wins_a],
    ["Ties", result.ties],
    ["Skipped", result.skipped],
  ];
  byId("figures").replaceChildren(
    ...(votes ? [element("p", { textContent: certainty(result) }), range(result)] : []),
    element("dl", { className: "tally" }, ...rows.map(([name, count]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: count })))),
    element("p", { className: "remark", textContent: `${counted(votes, "vote")} on ${counted(result.prompts, "prompt")}. A tie is half a win. The interval holds at every look, so you may stop as soon as it is decided; an end fixed beforehand would give ${percent(result.planned_low)} to ${percent(result.planned_high)}.` }),
  );
}

function verdict({ a, b, decided, win_rate: rate, more_votes_needed: more, prompts }) {
  if (decided) return rate > 0.5 ? `${b} is preferred to ${a}.` : `${a} is preferred to ${b}.`;
  if (!prompts) return `${a} against ${b}: no votes yet.`;
  if (more === null) return `${a} and ${b} are too close to tell apart.`;
  return `Not decided yet: about ${counted(more, "more vote")} if it goes on like this.`;
}

const certainty = ({ b, win_rate: rate, low, high }) =>
  `${b} wins ${percent(rate)} (95 % interval ${percent(low)} to ${percent(high)}).`;

/** The interval on a line from 0 to 1, with one half marked. */
function range({ win_rate: rate, low, high }) {
  const line = element("div", { className: "range", role: "img", "aria-label": `Interval from ${percent(low)} to ${percent(high)}, one half is even` });
  for (const [name, from, to] of [["half", 0.5, 0.5], ["interval", low, high], ["rate", rate, rate]]) {
    const mark = element("span", { className: name });
    mark.style.left = `${100 * from}%`;
    mark.style.width = `${100 * (to - from)}%`;
    line.append(mark);
  }
  return line;
}

look();
