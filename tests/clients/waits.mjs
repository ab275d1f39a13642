// Loaded before a library: waits of 20 seconds and more are noted, and over at once.
const really = globalThis.setTimeout;
globalThis.waits = [];
globalThis.setTimeout = (callback, ms, ...rest) => {
  if (!(ms >= 20_000)) return really(callback, ms, ...rest);
  globalThis.waits.push(ms);
  return really(callback, 0, ...rest);
};
