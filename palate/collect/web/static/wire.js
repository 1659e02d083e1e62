// Asks the server, and says in words what went wrong.

// After so many milliseconds without a reply the server counts as out of reach.
const PATIENCE = 20_000;

/** Nothing came back, or half a reply: what was sent may have arrived or not. */
export class Unreachable extends Error {}

/** The server said no, in words, with an HTTP status. */
export class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

/** The JSON reply to a GET, or to a POST where there is a body. */
export async function ask(path, body) {
  const sending = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  let reply, said;
  try {
    reply = await fetch(path, { ...sending, headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    said = await reply.json();
  } catch (error) {
    if (reply && !reply.ok) throw new Refused(reply.status, unexplained(reply.status));
    throw new Unreachable(String(error));
  }
  if (!reply.ok) throw new Refused(reply.status, said.error || unexplained(reply.status));
  return said;
}

function unexplained(status) {
  return `The server answered with status ${status} and no reason. Reload the page; if it comes again, tell whoever invited you.`;
}
