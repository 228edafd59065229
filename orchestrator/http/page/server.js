/** Requests to the server that this page came from, whatever path it is behind. */

const STORED = "outrider.key";
const AWAY = "the server cannot be reached";

/** What the server refused, or what failed on the way, in one sentence; `status` is 0 where nothing was answered. */
export class Refusal extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

let key = "";
try {
  key = sessionStorage.getItem(STORED) ?? "";
} catch {
  // A browser that stores nothing asks for it again after a reload.
}

/** The API key that is sent with each request, empty for none. */
export const getKey = () => key;

export function setKey(value) {
  key = value;
  try {
    sessionStorage.setItem(STORED, value);
  } catch {
    // As above.
  }
}

export async function get(path) {
  return (await ask(path, {})).json();
}

export async function post(path, body, signal) {
  return (await ask(path, withBody(body, signal))).json();
}

/** Yields the events of a stream as objects. Throws Refusal, and something else once `signal` is aborted. */
export async function* events(path, body, signal) {
  const answer = await ask(path, withBody(body, signal));
  let rest = "";
  for await (const part of chunksOf(answer.body.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + part).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Refusal(event.error.message);
      yield event;
    }
  }
}

function withBody(body, signal) {
  return { method: "POST", body: JSON.stringify(body), signal, headers: { "content-type": "application/json" } };
}

async function ask(path, options) {
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refusal(AWAY);
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw new Refusal(told?.error?.message ?? `the server answered ${answer.status}`, answer.status);
}

/** Yields what a stream holds: not every browser iterates over one. */
async function* chunksOf(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refusal("the answer was cut off");
  } finally {
    reader.cancel().catch(() => {});
  }
}
