// What the page asks its server. All URLs are relative: it may be mounted anywhere.

const PATH = "_api/";

export class Refused extends Error {}

/** Returns the address of a document. */
export const url = (name, params = {}) => {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value));
  return `${PATH}${name}?${query}`;
};

async function answer(response) {
  let document = null;
  try { document = await response.json(); } catch { /* of a proxy, perhaps */ }
  if (!response.ok) throw new Refused(document?.detail ?? document?.title ?? `the server answered ${response.status}`);
  return document;
}

/** Returns a document. */
export const get = async (name, params) => answer(await fetch(url(name, params), { headers: { accept: "application/json" } }));

/** JSON as it was typed: a number may have more digits than those of JavaScript. */
export class TypedJSON {
  constructor(text) { this.text = text; }
}

const dump = (body) => `{${Object.entries(body).filter(([, value]) => value !== undefined).map(([name, value]) =>
  `${JSON.stringify(name)}:${value instanceof TypedJSON ? value.text : JSON.stringify(value)}`).join(",")}}`;

/** Has something done. */
export const act = async (name, body) => answer(await fetch(`${PATH}${name}`, {
  method: "POST",
  headers: { "content-type": "application/json", "x-durable-action": "1" },
  body: dump(body),
}));

const indicator = () => document.getElementById("live");
const WORDS = { on: "Live", wait: "Reconnecting", off: "Not live" };

function show(state) {
  const shown = indicator();
  if (shown.textContent === WORDS[state]) return;
  shown.dataset.state = state;
  shown.textContent = WORDS[state];
}

/** Milliseconds after which a stream that was refused is asked for again. */
const AGAIN = 5000;

/**
 * Has a stream open while somebody sees the page; returns a function that ends it. A browser has six
 * connections to a server for all of its tabs: those in the background must not hold them.
 */
function whileSeen(open) {
  let source = null;
  const change = () => {
    if (document.visibilityState !== "hidden") source ??= open();
    else if (source !== null) { source.close(); source = null; }
  };
  document.addEventListener("visibilitychange", change);
  change();
  return {
    again: () => { source?.close(); source = null; change(); },
    close: () => { document.removeEventListener("visibilitychange", change); source?.close(); },
  };
}

/** Reads an event stream of documents; returns a function that ends it. */
export function live(name, params, handlers) {
  let timer = null;
  const stream = whileSeen(() => {
    const source = new EventSource(url(name, params));
    source.onopen = () => show("on");
    source.onerror = () => {
      // Browsers try again by themselves, but not after an answer such as 502, of a proxy.
      const isRefused = source.readyState === EventSource.CLOSED;
      show(isRefused ? "off" : "wait");
      if (isRefused) timer = setTimeout(() => stream.again(), AGAIN);
    };
    for (const [kind, handle] of Object.entries(handlers)) {
      source.addEventListener(kind, (event) => { show("on"); handle(JSON.parse(event.data)); });
    }
    return source;
  });
  return () => { clearTimeout(timer); stream.close(); };
}

/** Reads the stream of a run: what its steps push, keep and take back. It may begin again: `reset`. */
export function follow(id, handlers) {
  const stream = whileSeen(() => {
    handlers.reset();
    const source = new EventSource(url("stream", { id }));
    for (const [kind, handle] of Object.entries(handlers)) {
      source.addEventListener(kind, (event) => handle(JSON.parse(event.data), source));
    }
    return source;
  });
  return stream.close;
}
