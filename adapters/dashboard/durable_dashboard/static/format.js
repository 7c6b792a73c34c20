import { h } from "./dom.js";

const UNITS = [[86400000, "d"], [3600000, "h"], [60000, "min"], [1000, "s"]];

/** Returns a duration in at most two units, such as "1 h 5 min" or "230 ms". */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  ms = Math.max(0, ms);
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10000) return `${(ms / 1000).toFixed(1)} s`;
  const at = UNITS.findIndex(([size]) => ms >= size);
  const [size, unit] = UNITS[at];
  const whole = Math.floor(ms / size);
  const [small, smallUnit] = UNITS[at + 1] ?? [null, null];
  const rest = small === null ? 0 : Math.floor((ms - whole * size) / small);
  return rest ? `${whole} ${unit} ${rest} ${smallUnit}` : `${whole} ${unit}`;
}

/** Returns a number with separators. */
export const count = (number) => (number ?? 0).toLocaleString("en");

export function bytes(number) {
  if (number < 1024) return `${number} B`;
  if (number < 1048576) return `${(number / 1024).toFixed(1)} KiB`;
  return `${(number / 1048576).toFixed(1)} MiB`;
}

const two = (number) => String(number).padStart(2, "0");

/** Returns a time of day, with the date unless that is today; in the browser's time zone. */
export function clock(ms, precise = false) {
  if (ms === null || ms === undefined) return "–";
  const at = new Date(ms), today = new Date();
  let text = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  if (precise) text += `.${String(at.getMilliseconds()).padStart(3, "0")}`;
  return at.toDateString() === today.toDateString() ? text : `${day(at)} ${text}`;
}

const day = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;

let skew = 0;
/** Notes the server's time, by which ages are told. */
export const setNow = (server) => { skew = server - Date.now(); };
export const now = () => Date.now() + skew;

/** Returns a <time> that tells how long ago something was, or in how long it will be. */
export function ago(ms) {
  if (ms === null || ms === undefined) return "–";
  const iso = new Date(ms).toISOString();
  return h("time", { datetime: iso, title: iso, "data-ago": ms }, agoText(ms));
}

const agoText = (ms) => {
  const past = now() - ms;
  if (Math.abs(past) < 1000) return past >= 0 ? "just now" : "in 1 s";
  const text = Math.abs(past) < 10000 ? `${Math.floor(Math.abs(past) / 1000)} s` : duration(Math.abs(past));
  return past >= 0 ? `${text} ago` : `in ${text}`;
};

/** Returns an element that tells for how long something has been going on. */
export const since = (ms) => h("span", { "data-since": ms }, duration(now() - ms));

/** Brings the elements of the two functions above up to date. */
export function tick(root) {
  for (const each of root.querySelectorAll("[data-ago]")) {
    const text = agoText(Number(each.dataset.ago));
    if (each.textContent !== text) each.textContent = text;
  }
  for (const each of root.querySelectorAll("[data-since]")) {
    each.textContent = duration(now() - Number(each.dataset.since));
  }
}

export const STATUSES = ["running", "suspended", "queued", "cancelling", "completed", "failed", "cancelled"];

const SIGNS = {
  running: "▸", suspended: "‖", queued: "…", cancelling: "↶", completed: "✓", failed: "×", cancelled: "⊘",
  sleeping: "z", waiting: "◔", retrying: "↻", begun: "▸",
};

/** Returns a status as a sign, a colour and its word. */
export const status = (name) =>
  h("span", { class: `status ${name}` }, h("span", { class: "sign", "aria-hidden": "true" }, SIGNS[name] ?? "•"), name);

export const runLink = (id, text = id) => h("a", { href: `#/run/${encodeURIComponent(id)}` }, text);

export const hasEnded = (run) => run.ended !== null;
