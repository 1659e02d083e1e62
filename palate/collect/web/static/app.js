// The label page: one item after the other, answered by one key each, and every answer on its way to the store.

import { byId, counted, duration, element, prose } from "./elements.js";
import { draw, drawPlaces, drawValues, values } from "./item.js";
import { MODES, chosen } from "./modes.js";
import { Outbox, uuid } from "./outbox.js";
import { Refused, ask } from "./wire.js";

// Items held ahead: few near the end, where others want them, and enough for a tunnel under a train where there are many.
const [FEWEST, MOST] = [3, 12];

// Milliseconds between looks for new items, which also keep ours ours.
const LOOK = 20_000;

// So many milliseconds must lie between a key that found nothing to answer and one that answers: who presses on and on
// has not read what appears meanwhile.
const UNREAD = 700;

// Milliseconds after which it is said that something takes time.
const SLOW = 300;

let session = null;
let outbox = null;
let resting = false;

// The item on screen comes first; those behind it are there already.
let queue = [];
let draft = null;
let cursor = 0;
let compares = false;
let panel = "";

// What was answered since the page was loaded, newest last; what was before is asked from the server.
const past = [];
const drafts = new Map();

let counts = { done: 0, left: 0, pace_seconds: null };
let empty = false;
let stray = -Infinity;
let taking = 0;
let takenBack = Promise.resolve();
let looking = null;
let again = false;
const alerts = new Map();

const item = () => queue[0] ?? null;

// ---- time that counts: while the page can be seen

const clock = { spent: 0, since: null };

function watchTime() {
  const now = performance.now();
  if (clock.since !== null) clock.spent += now - clock.since;
  clock.since = document.visibilityState === "visible" && !resting ? now : null;
}

function startTime(spent = 0) {
  watchTime();
  clock.spent = spent;
}

// ---- from the server

async function start() {
  try {
    session = await ask("/api/session");
  } catch (error) {
    return cannotStart(error);
  }
  counts = session;
  const place = session.store;
  outbox = new Outbox(place, session.rater, {
    changed: showSaved,
    stored: (reply) => told(reply),
    refused: onRefused,
  });
  document.title = `${session.title} · Palate`;
  byId("title").textContent = session.owner ? session.title : `${session.title} · ${session.rater}`;
  byId("title").title = `You are ${session.rater}`;
  showGuidelines();
  takeOver(`palate/${place}/${session.rater}`);
  showSaved();
  outbox.flush();
  await look();
  setInterval(() => document.visibilityState === "visible" && look(), LOOK);
  return undefined;
}

function showGuidelines() {
  byId("guidelines-text").replaceChildren(prose(session.guideline.html));
  byId("open-guidelines").hidden = !session.guideline.html;
}

/** What the server said last of its guidelines; a page may outlive the ones that it began with. */
async function keepUp(version) {
  if (version === undefined || version === session.guideline.version) return;
  try {
    const { guideline } = await ask("/api/session");
    session.guideline = guideline;
    showGuidelines();
    alert("guidelines", "The guidelines have changed. G shows them.", true);
  } catch {
    // The next look asks again.
  }
}

function cannotStart(error) {
  const refused = error instanceof Refused;
  say(refused ? "This page cannot be opened" : "No connection to the server", [
    refused ? error.message : "Is `palate label` still running, and the tunnel open? This page tries again by itself.",
  ]);
  if (!refused) setTimeout(start, 3_000);
}

/** Asks for what is next; one question at a time, and once more where something was answered meanwhile. */
function look() {
  again = looking !== null;
  looking ??= fetchItems().finally(() => {
    looking = null;
    if (again) look();
  });
  return looking;
}

