// Shows every <time> in the reader's time zone, which it names; those with data-relative as a time ago, kept up to date.
// The pages are in English, and so are all times: as the reader's browser writes them, if it is an English one.

const language = navigator.languages.find((one) => one.toLowerCase().startsWith("en")) ?? "en";
export const full = new Intl.DateTimeFormat(language, {
  ...{ year: "numeric", month: "short", day: "numeric", hour: "numeric", minute: "2-digit", second: "2-digit" },
  timeZoneName: "short",
});
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" });
const STEPS = [["second", 60], ["minute", 60], ["hour", 24], ["day", 30], ["month", 12], ["year", Infinity]];

function ago(moment, now) {
  let distance = (moment - now) / 1000;
  if (Math.abs(distance) < 5) return "just now";
  for (const [unit, size] of STEPS) {
    if (Math.round(Math.abs(distance)) < size) return relative.format(Math.round(distance), unit);
    distance /= size;
  }
}

export function show() {
  const now = Date.now();
  for (const element of document.querySelectorAll("time[datetime]")) {
    const moment = Date.parse(element.dateTime);
    const written = full.format(moment);
    element.textContent = "relative" in element.dataset ? ago(moment, now) : written;
    element.title = written;
  }
}

show();
setInterval(show, 15000);
