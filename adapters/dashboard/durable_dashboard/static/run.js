import { fill, h, notice } from "./dom.js";
import { ago, bytes, clock, count, duration, hasEnded, runLink, setNow, since, status } from "./format.js";
import { ask, copy } from "./dialogs.js";
import { curl } from "./curl.js";
import { makeLog } from "./log.js";
import { act, follow, get, live, Refused, url } from "./server.js";
import { makeWaterfall } from "./waterfall.js";

/** How much streamed text the page keeps, characters, and how long a log it shows. */
const MOST_TEXT = 200000, MOST_LOG = 200;

/** All about one run. */
export function runView(id, config) {
  const model = { run: null, failures: [], finished: [], begun: [], request: null };
  const title = h("h1", null, "Run"), facts = h("dl", { class: "facts" });
  const buttons = h("div", { class: "actions", role: "group", "aria-label": "Actions" });
  const banner = h("div", { class: "banners" });
  const trouble = h("p", { class: "problem", role: "alert", hidden: true });
  const waterfall = makeWaterfall(details);
  const noSteps = h("p", { class: "empty small", hidden: true }, "No step yet.");
  const streamed = makeStreamed(id);
  const response = h("div"), request = h("div"), log = h("div"), error = h("div", { class: "item" });
  const errorSection = h("section", { class: "card", hidden: true }, h("h2", null, "Error"), error);
  const section = (name, content, anchor) => h("section", { class: "card", id: anchor }, h("h2", null, name), content);
  const element = h("div", { class: "view run" },
    h("p", { class: "crumbs" }, h("a", { href: "#/runs" }, "Runs")),
    h("div", { class: "run-head" }, title, buttons), trouble, banner, facts,
    errorSection, section("Steps", [waterfall.element, noSteps]), streamed.element,
    h("div", { class: "columns" }, section("Response", response), section("Request", request)),
    section("Log", log));
  fill(title, "Run ", h("span", { class: "mono" }, id));
  let shownEnd = null;

  function show(document) {
    setNow(document.now);
    trouble.hidden = true;
    model.run = document.run;
    model.failures = document.failures;
    model.finished.length = document.from;
    model.finished.push(...document.finished);
    model.begun = document.begun;
    const steps = [...model.finished, ...model.begun];
    showHead(model.run);
    showWaits(model.begun);
    waterfall.update(model.run, steps);
    noSteps.hidden = steps.length > 0;
    showLog(makeLog(model.run, model.failures, steps));
    streamed.update(model.run, model.finished.length);
    const end = `${model.run.status} ${model.run.ended}`;
    if (end !== shownEnd) { shownEnd = end; showResponse(); }
  }

  function showHead(run) {
    fill(title, h("span", { class: "title" }, run.name), status(run.status));
    const fact = (name, value) => value !== null && value !== undefined && value !== "" && h("div", null, h("dt", null, name), h("dd", null, value));
    const labels = Object.entries(run.labels);
    fill(facts,
      fact("Run", h("span", { class: "mono" }, run.id)),
      fact("Began", [ago(run.started), h("span", { class: "muted" }, ` ${clock(run.started)}`)]),
      fact(hasEnded(run) ? "Took" : "For", hasEnded(run) ? duration(run.ended - run.started) : since(run.started)),
      fact("Goes on", run.due === null ? null : ago(run.due)),
      fact("Deadline", run.deadline === null ? null : ago(run.deadline)),
      fact("Key", run.key && h("span", { class: "mono" }, run.key)),
      fact("Labels", labels.length ? labels.map(([name, value]) => h("span", { class: "tag" }, `${name}=${value}`)) : null),
      fact("Endpoint", h("a", { href: `#/runs?${new URLSearchParams({ endpoint: run.endpoint })}` }, run.endpoint)),
      fact("Version", run.version && (run.parked ? `${run.version} (its code only)` : run.version)),
      fact("Attempts", run.attempts > 1 ? count(run.attempts) : null),
      fact("Crashes", run.crashes ? count(run.crashes) : null),
      fact("Parent", run.parent && runLink(run.parent)),
      fact("Told of its end", run.completionRun && runLink(run.completionRun, run.completion)),
      fact("Trace", run.trace && h("span", { class: "mono" }, run.trace)),
      fact("Reason", run.reason));
    if (errorSection.hidden !== !run.error) { errorSection.hidden = !run.error; fill(error, run.error && pre(run.error, "error")); }
    const can = !config.readOnly;
    set(buttons, [
      can && !hasEnded(run) && run.status !== "cancelling" && ["cancel", "Cancel…", cancel, "danger"],
      can && run.status === "failed" && ["retry", "Retry", retry, "primary"],
      ["curl", "Copy as curl", copyCurl, ""],
    ]);
  }

  function showWaits(begun) {
    const waits = begun.filter((step) => step.status === "waiting").slice(0, 20);
    const key = JSON.stringify(waits.map((step) => [step.name, step.event, step.due, step.match]));
    if (banner.dataset.key === key) return;
    banner.dataset.key = key;
    fill(banner, waits.map((step) => h("div", { class: "banner" },
      h("p", null, h("strong", null, step.name), " waits for ", what(step), step.match && [" with ", h("span", { class: "mono" }, step.match)],
        step.due && [", until ", clock(step.due), " (", ago(step.due), ")"]),
      sendButton(step))));
  }

  const what = (step) => {
    if (step.kind === "signal") return ["the signal ", h("span", { class: "mono" }, step.event ?? "")];
    if (step.kind === "wait") return ["the event ", h("span", { class: "mono" }, step.event ?? "")];
    if (step.kind === "invoke") return ["its child ", step.child ? runLink(step.child) : "run"];
    return "its callback, a POST to a URL that the run has given out";
  };

  function sendButton(step) {
    if (config.readOnly || !step.event || !["wait", "signal"].includes(step.kind)) return null;
    return h("button", { type: "button", class: "primary", "data-send": step.name, onclick: () => send(step) }, step.kind === "signal" ? "Send signal…" : "Send event…");
  }

  async function send(step) {
    const isSignal = step.kind === "signal";
    let required = "{}";
    try { required = (await get("step", { id, step: step.name })).required; } catch (error) { if (!(error instanceof Refused)) throw error; }
    ask({
      title: isSignal ? "Send a signal" : "Send an event",
      intro: isSignal ? "It goes to the step that waits for it now." : "It ends the waits of all runs that it fits.",
      fields: [
        { name: "name", label: "Name", value: step.event, kind: "text", readonly: true },
        { name: "data", label: "Data, JSON", value: isSignal ? "null" : required, kind: "json" },
      ],
      submit: "Send",
      run: (values) => act(isSignal ? "signal" : "send", values),
      done: () => notice(isSignal ? "The signal was sent" : "The event was sent"),
    });
  }

  function cancel() {
    ask({
      title: "Cancel this run", intro: "Its handler ends, its waits are dropped, and its clients are told. Steps that can be undone are.",
      fields: [{ name: "reason", label: "Reason, for its clients", kind: "text" }],
      submit: "Cancel the run", danger: true,
      run: ({ reason }) => act("cancel", { id, reason }),
      done: () => notice("The run was cancelled"),
    });
  }

  async function retry() {
    try {
      await act("retry", { id });
      notice("The run goes on from where it failed");
    } catch (error) { refuse(error); }
  }

  async function copyCurl() {
    try {
      await copy(curl(model.request ?? (await loadRequest())), "the request as a curl command");
    } catch (error) { refuse(error); }
  }

  async function resume(step) {
    let stored;
    try { stored = model.request ?? (await loadRequest()); } catch (error) { refuse(error); return; }
    const body = stored.body;
    const isText = body !== null && body.text !== null && !body.cut;
    const asShown = isText && body.text.replace(/\r\n?/g, "\n");  // as a textarea has it
    ask({
      title: `Resume from ${step.name}`,
      intro: "A new run begins with the results of the steps before this one. The old run stays as it is.",
      fields: [{
        name: "body", label: "Body of the request", kind: "area", value: isText ? body.text : "", disabled: !isText,
        hint: isText ? "The new run is asked this." : "It cannot be edited here (not stored, too long, or no text): the new run has the same.",
      }],
      submit: "Begin the new run",
      run: (values) => act("resume", { id, step: step.name, ...(isText && values.body !== asShown ? { body: values.body } : {}) }),
      done: (answer) => { notice("A new run has begun"); location.hash = `#/run/${encodeURIComponent(answer.id)}`; },
    });
  }

  /** Fills in what is known of a step: its values are asked for now, as they may be large. */
  async function details(step, place) {
    const key = `${step.status} ${step.ended} ${step.failures.length}`;
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    if (!place.childElementCount) fill(place, h("p", { class: "muted" }, "Loading…"));
    let values;
    try { values = await get("step", { id, step: step.name }); } catch (error) {
      if (!(error instanceof Refused)) throw error;
      fill(place, h("p", { class: "problem" }, error.message));
      return;
    }
    const item = (name, content) => content && h("div", { class: "item" }, h("h3", null, name), content);
    const value = (name, part) => values[part] && item(name, code(values[part], url("value", { id, step: step.name, part })));
    fill(place,
      h("p", { class: "muted" }, [step.kind, step.started !== null && `began ${clock(step.started, true)}`, step.ended !== null && `ended ${clock(step.ended, true)}`,
        step.due !== null && `until ${clock(step.due)}`].filter(Boolean).join(" · ")),
      step.child && item("Child", runLink(step.child)),
      values.match && item(`Waits for ${step.event ?? "an event"} with`, code(values.match)),
      values.error && item("Error", pre(values.error, "error")),
      values.trace && item("Trace", pre(values.trace)),
      value("Result", "result"), value("Arguments", "arguments"),
      step.failures.length > 0 && item("Failed attempts", h("ol", { class: "attempts" }, step.failures.map((each) => h("li", { value: each.number },
        h("span", { class: "error" }, each.error), h("span", { class: "muted" }, ` ${clock(each.ended, true)}`,
          each.started !== null && `, after ${duration(each.ended - each.started)}`))))),
      !config.readOnly && h("div", { class: "actions" }, sendButton(step),
        h("button", { type: "button", "data-resume": step.name, onclick: () => resume(step) }, "Resume from this step…")));
  }

  async function loadRequest() {
    model.request = await get("request", { id });
    return model.request;
  }

  async function showRequest() {
    let found;
    try { found = await loadRequest(); } catch (error) { fill(request, h("p", { class: "problem" }, String(error.message))); return; }
    fill(request, h("p", { class: "mono line" }, h("strong", null, found.method), " ", found.url),
      headers([...found.headers, ...found.notStored.map((name) => [name, null])]),
      found.body === null ? h("p", { class: "muted" }, "The body is not stored.") : bodyOf(found.body, "request"));
  }

  async function showResponse() {
    let found;
    try { found = await get("response", { id }); } catch (error) { fill(response, h("p", { class: "problem" }, String(error.message))); return; }
    if (!found.kept) { fill(response, h("p", { class: "muted" }, found.detail)); return; }
    if (found.response === null) { fill(response, h("p", { class: "empty small" }, "There is none yet.")); return; }
    fill(response, h("p", { class: "mono line" }, h("strong", null, found.response.status)), headers(found.response.headers), bodyOf(found.response.body, "response"));
    const trace = traceIn(found.response.body);
    if (trace && model.run.error) fill(error, pre(model.run.error, "error"), h("h3", null, "Trace"), pre(trace));
  }

  const bodyOf = (body, part) => {
    if (!body.size) return h("p", { class: "muted" }, "Without a body.");
    const whole = url("body", { id, part });
    if (body.text === null) return h("p", null, `${bytes(body.size)} that are no text. `, h("a", { href: whole, download: "body" }, "Save"));
    return code({ ...body, text: pretty(body) }, whole);
  };

  function showLog(entries) {
    const left = entries.length - MOST_LOG;
    const shown = left > 0 ? [...entries.slice(0, MOST_LOG / 2), null, ...entries.slice(-MOST_LOG / 2)] : entries;
    fill(log, h("ol", { class: "log" }, shown.map((entry) => entry === null
      ? h("li", { class: "muted" }, `… ${count(left)} more …`)
      : h("li", null, h("time", { datetime: new Date(entry.at).toISOString() }, clock(entry.at, true)), status(entry.kind), h("span", null, entry.text)))));
  }

  const close = live("run-live", { id }, {
    run: show,
    problem: ({ problem }) => {
      const why = problem.detail ?? problem.title;
      if (problem.status !== 404) { trouble.hidden = false; fill(trouble, `This run cannot be read now: ${why}`); return; }
      fill(element, h("h1", null, "No such run"), h("p", { class: "empty", role: "alert" }, why), h("p", null, h("a", { href: "#/runs" }, "All runs")));
      end();
    },
  });
  const timer = setInterval(() => waterfall.tick(), 1000);
  showRequest();
  const end = () => { clearInterval(timer); close(); streamed.close(); };
  return { element, close: end, title: "Run", name: "runs" };
}