async function fetchItems() {
  if (resting) return;
  const ahead = Math.min(Math.max(Math.floor(counts.left / 5), FEWEST), MOST);
  const answered = outbox.entries().flatMap((entry) => (entry.vote ? [entry.vote.item] : []));
  const have = [...queue.map((one) => one.id), ...answered];
  const count = Math.max(ahead + 1 - queue.length, 0);
  const { changes } = outbox;
  try {
    const reply = await ask(`/api/next?count=${count}&have=${have.join(",")}&store=${session.store}`);
    await keepUp(reply.guideline);
    const known = new Set([...have, ...queue.map((one) => one.id)]);
    const fresh = reply.items.filter((one) => !known.has(one.id));
    const waited = !queue.length;
    queue.push(...fresh);
    empty = count > 0 && !queue.length;
    // With votes on their way nobody can tell whether the reply counts them.
    if (outbox.changes === changes && !outbox.entries().length) told(reply);
    if (waited) show();
    alert("asking", "");
  } catch (error) {
    if (error instanceof Refused) alert("asking", error.message);
    if (!queue.length) show();
  }
}

function told(reply) {
  for (const name of ["done", "left", "pace_seconds"]) if (reply[name] !== undefined) counts = { ...counts, [name]: reply[name] };
  showProgress();
}

function onRefused(vote, reason) {
  alert("refused", `An answer was not stored. ${reason}`, true);
  const at = past.findIndex((one) => one.vote.id === vote?.id);
  if (at < 0) return;
  // It may be asked again: what was written is not lost.
  const [{ item: of, draft: kept }] = past.splice(at, 1);
  drafts.set(of.id, kept);
}

// ---- one annotator, one tab

function takeOver(name) {
  const channel = new BroadcastChannel(name);
  channel.onmessage = rest;
  channel.postMessage("here");
}

function rest() {
  resting = true;
  outbox.close();
  watchTime();
  queue = [];
  closePanel();
  say("This page is open in another tab", ["Only one tab answers at a time, so that nothing is answered twice."], {
    words: "Go on here",
    does: () => location.reload(),
  });
}

// ---- answering

function answer(given, words) {
  if (taking) return tooSoon("Your last answer is being taken back.");
  const asked = item();
  const vote = {
    id: uuid(),
    item: asked.id,
    answer: given,
    tags: draft.tags,
    note: draft.note,
    guideline: session.guideline.version,
    seconds: Math.round(spentSeconds() * 10) / 10,
    at: Date.now() / 1000,
  };
  try {
    outbox.vote(vote);
  } catch {
    alert("full", "This browser's storage is full, so the answer could not be kept. Wait until what is kept was sent, or make room, and answer again.", true);
    return undefined;
  }
  past.push({ vote, item: asked, draft, spent: clock.spent });
  keepText(null);
  drafts.delete(asked.id);
  queue.shift();
  show(words);
  look();
  return undefined;
}

/** Says why a key was no answer; those that follow it closely are none either. */
function tooSoon(words) {
  stray = performance.now();
  byId("remark").textContent = words;
}

function spentSeconds() {
  watchTime();
  return clock.spent / 1000;
}

/** Sends what was put together from several values, or was written. */
function send() {
  const mode = MODES[item()?.mode];
  if (!mode?.answer) return;
  const rows = mode.rows(item());
  const open = rows.findIndex((_, row) => draft.values[row] === undefined);
  if (open >= 0) {
    cursor = open;
    drawValues(draft, cursor);
    speak(`${rows[open].name} is still open.`);
  } else if (mode.writes(item(), draft) !== null && !draft.text.trim()) {
    speak("Nothing is written yet. Write something, or skip with S.");
    byId("field").focus();
  } else if (rows.length || mode.writes(item(), draft) !== null) {
    answer(mode.answer(item(), draft), "Sent");
  }
}

function mark(row, value) {
  draft.values[row] = value;
  const rows = MODES[item().mode].rows(item());
  cursor = Math.min(row + 1, rows.length - 1);
  showCursor();
  speak(`${rows[row].name}: ${value}`);
  if (rows.length === 1) send();
}

