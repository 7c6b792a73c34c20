import { fill, h } from "./dom.js";
import { setNow, tick } from "./format.js";
import { overviewView } from "./overview.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { get } from "./server.js";

const main = document.getElementById("main");
let close = () => {};

/** Shows the view that the address names, after "#". */
function route(config, isFirst) {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const params = new URLSearchParams(query);
  const run = /^\/run\/(.+)$/.exec(path);
  close();
  let view;
  if (run) view = runView(decode(run[1]), config);
  else if (path === "/overview") view = overviewView(config);
  else if (path === "" || path === "/" || path === "/runs") view = runsView(params, config);
  else return;  // the link that skips to the content
  close = view.close;
  fill(main, view.element);
  document.title = `${view.title} · ${config.app}`;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    const isHere = link.dataset.view === view.name;
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!isFirst && !view.keepsFocus) { main.focus({ preventScroll: true }); scrollTo(0, 0); }
}

function decode(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

async function start() {
  let config;
  try {
    config = await get("config");
  } catch (error) {
    fill(main, h("p", { class: "empty", role: "alert" }, `The dashboard cannot be shown: ${error.message}`));
    return;
  }
  setNow(config.now);
  document.getElementById("app").textContent = config.app;
  document.getElementById("mode").hidden = !config.readOnly;
  let shown = null;
  const show = () => {
    const hash = location.hash;
    if (hash === "#main") { main.focus(); return; }
    if (hash === shown) return;
    route(config, shown === null);
    shown = hash;
  };
  addEventListener("hashchange", show);
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
  setInterval(() => tick(main), 1000);
  show();
}

start();
