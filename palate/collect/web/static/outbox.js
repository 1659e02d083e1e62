// What was answered and is not yet known to be stored: kept in the browser, sent in order, forgotten when acknowledged.
//
// Each entry is one key of localStorage, written before the page goes on: a reload, a crash of the tab or hours without
// a connection lose nothing. A vote carries its id from the start, so that one sent twice is stored once.

import { Refused, Unreachable, ask } from "./wire.js";

// So many votes go in one request.
const BATCH = 20;

// Milliseconds until the next attempt, doubled with each failure.
const [SOONEST, LATEST] = [1_000, 15_000];

// With these it helps to wait and send the same again.
const PASSING = new Set([408, 429, 500, 502, 503, 504]);

// With these the page is no longer who it was, or the server serves another store: only opening the link anew helps.
const ESTRANGED = new Set([401, 403, 409]);

/** A random name for a vote (a UUID of version 4); `randomUUID` itself is there on https and localhost alone. */
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/**
 * The outbox of one rater for one store. Calls `changed()` when what it holds or what ails it changes,
 * `stored(reply)` with each reply of the server, and `refused(vote, reason)` for a vote that will never be stored.
 */
export class Outbox {
  #prefix;
  #who;
  #calls;
  #count = 0;
  #tried = new Set();
  #sending = null;
  #timer = 0;
  #wait = SOONEST;
  #batch = BATCH;
  #closed = false;

  /** How often what it holds has changed. */
  changes = 0;

  /** Why sending does not get on, in words; empty while it does. */
  problem = "";

  constructor(store, rater, calls) {
    this.#prefix = `palate/outbox/${encodeURIComponent(store)}/${encodeURIComponent(rater)}/`;
    this.#who = { rater, store };
    this.#calls = calls;
    // Votes of an earlier life of the page may have arrived.
    for (const entry of this.entries()) this.#tried.add(entry.key);
  }

  /** What waits, oldest first: {key, vote} or {key, undo}. */
  entries() {
    return Object.keys(localStorage)
      .filter((key) => key.startsWith(this.#prefix))
      .sort()
      .map((key) => ({ key, ...JSON.parse(localStorage.getItem(key)) }));
  }

  /** Keeps a vote, then sends it; throws where the browser's storage is full. */
  vote(vote) {
    this.#keep({ vote });
  }

  /** Takes a vote back: before it was ever sent by forgetting it, later by telling the server. */
  undo(id) {
    const entry = this.entries().find((one) => one.vote?.id === id);
    if (entry && !this.#tried.has(entry.key)) this.#forget(entry);
    else this.#keep({ undo: id });
    this.#calls.changed();
  }

  /** Sends what waits; done when all is sent or when it does not get on. */
  flush() {
    clearTimeout(this.#timer);
    this.#sending ??= this.#send().finally(() => (this.#sending = null));
    return this.#sending;
  }

  /** Sends no more: another tab does. */
  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  #keep(entry) {
    const order = `${String(Date.now()).padStart(15, "0")}-${String(this.#count++).padStart(6, "0")}`;
    localStorage.setItem(this.#prefix + order, JSON.stringify(entry));
    this.changes += 1;
    this.#calls.changed();
    this.flush();
  }

  #forget(entry) {
    localStorage.removeItem(entry.key);
    this.changes += 1;
  }

  async #send() {
    for (let waiting = this.entries(); waiting.length && !this.#closed; waiting = this.entries()) {
      try {
        await (waiting[0].undo ? this.#sendUndo(waiting[0]) : this.#sendVotes(waiting));
      } catch (error) {
        if (!(error instanceof Unreachable || error instanceof Refused)) throw error;
        this.#later(error);
        return;
      }
      this.problem = "";
      this.#wait = SOONEST;
      this.#calls.changed();
    }
  }

  async #sendVotes(waiting) {
    const until = waiting.findIndex((entry) => entry.undo);
    const batch = waiting.slice(0, Math.min(this.#batch, until < 0 ? waiting.length : until));
    for (const entry of batch) this.#tried.add(entry.key);
    let reply;
    try {
      reply = await ask("/api/votes", { ...this.#who, votes: batch.map((entry) => entry.vote) });
    } catch (error) {
      if (!(error instanceof Refused) || PASSING.has(error.status) || ESTRANGED.has(error.status)) throw error;
      // One of them spoils the whole request: send them one by one, and let go of the one to blame.
      if (batch.length > 1) {
        this.#batch = 1;
        return;
      }
      reply = { stored: [], refused: [{ id: batch[0].vote.id, reason: error.message }] };
    }
    const reasons = new Map(reply.refused.map((one) => [one.id, one.reason]));
    const settled = batch.filter(({ vote }) => reply.stored.includes(vote.id) || reasons.has(vote.id));
    if (!settled.length) throw new Unreachable("no vote of the request was acknowledged");
    for (const entry of settled) {
      this.#forget(entry);
      if (reasons.has(entry.vote.id)) this.#refuse(entry.vote, reasons.get(entry.vote.id));
    }
    this.#calls.stored(reply);
  }

  async #sendUndo(entry) {
    let reply = {};
    try {
      reply = await ask("/api/undo", { ...this.#who, id: entry.undo });
    } catch (error) {
      if (!(error instanceof Refused) || PASSING.has(error.status) || ESTRANGED.has(error.status)) throw error;
      this.#calls.refused(null, error.message);
    }
    this.#forget(entry);
    this.#calls.stored(reply);
  }

  #refuse(vote, reason) {
    for (const entry of this.entries()) if (entry.undo === vote.id) this.#forget(entry);
    this.#calls.refused(vote, reason);
  }

  #later(error) {
    this.problem = error instanceof Refused ? error.message : "No connection to the server.";
    this.#calls.changed();
    if (this.#closed || ESTRANGED.has(error.status)) return;
    this.#timer = setTimeout(() => this.flush(), this.#wait);
    this.#wait = Math.min(2 * this.#wait, LATEST);
  }
}