function choose(choice) {
  if (choice.edits === undefined) return answer(choice.answer, choice.words);
  if (draft.from !== choice.edits) draft.text = item().places[choice.edits].text;
  draft.of = draft.from = choice.edits;
  return showAnswering(true);
}

function skip(reason) {
  closePanel();
  answer({ kind: "skipped", reason }, "Skipped");
}

async function undo() {
  if (!past.length) return undoEarlier();
  const last = past.pop();
  outbox.undo(last.vote.id);
  bringBack(last.item, last.draft, last.spent);
  outbox.flush();
  return undefined;
}

/** Takes back what was answered before the page was loaded: one after the other, and nothing is answered meanwhile. */
function undoEarlier() {
  if (!outbox) return takenBack;
  taking += 1;
  const slow = setTimeout(() => alert("taking", "Your last answer is being taken back …"), SLOW);
  takenBack = takenBack.then(takeBackEarlier).finally(() => {
    taking -= 1;
    clearTimeout(slow);
    if (!taking) alert("taking", "");
  });
  return takenBack;
}

async function takeBackEarlier() {
  await outbox.flush();
  if (outbox.entries().length) return speak("What is kept here must be sent before older answers can be taken back.");
  try {
    const { judgements } = await ask(`/api/history?limit=1&store=${session.store}`);
    if (!judgements.length) return speak("There is nothing to take back.");
    const back = await ask("/api/undo", { rater: session.rater, store: session.store, id: judgements[0].id });
    told(back);
    bringBack(back.item, { ...blank(), ...back.draft, from: back.draft.of ?? null });
  } catch (error) {
    speak(error instanceof Refused ? error.message : "No connection: older answers can be taken back when it is there again.");
  }
  return undefined;
}

function bringBack(back, was, spent = 0) {
  if (item() && draft) drafts.set(item().id, draft);
  queue = [back, ...queue.filter((one) => one.id !== back.id)];
  drafts.set(back.id, was);
  // Not into the field: the next U is to take back one more.
  show("Taken back", spent, false);
}

// ---- drafts: what is marked and written before it is sent

const blank = () => ({ tags: [], note: "", values: [], of: null, from: null, text: null });

const textKey = () => `palate/draft/${encodeURIComponent(session.store)}/${encodeURIComponent(session.rater)}`;

/** Keeps what is being written over a reload. */
function keepText(kept) {
  try {
    if (kept === null) localStorage.removeItem(textKey());
    else localStorage.setItem(textKey(), JSON.stringify({ item: item().id, draft: kept }));
  } catch {
    // The storage is full: it is still on screen, and sending says so.
  }
}

function draftOf(asked) {
  const kept = JSON.parse(localStorage.getItem(textKey()) ?? "null");
  const found = drafts.get(asked.id) ?? (kept?.item === asked.id ? kept.draft : blank());
  found.text ??= MODES[asked.mode].writes(asked, found);
  return found;
}

// ---- what is shown

const on = {
  value: mark,
  text: (text) => {
    draft.text = text;
    keepText(draft);
  },
};

/** Shows the item that is first now, or why there is none. */
function show(words = "", spent = 0, writes = true) {
  closePanel();
  const asked = item();
  startTime(spent);
  cursor = 0;
  draft = asked && draftOf(asked);
  showProgress();
  if (!asked) return showNone(words);
  byId("message").hidden = true;
  byId("asked").hidden = false;
  byId("answering").hidden = false;
  draw(asked, draft, compares, on);
  showAnswering();
  window.scrollTo(0, 0);
  byId(writes && byId("field") ? "field" : "question").focus({ preventScroll: true });
  speak(words && `${words}. Next item.`);
  return undefined;
}

