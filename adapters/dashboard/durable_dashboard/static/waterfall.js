// When each step ran: a row for each step, a segment for each of its attempts.

import { arrange, fill, h, hidden, place } from "./dom.js";
import { clock, count, duration, now, status } from "./format.js";

const PAGE = 200;
const PAUSES = { sleep: "sleep", wait: "wait", signal: "wait", callback: "wait", invoke: "wait" };

/** Returns the parts of a step's time: {from, to, kind, title}. */
export function segments(step) {
  const end = step.ended ?? Math.max(now(), step.started ?? 0);
  const found = [];
  if (PAUSES[step.kind]) {
    const kind = PAUSES[step.kind];
    const from = step.started ?? step.ended ?? end;
    const until = step.ended === null && step.due && step.due < from + 366 * 864e5 ? Math.max(step.due, from) : end;
    found.push({ from, to: kind === "sleep" || step.ended !== null ? until : end, kind: step.status === "failed" ? "failed" : kind,
      title: step.kind === "sleep" ? "sleeps" : `waits${step.event ? ` for ${step.event}` : ""}` });
    return found;
  }
  for (const each of step.failures) {
    found.push({ from: each.started ?? each.ended, to: each.ended, kind: "failed", title: `attempt ${each.number}: ${each.error}` });
  }
  const last = step.failures.at(-1);
  const isOver = step.status === "failed" && last && last.number >= step.attempts;
  if (isOver) return withPauses(found);
  if (step.status === "retrying") {
    found.push({ from: last?.ended ?? step.started ?? end, to: Math.max(step.due ?? end, last?.ended ?? 0), kind: "pause", title: "waits to be tried again" });
    return withPauses(found);
  }
  const kind = { completed: "done", failed: "failed" }[step.status] ?? "running";
  found.push({ from: step.started ?? end, to: end, kind, title: `attempt ${step.attempts || 1}: ${step.status}` });
  return withPauses(found);
}

/** Adds what is between two attempts. */
function withPauses(parts) {
  return parts.flatMap((part, index) => {
    const before = parts[index - 1];
    if (!before || part.kind === "pause" || part.from <= before.to) return [part];
    return [{ from: before.to, to: part.from, kind: "pause", title: "pause before the next attempt" }, part];
  });
}

/** Returns where times are, in percent; long pauses in which nothing runs are shortened. */
export function makeScale(begin, end, busy, isTrue) {
  const parts = [];
  let at = begin;
  for (const [from, to] of merged(busy, begin, end)) {
    if (from > at) parts.push({ from: at, to: from, idle: true });
    parts.push({ from, to, idle: false });
    at = to;
  }
  if (at < end || !parts.length) parts.push({ from: at, to: Math.max(end, at + 1), idle: true });
  const work = parts.filter((part) => !part.idle).reduce((sum, part) => sum + part.to - part.from, 0);
  const most = Math.max(50, work * 0.5);
  let isShortened = false, sum = 0;
  for (const part of parts) {
    const length = part.to - part.from;
    const isCut = !isTrue && part.idle && length > 3 * most;
    isShortened ||= isCut;
    part.weight = isCut ? most : Math.max(length, 0.001);
    part.start = sum;
    sum += part.weight;
  }
  const find = (test) => {
    let low = 0, high = parts.length - 1;
    while (low < high) { const middle = (low + high) >> 1; if (test(parts[middle])) high = middle; else low = middle + 1; }
    return parts[low];
  };
  const position = (time) => {
    const part = find((each) => time <= each.to);
    const share = part.to > part.from ? Math.min(1, Math.max(0, (time - part.from) / (part.to - part.from))) : 0;
    return ((part.start + part.weight * share) / sum) * 100;
  };
  const timeAt = (percent) => {
    const wanted = (percent / 100) * sum;
    const part = find((each) => wanted <= each.start + each.weight);
    return part.from + ((wanted - part.start) / part.weight) * (part.to - part.from);
  };
  return { position, timeAt, isShortened };
}

