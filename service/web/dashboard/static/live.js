// Keeps a page live: after an event of the tenant, fetches the page again and replaces its regions, at most once a second.
// The server renders both times, so each region has one template.

import { show } from "./times.js";

const main = document.querySelector("main[data-tenant]");
const state = document.getElementById("live");
const CALM_MS = 1000;
const CHART_MS = 10000;
const AGAIN_MS = 3000;

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
  show();
  document.dispatchEvent(new Event("refreshed"));
}

function soon() {
  planned ??= setTimeout(() => {
    planned = null;
    refresh().catch(() => say(false));
  }, Math.max(50, last + CALM_MS - Date.now()));
}

function listen() {
  const source = new EventSource(`${main.dataset.api}/events?tenant=${encodeURIComponent(main.dataset.tenant)}`);
  let before = false;
  source.addEventListener("ready", () => {
    say(true);
    if (before) soon();
    before = true;
  });
  for (const kind of [...main.dataset.kinds.split(" "), "gap"]) {
    source.addEventListener(kind, soon);
  }
  source.addEventListener("dropped", () => again(source));
  source.addEventListener("error", () => {
    say(false);
    if (source.readyState === EventSource.CLOSED) again(source);
  });
}

function again(source) {
  source.close();
  setTimeout(() => {
    listen();
    soon();
  }, AGAIN_MS);
}

if (main) {
  listen();
  setInterval(soon, CHART_MS);
}