/** The buttons and marks of the item on screen. */
function showAnswering(edited = false) {
  const mode = MODES[item().mode];
  if (edited) drawPlaces(item(), draft, compares, on);
  const writes = mode.writes(item(), draft) !== null;
  const rows = mode.rows(item());
  const choices = mode.choices(item(), draft);
  byId("field-keys").hidden = !writes;
  byId("rows").replaceChildren(
    ...(item().mode === "rating"
      ? rows.map((row, at) => {
          const line = element("div", { className: "row" }, element("span", { textContent: row.name }), values(row, at, on));
          line.dataset.row = at;
          return line;
        })
      : []),
  );
  const sends = writes || rows.length > 1 ? [button("Send", writes ? "Ctrl Enter" : "Enter", send, "send")] : [];
  byId("choices").className = `choices ${item().mode}`;
  byId("choices").replaceChildren(...choices.map((one) => button(one.words, one.hint, () => choose(one), one.area)), ...sends);
  drawValues(draft, cursor);
  showTools();
  if (edited && byId("field")) byId("field").focus();
}

function showTools() {
  const can = Boolean(item());
  const several = can && item().places.length > 1;
  const tools = [
    can && button("Skip", "S", () => toggle("skip"), "", panel === "skip"),
    button("Undo", "U", undo),
    can && session.tags.length && button(draft.tags.length ? `Reasons (${draft.tags.length})` : "Reasons", "R", () => toggle("tags"), "", panel === "tags"),
    can && button(draft.note ? "Note ✓" : "Note", "N", () => toggle("note"), "", panel === "note"),
    several && button("Differences", "D", compare, "", compares),
  ];
  byId("tools").replaceChildren(...tools.filter(Boolean));
}

function button(words, hint, does, area = "", pressed = null) {
  const made = element("button", { type: "button", className: area }, element("span", { textContent: words }));
  if (hint) made.append(" ", element("kbd", { textContent: hint, "aria-hidden": "true" }));
  if (pressed !== null) made.setAttribute("aria-pressed", String(pressed));
  // The second click of a double click is no second answer.
  made.addEventListener("click", (event) => event.detail < 2 && does());
  return made;
}

function showNone(words) {
  speak(words && `${words}.`);
  byId("answering").hidden = false;
  for (const name of ["rows", "choices"]) byId(name).replaceChildren();
  byId("field-keys").hidden = true;
  showTools();
  if (!empty) return say(outbox.problem ? "No connection" : "One moment …", outbox.problem ? [
    `${counted(waiting(), "answer")} kept in this browser will be sent by themselves, and the next item comes as soon as the server can be reached.`,
  ] : []);
  const { done, left, pace_seconds: pace } = progress();
  if (left) return say("Nothing is free just now", [
    `Others are looking at what is left (${counted(left, "item")}). What they leave comes to you by itself; keep this page open, or come back later.`,
  ]);
  if (!done) return say("There is nothing to judge", ["Nothing is asked of you at the moment. New items appear here by themselves."]);
  return say("That was the last one. Thank you!", [
    `You gave ${counted(done, "answer")}${pace ? `, in about ${duration(pace)} each` : ""}.`,
    session.experiment === "compare"
      ? "They say which of two models answers better; whoever invited you sees the result. You may close this page."
      : "They go to whoever invited you, and teach a model what a good answer is. You may close this page.",
    "New items, if there are any, appear here by themselves. U takes your last answer back.",
  ]);
}

function say(heading, paragraphs, offer = null) {
  const said = JSON.stringify([heading, paragraphs]);
  if (byId("message").dataset.said === said && !byId("message").hidden) return;
  byId("message").dataset.said = said;
  byId("asked").hidden = true;
  byId("prompt").replaceChildren();
  byId("places").replaceChildren();
  byId("answering").hidden = !session || resting;
  byId("question").textContent = heading;
  const lines = paragraphs.map((text) => element("p", { textContent: text }));
  if (offer) lines.push(element("button", { type: "button", className: "offer", textContent: offer.words, onclick: offer.does }));
  byId("message").replaceChildren(...lines);
  byId("message").hidden = false;
  byId("question").focus({ preventScroll: true });
}

function speak(words) {
  byId("spoken").textContent = words;
}

// ---- progress, saved, trouble

