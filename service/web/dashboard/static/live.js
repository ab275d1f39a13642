// Keeps a page live: after an event of the tenant, fetches the page again and replaces its regions, at most once a second.
// The server renders both times, so each region has one template.

import { follow } from "./source.js";
import { show } from "./times.js";

const main = document.querySelector("main[data-tenant]");
const state = document.getElementById("live");
const CALM_MS = 1000;
const CHART_MS = 10000;
const HELLO_MS = 20000;

let last = 0;
let planned = null;

function say(live) {
  state.dataset.state = live ? "on" : "off";
  state.textContent = live ? "Live" : "Not live: connecting again…";
}

// Replaces a region. Checked boxes stay checked, and the focus stays where it was.
function replace(region, fresh) {
  const chosen = new Set([...region.querySelectorAll("input:checked")].map((box) => box.value));
  const active = region.contains(document.activeElement) ? keyOf(document.activeElement) : null;
  region.replaceChildren(...fresh.childNodes);
  for (const box of region.querySelectorAll("input[type=checkbox]")) box.checked = chosen.has(box.value);
  if (active) [...region.querySelectorAll("a, button, input")].find((one) => keyOf(one) === active)?.focus();
}

function keyOf(element) {
  return `${element.tagName} ${element.id || element.getAttribute("href") || element.value || element.textContent}`;
}

export async function refresh() {
  last = Date.now();
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (answer.redirected) return location.reload();
  if (!answer.ok) return say(false);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const region of document.querySelectorAll("[data-live]")) {
    const fresh = page.querySelector(`[data-live="${region.dataset.live}"]`);
    if (fresh) replace(region, fresh);
  }
  // Another tab may have logged in again: forms and actions need its form token.
  const csrf = page.querySelector("input[name=csrf]")?.value;
  if (csrf) {
    for (const field of document.querySelectorAll("input[name=csrf]")) field.value = csrf;
    if ("csrf" in main.dataset) main.dataset.csrf = csrf;
  }
  show();
  document.dispatchEvent(new Event("refreshed"));
}

function soon() {
  planned ??= setTimeout(() => {
    planned = null;
    refresh().catch(() => say(false));
  }, Math.max(50, last + CALM_MS - Date.now()));
}

function take({ live, changed }) {
  say(live);
  if (changed) soon();
}

function listen() {
  const url = `${main.dataset.api}/events?tenant=${encodeURIComponent(main.dataset.tenant)}`;
  const kinds = main.dataset.kinds.split(" ");
  if (!("SharedWorker" in window)) return follow(url, kinds, take);
  const worker = new SharedWorker(new URL("./shared.js", import.meta.url), { type: "module", name: "rollcall" });
  const hello = () => worker.port.postMessage({ url, kinds });
  worker.addEventListener("error", () => follow(url, kinds, take), { once: true });
  worker.port.addEventListener("message", ({ data }) => take(data));
  worker.port.start();
  hello();
  setInterval(hello, HELLO_MS);
  addEventListener("pagehide", () => worker.port.postMessage({ bye: true }));
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    hello();
    soon();
  });
}

if (main) {
  listen();
  setInterval(soon, CHART_MS);
}