/** Shows these buttons; one that stays is not made anew, so that it keeps focus. */
function set(place, wanted) {
  const shown = wanted.filter(Boolean);
  const key = shown.map(([name]) => name).join();
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  fill(place, shown.map(([name, text, click, kind]) => h("button", { type: "button", class: kind, "data-action": name, onclick: click }, text)));
}

function refuse(error) {
  if (!(error instanceof Refused)) throw error;
  notice(error.message, "bad");
}

const pre = (text, kind = "") => h("pre", { class: kind, tabindex: "0" }, text);

/** Returns a value, or as much of it as was sent, and where all of it is. */
function code(shown, whole) {
  return [pre(shown.text), shown.cut && h("p", { class: "muted" }, `The first ${count(shown.text.length)} characters of ${bytes(shown.size)}. `,
    whole && h("a", { href: whole, download: "" }, "Save all of it"))];
}

/** Returns the stack trace in the problem document of a run that failed with `debug`. */
function traceIn(body) {
  if (body.text === null || body.cut) return null;
  try {
    const { traceback } = JSON.parse(body.text);
    return typeof traceback === "string" ? traceback : null;
  } catch { return null; }
}

function pretty(body) {
  if (body.cut || /\d{16}/.test(body.text)) return body.text;  // JavaScript would round such a number
  try { return JSON.stringify(JSON.parse(body.text), null, 2); } catch { return body.text; }
}

