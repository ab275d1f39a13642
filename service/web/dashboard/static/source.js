// Follows the events of a tenant, and connects again by itself. Used by the worker that all tabs share, and by a page
// in a browser without such workers.

const AGAIN_MS = 3000;

// Calls notify({ live, changed }) at each change. Returns a function that ends it.
export function follow(url, kinds, notify) {
  let source = null;
  let ended = false;
  let before = false;

  function again() {
    source.close();
    if (!ended) setTimeout(() => ended || open(), AGAIN_MS);
  }

  function open() {
    source = new EventSource(url);
    source.addEventListener("ready", () => {
      notify({ live: true, changed: before });
      before = true;
    });
    for (const kind of [...kinds, "gap"]) source.addEventListener(kind, () => notify({ live: true, changed: true }));
    source.addEventListener("dropped", again);
    source.addEventListener("error", () => {
      notify({ live: false, changed: false });
      if (source.readyState === EventSource.CLOSED) again();
    });
  }

  open();
  return () => {
    ended = true;
    source.close();
  };
}
