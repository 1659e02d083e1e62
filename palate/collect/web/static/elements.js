// Makes elements, and says what stands in them.

/** An element with properties (or attributes, where it has no such property) and children. */
export function element(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** The element of that id. */
export const byId = (id) => document.getElementById(id);

/** A box of prose from HTML that the server has made safe; the one place where HTML is taken as such. */
export function prose(html) {
  const box = element("div", { className: "prose", dir: "auto" });
  box.innerHTML = html;
  for (const block of box.querySelectorAll("pre, table")) block.tabIndex = 0; // They scroll sideways, by keys too.
  return box;
}

/** A duration in words, as in "40 s" or "1 h 5 min". */
export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

/** A number with its noun, as in "1 answer" or "3 answers". */
export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
