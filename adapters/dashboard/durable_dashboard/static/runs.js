import { arrange, fill, h, hidden } from "./dom.js";
import { STATUSES, ago, count, duration, setNow, since, status } from "./format.js";
import { get, live } from "./server.js";

const FILTERS = ["status", "endpoint", "key", "label", "since", "until"];
const COLUMNS = ["Status", "Run", "Key", "Labels", "Began", "Took", "Attempts"];
/** What an id of a run looks like, a ULID. */
const RUN_ID = /^[0-9A-HJKMNP-TV-Z]{26}$/i;

/** The list of runs, as the address says which. */
export function runsView(params, config) {
  const wanted = Object.fromEntries([...FILTERS, "cursor"].map((name) => [name, params.get(name) ?? ""]));
  const body = h("tbody", { role: "rowgroup" });
  const table = h("table", { class: "runs", role: "table", "aria-label": "Runs" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map((name) => h("th", { scope: "col", role: "columnheader" }, name)))),
    body);
  const empty = h("div", { class: "empty", hidden: true });
  const pages = h("nav", { class: "pages", "aria-label": "Pages" });
  const element = h("div", { class: "view" }, h("h1", null, "Runs"), filters(wanted, config), table, empty, pages);
  const rows = new Map();

  function show(document) {
    setNow(document.now);
    const nodes = document.runs.map((run) => {
      const text = JSON.stringify(run), known = rows.get(run.id);
      if (known?.text === text) return known.node;
      const node = row(run);
      // Who has reached the row by keyboard stays there.
      if (known?.node.contains(globalThis.document.activeElement)) queueMicrotask(() => node.querySelector("a")?.focus());
      rows.set(run.id, { text, node });
      return node;
    });
    arrange(body, nodes);
    table.hidden = !nodes.length;
    empty.hidden = Boolean(nodes.length);
    if (!nodes.length) fill(empty, nothing(wanted));
    fill(pages,
      wanted.cursor ? h("a", { href: address({ ...wanted, cursor: "" }) }, "← Newest") : null,
      h("span", { class: "muted" }, nodes.length ? `${count(nodes.length)} runs` : ""),
      document.more ? h("a", { href: address({ ...wanted, cursor: document.more }), rel: "next" }, "Older →") : null);
  }

  const close = live("runs-live", wanted, {
    runs: show,
    problem: ({ problem }) => {
      table.hidden = true;
      empty.hidden = false;
      fill(empty, h("p", { role: "alert" }, `The runs cannot be listed: ${problem.detail ?? problem.title}`));
    },
  });
  return { element, close, title: "Runs", name: "runs", keepsFocus: params.size > 0 };
}

function row(run) {
  const cell = (name, ...children) => h("td", { role: "cell", class: name }, children);
  const labels = Object.entries(run.labels);
  return h("tr", { role: "row", "data-run": run.id },
    cell("c-status", status(run.status)),
    cell("c-run", h("a", { class: "name", href: `#/run/${encodeURIComponent(run.id)}` }, run.name, hidden(` run ${run.id}`)),
      h("span", { class: "id", "aria-hidden": "true" }, run.id),
      run.error && run.status !== "completed" && h("span", { class: "error" }, run.error)),
    cell("c-key", run.key && h("span", { class: "mono" }, run.key)),
    cell("c-labels", labels.map(([name, value]) => h("span", { class: "tag" }, `${name}=${value}`))),
    cell("c-began", ago(run.started)),
    cell("c-took", run.ended === null ? since(run.started) : duration(run.ended - run.started)),
    cell("c-attempts", h("span", { class: run.attempts > 1 ? "warn" : "" }, count(run.attempts), hidden(" attempts"))));
}

function nothing(wanted) {
  const isFiltered = Object.values(wanted).some(Boolean);
  if (isFiltered) {
    return [h("p", { class: "big" }, "No run is like that"), h("p", null, h("a", { href: "#/runs" }, "Show all runs"))];
  }
  return [h("p", { class: "big" }, "No run yet"),
    h("p", null, "A run is stored with its first step. Call an endpoint that has one, and it appears here.")];
}

function address(wanted) {
  const set = Object.entries(wanted).filter(([, value]) => value);
  return `#/runs${set.length ? `?${new URLSearchParams(set)}` : ""}`;
}

function filters(wanted, config) {
  const field = (label, control, name) => h("label", { class: `f-${name}` }, h("span", null, label), control);
  const search = h("input", { type: "search", name: "find", placeholder: "Run id or key", autocomplete: "off", spellcheck: "false" });
  search.value = wanted.key;
  const choice = h("select", { name: "status", onchange: () => form.requestSubmit() },
    h("option", { value: "" }, "Any"), STATUSES.map((name) => h("option", { value: name, selected: name === wanted.status }, name)));
  const text = (name, placeholder, list) => {
    const input = h("input", { type: "text", name, placeholder, list, autocomplete: "off", spellcheck: "false" });
    input.value = wanted[name];
    return input;
  };
  const moment = (name) => {
    const input = h("input", { type: "datetime-local", name, step: "1" });
    if (wanted[name]) input.value = local(Number(wanted[name]));
    return input;
  };
  const form = h("form", { class: "filters", role: "search", "aria-label": "Runs", onsubmit: go },
    field("Find", search, "find"), field("Status", choice, "status"),
    field("Endpoint", text("endpoint", "Any", "endpoints"), "endpoint"),
    h("datalist", { id: "endpoints" }, config.endpoints.map((id) => h("option", { value: id }))),
    field("Label", text("label", "name=value"), "label"),
    field("Since", moment("since"), "since"), field("Until", moment("until"), "until"),
    h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Apply"),
      h("a", { class: "button", href: "#/runs" }, "Clear")));

  async function go(event) {
    event.preventDefault();
    const found = search.value.trim();
    if (RUN_ID.test(found) && (await isRun(found.toUpperCase()))) {
      location.hash = `#/run/${found.toUpperCase()}`;
      return;
    }
    const values = { key: found };
    for (const name of ["status", "endpoint", "label"]) values[name] = form.elements.namedItem(name).value.trim();
    for (const name of ["since", "until"]) {
      const at = Date.parse(form.elements.namedItem(name).value);
      values[name] = Number.isNaN(at) ? "" : String(at);
    }
    location.hash = address(values);
  }
  return form;
}

/** Tells whether there is a run with this id: a key may look like one. */
async function isRun(id) {
  try { await get("request", { id }); return true; } catch { return false; }
}

/** Returns a time as an input of the kind "datetime-local" has it. */
function local(ms) {
  const at = new Date(ms);
  return new Date(ms - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}
