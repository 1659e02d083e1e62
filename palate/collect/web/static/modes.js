// The modes: what each asks, the answers that one key gives, and those that are put together from several.
//
// choices: answers given by one key, as {words, keys, hint, area, answer}.
// rows:    things that each get a value before the answer can be sent, as {name, values}.
// writes:  the text to begin with where the answer is written, null where nothing is (yet) written.

/** The name of a place: A, B, C, … in the order shown. */
export const letter = (place) => String.fromCharCode(65 + place);

const preference = (words, keys, hint, area, degree, both_bad = false) => ({
  words,
  keys,
  hint,
  area,
  answer: { kind: "preference", degree, both_bad },
});

const PAIR = [
  preference("A much better", ["Shift+ArrowLeft", "1"], "⇧ ←", "first-much", -3),
  preference("A better", ["ArrowLeft", "2"], "←", "first", -2),
  preference("A slightly better", ["3"], "3", "first-slightly", -1),
  preference("Tie", ["ArrowDown", "4"], "↓", "tie", 0),
  preference("B slightly better", ["5"], "5", "second-slightly", 1),
  preference("B better", ["ArrowRight", "6"], "→", "second", 2),
  preference("B much better", ["Shift+ArrowRight", "7"], "⇧ →", "second-much", 3),
  preference("Both bad", ["x"], "X", "bad", 0, true),
];

const THUMBS = [
  { words: "Bad", keys: ["ArrowDown", "ArrowLeft"], hint: "↓", area: "first", answer: { kind: "thumb", up: false } },
  { words: "Good", keys: ["ArrowUp", "ArrowRight"], hint: "↑", area: "second", answer: { kind: "thumb", up: true } },
];

const none = () => [];
const nothing = () => null;

export const MODES = {
  pair: { asks: "Which answer is better?", choices: () => PAIR, rows: none, writes: nothing },
  thumbs: { asks: "Is this a good answer?", choices: () => THUMBS, rows: none, writes: nothing },
  ranking: {
    asks: "Put the answers in order: 1 is the best, equal numbers are ties.",
    choices: none,
    rows: (item) => item.places.map((_, place) => ({ name: `Rank of ${letter(place)}`, values: upTo(item.places.length) })),
    writes: nothing,
    answer: (item, draft) => ({ kind: "order", ranks: dense(draft.values) }),
  },
  rating: {
    asks: "Rate this answer.",
    choices: none,
    rows: (item) => item.attributes.map(scaleOf),
    writes: nothing,
    answer: (item, draft) => ({
      kind: "scores",
      scores: Object.fromEntries(item.attributes.map((one, row) => [scaleOf(one).name, draft.values[row]])),
    }),
  },
  demonstration: {
    asks: "Write the best answer you can.",
    choices: none,
    rows: none,
    writes: () => "",
    answer: (item, draft) => ({ kind: "written", text: draft.text }),
  },
  edit: {
    asks: "Choose the better answer, then make it as good as you can.",
    choices: (item, draft) => (chosen(item, draft) === null ? item.places.map((_, place) => editing(item, place)) : []),
    rows: none,
    writes: (item, draft) => (chosen(item, draft) === null ? null : item.places[chosen(item, draft)].text),
    answer: (item, draft) => ({ kind: "edited", of: chosen(item, draft), text: draft.text }),
  },
};

/** The place whose text is edited, null before it is chosen; a single answer needs no choosing. */
export const chosen = (item, draft) => (item.mode === "edit" ? (item.places.length === 1 ? 0 : draft.of) : null);

function editing(item, place) {
  const arrows = item.places.length === 2 ? [["ArrowLeft"], ["ArrowRight"]][place] : [];
  const hint = ["←", "→"][arrows.length ? place : 2] ?? String(place + 1);
  return { words: `Edit ${letter(place)}`, keys: [...arrows, String(place + 1)], hint, area: "", edits: place };
}

const upTo = (most) => Array.from({ length: most }, (_, at) => at + 1);

/** An attribute's name and values; 1 to 5 where only its name is given. */
function scaleOf(attribute) {
  const { name, low = 1, high = 5 } = typeof attribute === "string" ? { name: attribute } : attribute;
  return { name, values: Array.from({ length: high - low + 1 }, (_, at) => low + at) };
}

/** Ranks from 0 without a gap: 1, 1, 4 gives 0, 0, 1. */
function dense(values) {
  const given = [...new Set(values)].sort((one, other) => one - other);
  return values.map((value) => given.indexOf(value));
}
