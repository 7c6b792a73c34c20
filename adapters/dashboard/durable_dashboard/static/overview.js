import { fill, h, hidden } from "./dom.js";
import { ago, bytes, clock, count, duration, now, runLink, setNow } from "./format.js";
import { live } from "./server.js";

/** How the application is doing. */
export function overviewView(config) {
  const tiles = h("div", { class: "tiles" });
  const chart = h("div", { class: "chart" });
  const failures = h("div"), processes = h("div"), events = h("div"), endpoints = h("div");
  const card = (title, content, extra) => h("section", { class: "card" }, h("h2", null, title), extra, content);
  const about = h("p", { class: "muted" });
  const element = h("div", { class: "view" }, h("h1", null, "Overview"), tiles,
    card("Runs that began", chart, about),
    h("div", { class: "columns" },
      card("Failed lately", failures),
      card("Processes", processes),
      card("Events lately", events),
      card("Endpoints", endpoints)));

  function show(view) {
    setNow(view.now);
    fill(tiles,
      tile("Runs a minute", rate(view.perMinute), `since ${clock(view.begin)}`),
      tile("Failed", view.begun ? `${Math.round((view.failed / view.begun) * 100)} %` : "–", `${count(view.failed)} of ${count(view.begun)}`, view.failed ? "bad" : ""),
      tile("Oldest due run", view.oldestDue === null ? "none" : duration(now() - view.oldestDue), view.oldestDue === null ? "nothing is late" : "waits for a process", view.oldestDue !== null && now() - view.oldestDue > 5000 ? "bad" : ""),
      tile("A commit takes", view.commitSeconds === undefined || view.commitSeconds === null ? "–" : fine(view.commitSeconds * 1000), view.started ? `${count(view.commits)} here` : "no work is done here"),
      tile("Waiting clients", view.waitingClients ?? "–", view.started ? "of this process" : "no work is done here"),
      tile("Runs in progress", view.liveRuns ?? "–", view.started ? "in this process" : "no work is done here"));
    fill(about, `Since ${clock(view.begin)}. Each bar is ${duration((view.now - view.begin) / view.chart.length)}.`);
    drawChart(chart, view.chart);
    fill(failures, view.failures.length ? table("Failed lately", ["Run", "Error", "When"], view.failures.map((run) => [
      runLink(run.id, run.name), h("span", { class: "error" }, run.error ?? "–"), ago(run.ended)])) : none("No run has failed."));
    fill(processes, view.processes.length ? table("Processes", ["Process", "Application", "Lease"], view.processes.map((each) => [
      `${each.host}, ${each.pid}`, each.app,
      each.leaseUntil < view.now ? h("span", { class: "error" }, "expired ", ago(each.leaseUntil)) : [ago(each.leaseUntil), hidden(" it ends unless renewed")]])) : none("No process works on the store."));
    fill(events, view.events.length ? table("Events lately", ["Event", "Came", "Woke"], view.events.map((each) => [
      [h("span", { class: "mono strong" }, each.name), h("span", { class: "mono clip" }, oneLine(each.data.text), each.data.cut ? ` … ${bytes(each.data.size)}` : "")],
      ago(each.received),
      each.woke.length ? [each.woke.map((id) => [runLink(id, h("span", { class: "mono", title: id }, `…${id.slice(-6)}`)), " "]), each.wokeMore ? `and ${count(each.wokeMore)} more` : ""] : h("span", { class: "muted" }, "nobody")])) : none("No event was sent."));
    fill(endpoints, view.endpoints.length ? table("Endpoints", ["Endpoint", "Began", "Failed", "Limits"], view.endpoints.map((each) => [
      h("a", { href: `#/runs?${new URLSearchParams({ endpoint: each.id })}` }, each.name ?? each.id),
      count(each.begun), h("span", { class: each.failed ? "error" : "" }, count(each.failed)), limits(each)])) : none("No endpoint is known here."));
  }

  const close = live("overview-live", {}, {
    overview: show,
    problem: ({ problem }) => fill(tiles, h("p", { class: "empty", role: "alert" }, problem.detail ?? problem.title)),
  });
  return { element, close, title: "Overview", name: "overview" };
}

const tile = (name, value, note, kind = "") =>
  h("div", { class: `tile ${kind}` }, h("p", { class: "tile-name" }, name), h("p", { class: "tile-value" }, String(value)), h("p", { class: "muted" }, note));

const rate = (number) => (number >= 10 ? Math.round(number).toLocaleString("en") : number.toFixed(1));
const fine = (ms) => (ms < 10 ? `${ms.toFixed(2)} ms` : duration(ms));
const none = (text) => h("p", { class: "empty small" }, text);
const oneLine = (text) => text.replace(/\s+/g, " ");

function limits(each) {
  const found = [];
  if (each.concurrency) found.push(`${each.concurrency} at a time`);
  if (each.perKey) found.push(`${each.perKey} at a time for a key`);
  if (each.queueLimit !== null && each.queueLimit !== undefined) found.push(`queue of ${each.queueLimit}`);
  if (each.rateLimit) found.push(`${each.rateLimit[0]} in ${duration(each.rateLimit[1] * 1000)}`);
  if (each.singleton) found.push(`singleton, ${each.singleton}`);
  if (each.timeout) found.push(`within ${duration(each.timeout * 1000)}`);
  return found.length ? found.map((text) => h("span", { class: "tag" }, text)) : h("span", { class: "muted" }, "none");
}

const table = (name, heads, rows) =>
  h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name },
    h("table", { class: "plain" }, h("thead", null, h("tr", null, heads.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", null, rows.map((cells) => h("tr", null, cells.map((cell) => h("td", null, cell)))))));

function drawChart(place, buckets) {
  const most = Math.max(1, ...buckets.map((each) => total(each)));
  const words = buckets.map((each) => `${clock(each.at)}: ${total(each)}`).join(", ");
  fill(place, h("div", { class: "bars", role: "img", "aria-label": `Runs that began, at most ${most} in a bar. ${words}` },
    buckets.map((each) => {
      const bar = h("div", { class: "bar", title: `${clock(each.at)}: ${count(total(each))} runs, ${count(each.failed ?? 0)} failed` });
      for (const kind of ["other", "failed", "completed"]) {
        if (!each[kind]) continue;
        const part = h("i", { class: kind });
        part.style.height = `${(each[kind] / most) * 100}%`;
        bar.append(part);
      }
      return bar;
    })),
  h("p", { class: "legend", "aria-hidden": "true" }, [["completed", "completed"], ["failed", "failed"], ["other", "not ended, or cancelled"]]
    .map(([kind, text]) => h("span", null, h("i", { class: `dot ${kind}` }), text)), h("span", { class: "muted" }, `highest bar: ${count(most)}`)));
}

const total = (each) => (each.completed ?? 0) + (each.failed ?? 0) + (each.other ?? 0);