const waiting = () => outbox.entries().filter((entry) => entry.vote).length;

/** How far it is, with what is still being sent. */
function progress() {
  const entries = outbox?.entries() ?? [];
  const more = entries.reduce((sum, entry) => sum + (entry.vote ? 1 : -1), 0);
  return { ...counts, done: counts.done + more, left: Math.max(counts.left - more, 0) };
}

function showProgress() {
  const { done, left, pace_seconds: pace } = progress();
  const bar = byId("progress");
  bar.max = Math.max(done + left, 1);
  bar.value = done;
  bar.textContent = `${done} of ${done + left}`;
  const parts = [element("b", { textContent: `${done} of ${done + left}` })];
  if (pace && left) parts.push(element("span", { textContent: ` · ${duration(pace)} each · about ${duration(pace * left)} left` }));
  byId("pace").replaceChildren(...parts);
}

function showSaved() {
  if (!outbox) return;
  const count = waiting();
  const stuck = Boolean(outbox.problem) && outbox.entries().length > 0;
  const saved = byId("saved");
  saved.className = `saved ${stuck ? "stuck" : count ? "sending" : "done"}`;
  saved.textContent = stuck ? `${count} kept here, not sent yet` : count ? `${count} being sent` : "All saved";
  const plain = stuck && outbox.problem.startsWith("No connection");
  alert("sending", stuck && !plain ? `${outbox.problem} Your answers are kept in this browser.` : "");
  showProgress();
}

function alert(kind, words, closes = false) {
  if (words ? alerts.get(kind)?.words === words : !alerts.has(kind)) return;
  if (words) alerts.set(kind, { words, closes });
  else alerts.delete(kind);
  byId("alerts").replaceChildren(
    ...Array.from(alerts, ([name, one]) => {
      const line = element("p", { textContent: one.words });
      if (one.closes) line.append(" ", element("button", { type: "button", textContent: "Close", onclick: () => alert(name, "") }));
      return line;
    }),
  );
}

// ---- panels: reasons, note, why one skips

function toggle(name) {
  if (panel === name) closePanel();
  else openPanel(name);
}

function openPanel(name) {
  panel = name;
  const box = byId("panel");
  box.hidden = false;
  box.className = `panel ${name}`;
  ({ tags: drawTags, note: drawNote, skip: drawSkip })[name](box);
  showTools();
  (box.querySelector("textarea") ?? box).focus({ preventScroll: true });
}

function closePanel() {
  if (!panel) return;
  panel = "";
  const box = byId("panel");
  const held = box.contains(document.activeElement);
  box.hidden = true;
  box.replaceChildren();
  if (item()) showTools();
  if (held) byId("question").focus({ preventScroll: true });
}

function drawTags(box) {
  box.setAttribute("aria-label", "Reasons for your answer");
  const tags = session.tags.map((tag, at) => button(tag, at < 9 ? String(at + 1) : "", () => toggleTag(at), "", draft.tags.includes(tag)));
  box.replaceChildren(element("p", { textContent: "Mark any, then answer:" }), ...tags, button("Close", "Esc", closePanel, "quiet"));
}

function toggleTag(at) {
  const tag = session.tags[at];
  if (tag === undefined) return;
  draft.tags = draft.tags.includes(tag) ? draft.tags.filter((one) => one !== tag) : [...draft.tags, tag];
  const held = Array.from(byId("panel").children).indexOf(document.activeElement);
  drawTags(byId("panel"));
  byId("panel").children[held]?.focus();
  showTools();
}

function drawNote(box) {
  box.setAttribute("aria-label", "Note");
  const field = element("textarea", {
    value: draft.note,
    rows: 2,
    "aria-label": "A note to this item",
    placeholder: "A note to this item",
    oninput: (event) => (draft.note = event.target.value),
  });
  box.replaceChildren(field, button("Done", "Esc", closePanel, "quiet"));
}