const headers = (pairs) => pairs.length > 0 && h("table", { class: "headers" }, h("colgroup", null, h("col", { class: "name" }), h("col")), h("thead", { class: "sr" }, h("tr", null, h("th", { scope: "col" }, "Header"), h("th", { scope: "col" }, "Value"))),
  h("tbody", null, pairs.map(([name, value]) => h("tr", null, h("th", { scope: "row" }, name), h("td", null, value === null ? h("em", { class: "muted" }, "not stored") : value)))));

/** What a run streams, as it comes; what was taken back is struck out. */
function makeStreamed(id) {
  const text = h("pre", { class: "streamed", tabindex: "0" });
  const note = h("p", { class: "muted" });
  const element = h("section", { class: "card", hidden: true }, h("h2", null, "Streamed"), text, note);
  let open = new Map(), size = 0, stop = null, isDone = false, seen = -1, status = "";

  function push({ data, hashedStepId }) {
    element.hidden = false;
    const part = h("span", { class: "new" }, typeof data === "string" ? data : `${JSON.stringify(data)}\n`);
    const step = hashedStepId ?? "";
    if (!open.has(step)) open.set(step, []);
    open.get(step).push(part);
    const isAtEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
    text.append(part);
    size += part.textContent.length;
    while (size > MOST_TEXT && text.firstChild !== part) { size -= text.firstChild.textContent.length; text.firstChild.remove(); fill(note, "The beginning was left out."); }
    if (isAtEnd) text.scrollTop = text.scrollHeight;
  }

  function settle({ hashedStepId }, isKept) {
    for (const part of open.get(hashedStepId) ?? []) {
      if (isKept) part.className = "";
      else if (part.isConnected) part.replaceWith(h("del", null, part.textContent));
    }
    open.delete(hashedStepId);
  }

  function clear() { fill(text); fill(note); open = new Map(); size = 0; }

  function begin() {
    stop?.();
    stop = follow(id, {
      reset: clear,
      "inngest.stream": push,
      "inngest.commit": (event) => settle(event, true),
      "inngest.rollback": (event) => settle(event, false),
      "inngest.response": () => { isDone = true; for (const step of [...open.keys()]) settle({ hashedStepId: step }, true); stop?.(); },
      end: () => { isDone = true; for (const step of [...open.keys()]) settle({ hashedStepId: step }, true); stop?.(); },
    });
  }

  /** Reads on where the stream has ended and the run has gone on. */
  function update(run, finished) {
    const isFirst = seen < 0;
    const isNew = seen !== finished || status !== run.status;
    seen = finished;
    status = run.status;
    if (isFirst || (isDone && isNew && run.ended === null)) { if (!isFirst) clear(); isDone = false; begin(); }
    else if (isDone && isNew) { isDone = false; clear(); begin(); }
  }

  return { element, update, close: () => stop?.() };
}
