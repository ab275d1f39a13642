// Follows the events of a tenant, and connects again by itself. Used by the worker that all tabs share, and by a page
// in a browser without such workers.

const AGAIN_MS = 3000;

// Calls tell({ live, changed }) at each change. Returns a function that ends it.
export function follow(url, kinds, tell) {
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
      tell({ live: true, changed: before });
      before = true;
    });
    for (const kind of [...kinds, "gap"]) source.addEventListener(kind, () => tell({ live: true, changed: true }));
    source.addEventListener("dropped", again);
    source.addEventListener("error", () => {
      tell({ live: false, changed: false });
      if (source.readyState === EventSource.CLOSED) again();
    });
  }

  open();
  return () => {
    ended = true;
    source.close();
  };
}