function drawSkip(box) {
  box.setAttribute("aria-label", "Why do you skip it?");
  const field = element("input", { type: "text", "aria-label": "Another reason", placeholder: "Another reason, then Enter", maxLength: 500 });
  box.replaceChildren(
    element("p", { textContent: "Why do you skip it?" }),
    ...session.reasons.map((reason, at) => button(reason, String(at + 1), () => skip(reason))),
    field,
    button("No reason", "Enter", () => skip("")),
    button("Back", "Esc", closePanel, "quiet"),
  );
}

function compare() {
  compares = !compares;
  drawPlaces(item(), draft, compares, on);
  drawValues(draft, cursor);
  showTools();
}

// ---- keys

const COMMANDS = {
  s: () => item() && toggle("skip"),
  u: undo,
  r: () => item() && session.tags.length && toggle("tags"),
  n: () => item() && toggle("note"),
  d: () => item()?.places.length > 1 && compare(),
  g: () => session.guideline?.html && openDialog("guidelines"),
  "?": () => openDialog("keys"),
};

/** A key's name: "Shift+ArrowLeft", "x", and the same digit on any layout or pad. */
function nameOf(event) {
  if (event.key.startsWith("Arrow")) return (event.shiftKey ? "Shift+" : "") + event.key;
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  return digit && !event.shiftKey ? digit[1] : event.key.toLowerCase();
}

function onKey(event) {
  if (event.defaultPrevented || event.isComposing || resting || !session) return;
  const dialog = document.querySelector("dialog[open]");
  const name = nameOf(event);
  if (dialog) {
    if ((name === "g" && dialog.id === "guidelines") || (name === "?" && dialog.id === "keys")) dialog.close();
    return;
  }
  const handled = writing(event.target) ? inField(event, name) : pressed(event, name);
  if (handled) event.preventDefault();
}

const writing = (target) => target.matches("textarea, input:not([type=checkbox])");

function inField(event, name) {
  if (name === "escape") {
    if (panel) closePanel();
    else leaveField();
    return true;
  }
  if (name !== "enter" || event.repeat) return false;
  if (panel === "skip") skip(event.target.value.trim());
  else if (!event.ctrlKey && !event.metaKey) return false;
  else if (panel === "note") closePanel();
  else send();
  return true;
}

function leaveField() {
  byId("question").focus({ preventScroll: true });
}

/** What a key outside a field does; true where it did something. */
function pressed(event, name) {
  if ((event.ctrlKey || event.metaKey) && name === "enter" && !event.repeat && byId("field")) return send() ?? true;
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return event.repeat && name.includes("Arrow") && Boolean(item()) && !scrolls(event.target);
  const onButton = event.target.matches("button, a, summary") && (name === "enter" || name === " ");
  if (onButton || (name.includes("Arrow") && scrolls(event.target))) return false;
  if (name === "escape") return leave();
  if (!byId("keys-on").checked) return false;
  return inPanel(name) || onItem(name) || command(name);
}

/** A part that was reached by Tab and scrolls keeps the arrows for itself. */
const scrolls = (target) => target.matches("pre, table, .prompt") && target.matches(":focus-visible");

function leave() {
  if (panel) closePanel();
  else if (item() && chosen(item(), draft) !== null && draft.of !== null) {
    draft.of = null;
    showAnswering(true);
  } else return false;
  return true;
}

function inPanel(name) {
  const digit = Number(name) - 1;
  if (panel === "tags" && digit >= 0) toggleTag(digit);
  else if (panel === "skip" && session.reasons[digit]) skip(session.reasons[digit]);
  else if (panel === "skip" && name === "enter") skip("");
  // A digit that is no reason is no answer either.
  else return panel === "skip" && digit >= 0;
  return true;
}

function onItem(name) {
  const meant = item() && meaning(name);
  const burst = performance.now() - stray < UNREAD;
  if (!item() && ANSWERS.test(name)) stray = performance.now();
  if (!meant) return false;
  if (burst) tooSoon("That was not counted, for this item had only just come. Answer it now.");
  else meant();
  return true;
}