function merged(intervals, begin, end) {
  const sorted = intervals.map(([from, to]) => [Math.max(begin, from), Math.min(end, to)]).filter(([from, to]) => to >= from).sort((a, b) => a[0] - b[0]);
  const found = [];
  for (const [from, to] of sorted) {
    const last = found.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else found.push([from, to]);
  }
  return found;
}

/** Returns the steps in the order in which they began, with those that overlap marked. */
function ordered(steps) {
  const sorted = steps.map((step) => ({ step, parts: segments(step) }))
    .map((each) => ({ ...each, from: each.parts[0].from, to: each.parts.at(-1).to }))
    .sort((a, b) => a.from - b.from || (a.step.ended ?? Infinity) - (b.step.ended ?? Infinity));
  let end = -Infinity, group = 0;
  for (const each of sorted) {
    if (each.from >= end) { group += 1; end = each.to; } else end = Math.max(end, each.to);
    each.group = group;
  }
  const sizes = new Map();
  for (const each of sorted) sizes.set(each.group, (sizes.get(each.group) ?? 0) + 1);
  for (const each of sorted) each.parallel = sizes.get(each.group) > 1 && each.to > each.from;
  return sorted;
}

/** A waterfall; `details(step)` returns what is shown below a row that is opened. */
export function makeWaterfall(details) {
  const state = { page: 0, find: "", isTrue: false, open: new Map(), rows: new Map(), run: null, steps: [] };
  const list = h("ol", { class: "rows" });
  const axis = h("div", { class: "axis", "aria-hidden": "true" });
  const note = h("span", { class: "muted", hidden: true }, "Long pauses are shortened.");
  const scaleButton = h("button", { type: "button", class: "small", "aria-pressed": "false", onclick: toggle }, "True scale");
  const find = h("input", { type: "search", "aria-label": "Find steps by name or status", placeholder: "Find steps", oninput: () => { state.find = find.value.trim().toLowerCase(); state.page = 0; draw(); } });
  const pages = h("div", { class: "pages" });
  const tools = h("div", { class: "tools" }, find, scaleButton, note, pages);
  const legend = h("p", { class: "legend", "aria-hidden": "true" },
    [["done", "attempt"], ["failed", "failed attempt"], ["pause", "pause"], ["sleep", "sleep"], ["wait", "wait"], ["running", "in progress"]]
      .map(([kind, text]) => h("span", null, h("i", { class: `seg ${kind}` }), text)));
  const element = h("div", { class: "waterfall" }, tools, h("div", { class: "head" }, axis), list, legend);

  function toggle() {
    state.isTrue = !state.isTrue;
    scaleButton.setAttribute("aria-pressed", String(state.isTrue));
    draw();
  }

  function update(run, steps) {
    state.run = run;
    state.steps = steps;
    draw();
  }

  function draw() {
    const { run, steps } = state;
    const all = ordered(steps);
    const shown = state.find ? all.filter(({ step }) => step.name.toLowerCase().includes(state.find) || step.status === state.find) : all;
    const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1);
    state.page = Math.min(state.page, last);
    const page = shown.slice(state.page * PAGE, (state.page + 1) * PAGE);
    // Of a run with many steps the time of those that are shown, else all of it.
    const isPart = all.length > PAGE && page.length > 0;
    const begin = isPart ? page[0].from : run.started;
    const latest = (isPart ? page : all).reduce((most, each) => Math.max(most, each.to), begin + 1);
    const end = isPart ? latest : Math.max(run.ended ?? now(), latest);
    const busy = all.flatMap(({ parts }) => parts.filter(({ kind }) => !["sleep", "wait", "pause"].includes(kind)).map(({ from, to }) => [from, to]));
    const scale = makeScale(begin, end, busy, state.isTrue);
    note.hidden = !scale.isShortened;
    scaleButton.hidden = !scale.isShortened && !state.isTrue;
    find.hidden = all.length < 8;
    fill(axis, [0, 25, 50, 75, 100].map((percent) => {
      const tick = h("span", { class: `tick t${percent}` }, percent ? `+${duration(scale.timeAt(percent) - run.started)}` : clock(begin));
      tick.style.left = `${percent}%`;
      return tick;
    }));
    arrange(list, page.map((each) => row(each, scale)));
    if (all.length <= PAGE) fill(pages, shown.length < all.length ? `${count(shown.length)} of ${count(all.length)} steps` : null);
    else {
      const go = (by, text) => h("button", { type: "button", class: "small", disabled: by < 0 ? state.page === 0 : state.page === last, onclick: () => { state.page += by; draw(); } }, text);
      fill(pages, go(-1, "← Earlier"), h("span", null, `${count(state.page * PAGE + 1)}–${count(state.page * PAGE + page.length)} of ${count(shown.length)} steps`), go(1, "Later →"));
    }
    element.classList.toggle("none", !all.length);
  }

  function row({ step, parts, parallel, from }, scale) {
    let known = state.rows.get(step.name);
    if (!known) {
      known = makeRow(step);
      state.rows.set(step.name, known);
    }
    const text = JSON.stringify(step);
    if (known.text !== text) {
      known.text = text;
      const took = step.ended !== null && step.started !== null ? step.ended - (parts[0]?.from ?? step.started) : null;
      known.took = took;
      fill(known.label, h("span", { class: "step-name" }, step.name), hidden(`, ${step.kind}, ${step.status}`),
        step.attempts > 1 && h("span", { class: "tries" }, `×${step.attempts}`, hidden(" attempts")));
      fill(known.state, status(step.status), describe(step));
      if (state.open.has(step.name)) openRow(known, step);
    }
    known.node.classList.toggle("parallel", parallel);
    fill(known.time, known.took === null ? duration(Math.max(0, now() - from)) : duration(known.took));
    fill(known.lane, parts.map((part) => {
      const bar = h("i", { class: `seg ${part.kind}`, title: `${part.title} (${duration(part.to - part.from)})` });
      const left = scale.position(part.from);
      place(bar, left, scale.position(part.to) - left);
      return bar;
    }));
    return known.node;
  }

  function describe(step) {
    const child = step.child ? h("a", { href: `#/run/${encodeURIComponent(step.child)}` }, "its run") : null;
    return [told(step), child];
  }

  function told(step) {
    if (step.ended !== null) return step.status === "failed" && step.error ? h("span", { class: "error" }, step.error) : null;
    const until = step.due ? ` until ${clock(step.due)}` : "";
    if (step.status === "waiting") return h("span", null, step.event ? `for ${step.event}${until}` : `for ${step.kind === "invoke" ? "its child" : step.kind}${until}`);
    if (step.status === "sleeping") return h("span", null, `until ${clock(step.due)}`);
    if (step.status === "retrying") return h("span", { class: "error" }, `again at ${clock(step.due)}: ${step.error}`);
    return null;
  }

  function makeRow(step) {
    const label = h("span", { class: "label" }), lane = h("span", { class: "lane", "aria-hidden": "true" });
    const time = h("span", { class: "time" }), place = h("div", { class: "details", hidden: true });
    const button = h("button", { type: "button", class: "row", "aria-expanded": "false", onclick: () => flip() }, label, lane, time);
    const stateLine = h("div", { class: "step-state" });
    const known = { node: h("li", { "data-step": step.name }, button, stateLine, place), label, lane, time, state: stateLine, button, place, text: "", took: null };
    const flip = () => {
      const isOpen = state.open.has(step.name);
      if (isOpen) state.open.delete(step.name); else state.open.set(step.name, true);
      button.setAttribute("aria-expanded", String(!isOpen));
      place.hidden = isOpen;
      if (!isOpen) openRow(known, state.steps.find((each) => each.name === step.name) ?? step);
    };
    return known;
  }

  function openRow(known, step) {
    details(step, known.place);
  }

  /** Moves the ends of what is in progress. */
  function tickOpen() {
    if (state.run && state.run.ended === null && state.steps.some((step) => step.ended === null)) draw();
  }

  return { element, update, tick: tickOpen };
}
