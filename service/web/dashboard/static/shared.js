// One worker for all tabs of a browser: it holds the connections to the event stream. A browser opens only six
// connections to a host over HTTP/1.1, so that a seventh tab with one of its own would wait for ever.

import { follow } from "./source.js";

const MOST_SOURCES = 3;
const POLL_MS = 5000;
const FORGET_MS = 150000; // browsers let hidden tabs run once a minute

const tabs = new Map(); // port → what it watches, and when it was heard of last
const sources = new Map(); // url → how it goes, and how to end it

function notify(url, news) {
  for (const [port, tab] of tabs) if (tab.url === url) port.postMessage(news);
}

// Connections for the tenants that tabs show, most of them at most; the tabs of the others look by themselves.
function arrange() {
  const oldest = Date.now() - FORGET_MS;
  for (const [port, tab] of tabs) if (tab.heard < oldest) tabs.delete(port);
  const wanted = new Map([...tabs.values()].map((tab) => [tab.url, tab.kinds]));
  for (const [url, source] of sources) {
    if (wanted.has(url)) continue;
    source.end();
    sources.delete(url);
  }
  for (const [url, kinds] of wanted) {
    if (sources.has(url) || sources.size >= MOST_SOURCES) continue;
    const source = { live: false };
    sources.set(url, source);
    source.end = follow(url, kinds, (news) => {
      source.live = news.live;
      notify(url, news);
    });
  }
}

setInterval(() => {
  arrange();
  for (const [port, tab] of tabs) if (!sources.has(tab.url)) port.postMessage({ live: true, changed: true });
}, POLL_MS);

self.addEventListener("connect", (event) => {
  const [port] = event.ports;
  port.addEventListener("message", ({ data }) => {
    if (data.bye) tabs.delete(port);
    else tabs.set(port, { url: data.url, kinds: data.kinds, heard: Date.now() });
    arrange();
    const source = sources.get(data.url);
    if (source === undefined || source.live) port.postMessage({ live: true, changed: false });
  });
  port.start();
});