/** What answers or marks something in one of the modes. */
const ANSWERS = /^(Shift\+)?Arrow|^[0-9x]$/;

/** What a key does to the item on screen, null where it does nothing. */
function meaning(name) {
  const mode = MODES[item().mode];
  const choice = mode.choices(item(), draft).find((one) => one.keys.includes(name));
  const rows = mode.rows(item());
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[name];
  if (choice) return () => choose(choice);
  if (rows.length && step) return () => move(step, rows.length);
  if (rows[cursor]?.values.includes(Number(name)) && name.trim()) return () => mark(cursor, Number(name));
  if (name === "enter" && byId("field")) return () => byId("field").focus();
  if (name === "enter" && rows.length) return send;
  return null;
}

function move(step, count) {
  cursor = (cursor + step + count) % count;
  showCursor();
}

/** Marks where the digits go to, which may be out of sight. */
function showCursor() {
  drawValues(draft, cursor);
  document.querySelector(".cursor")?.scrollIntoView({ block: "nearest" });
}

function command(name) {
  if (!Object.hasOwn(COMMANDS, name)) return false;
  COMMANDS[name]();
  return true;
}

// ---- dialogs

function openDialog(name) {
  if (name === "keys") byId("key-list").replaceChildren(...keyLines().map(keyLine));
  byId(name).showModal();
}

/** Every key that does something now, with what it does. */
function keyLines() {
  const mode = MODES[item()?.mode];
  const rows = mode?.rows(item()) ?? [];
  const writes = mode && mode.writes(item(), draft) !== null;
  return [
    ...(mode?.choices(item(), draft) ?? []).map((one) => [one.keys.map(shown), one.words]),
    ...(rows.length ? [[["1 2 …"], "the value of the marked line"], [["← →"], "another line"]] : []),
    ...(rows.length > 1 ? [[["Enter"], "send"]] : []),
    ...(writes ? [[["Ctrl Enter"], "send"], [["Esc"], "leave the field, so that the keys work"]] : []),
    [["S"], "skip, with a reason"],
    [["U"], "take the last answer back, as often as you like"],
    ...(session.tags.length ? [[["R"], "reasons for the answer"]] : []),
    [["N"], "a note"],
    [["D"], "mark the words that differ"],
    [["Space"], "read on, with ⇧ back"],
    ...(session.guideline?.html ? [[["G"], "guidelines"]] : []),
    [["?"], "this list"],
  ];
}

function keyLine([keys, words]) {
  const names = keys.flatMap((key, at) => (at ? [" or ", element("kbd", { textContent: key })] : [element("kbd", { textContent: key })]));
  return element("div", {}, element("dt", {}, ...names), element("dd", { textContent: words }));
}

const shown = (key) => key.replace("Shift+", "⇧ ").replace("ArrowLeft", "←").replace("ArrowRight", "→").replace("ArrowUp", "↑").replace("ArrowDown", "↓").toUpperCase();

// ---- beginning

document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => {
  watchTime();
  if (session && !resting && document.visibilityState === "visible") outbox.flush().then(look);
});
window.addEventListener("online", () => session && outbox.flush().then(look));
// A page that comes back from the browser's memory knows nothing of what happened since.
window.addEventListener("pageshow", (event) => event.persisted && location.reload());
byId("open-guidelines").onclick = () => openDialog("guidelines");
byId("open-keys").onclick = () => openDialog("keys");
byId("whole").onclick = () => {
  byId("prompt").classList.add("whole");
  byId("whole").hidden = true;
};
for (const close of document.querySelectorAll("dialog .close")) close.onclick = () => close.closest("dialog").close();
byId("keys-on").checked = localStorage.getItem("palate/keys") !== "off";
byId("keys-on").onchange = (event) => localStorage.setItem("palate/keys", event.target.checked ? "on" : "off");
watchTime();
start();
