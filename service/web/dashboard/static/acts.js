// Actions of an operator: a button names the request, a dialog asks for the reason, and a notice shows the result.

import { refresh } from "./live.js";
import { full } from "./times.js";

const main = document.querySelector("main[data-api]");
const dialog = document.getElementById("act");
const notice = document.getElementById("notice");
const NOTICE_MS = 8000;

function notify(text, wrong = false) {
  notice.textContent = text;
  clearTimeout(notify.ends);
  if (!wrong) notify.ends = setTimeout(() => (notice.textContent = ""), NOTICE_MS);
  notice.classList.toggle("wrong", wrong);
}

function selected() {
  return [...document.querySelectorAll("input[name=chosen]:checked")].map((box) => box.value);
}

function count() {
  const bar = document.getElementById("bulk");
  if (!bar) return;
  const many = selected().length;
  bar.hidden = many === 0;
  bar.querySelector("output").textContent = `${many} chosen`;
}

function field(name, label, value) {
  const row = document.createElement("p");
  const input = Object.assign(document.createElement("input"), { name, id: `act-${name}`, value: value ?? "" });
  input.type = { until: "datetime-local", before: "datetime-local", requests: "number", window: "number", replace: "checkbox" }[name] ?? "text";
  if (input.type === "number") Object.assign(input, { min: 1, required: true });
  if (name === "capability") Object.assign(input, { required: true, pattern: "[A-Za-z0-9._:\\-]{1,64}", title: "letters, digits and . _ : -" });
  if (name === "capability") input.setAttribute("list", "capabilities");
  if (name === "subject") input.required = true;
  row.append(Object.assign(document.createElement("label"), { htmlFor: input.id, textContent: label }), input);
  return row;
}

// "name:Label=value|name:Label"
function fields(text) {
  return (text ?? "").split("|").filter(Boolean).map((one) => {
    const [, name, label, value] = one.match(/^(\w+):([^=]*)=?(.*)$/);
    return field(name, label, value);
  });
}

function ask(button) {
  const users = "chosen" in button.dataset ? selected() : null;
  const title = button.dataset.title.replace("{chosen}", users ? `${users.length} user${users.length === 1 ? "" : "s"}` : "");
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector(".more").replaceChildren(...fields(button.dataset.fields));
  dialog.querySelector(".warning").textContent = button.dataset.warning ?? "";
  dialog.querySelector("[name=reason]").value = "";
  const submit = dialog.querySelector("[type=submit]");
  submit.textContent = button.textContent.trim();
  submit.className = button.classList.contains("danger") ? "danger" : "";
  showError("");
  dialog.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    submit.disabled = true;
    run(button, users, new FormData(event.target)).finally(() => (submit.disabled = false));
  };
  dialog.showModal();
}

// Shows an error in the dialog, which keeps what was typed.
function showError(text) {
  dialog.querySelector(".wrong").textContent = text;
}

function bodyOf(button, users, form) {
  const body = { ...JSON.parse(button.dataset.body ?? "{}") };
  if (users) body.users = users;
  for (const [name, value] of form) {
    if (value === "" || name === "capability" || name === "replace") continue;
    if (name === "until" || name === "before") body[name] = new Date(value).toISOString();
    else body[name] = name === "requests" || name === "window" ? Number(value) : value;
  }
  return body;
}

async function run(button, users, form) {
  let path = button.dataset.path.replace("{capability}", encodeURIComponent(form.get("capability") ?? ""));
  if (form.get("replace")) path += `${path.includes("?") ? "&" : "?"}replace=true`;
  try {
    const content = await send(button, path, bodyOf(button, users, form));
    if (content.error) {
      const why = (content.error.validation ?? []).map((one) => `${one.field}: ${one.message}`).join("; ");
      return showError(why || content.error.message);
    }
    dialog.close();
    for (const box of document.querySelectorAll("input:checked[name=chosen], #choose-all")) box.checked = false;
    notify(outcome(button.textContent.trim(), content.data), content.data.results?.some((one) => !one.done));
    await refresh().catch(() => {});
    if (!document.activeElement || document.activeElement === document.body) document.querySelector(".acts button")?.focus();
  } catch {
    showError("The service does not answer. Your input is kept: try again.");
  }
}

// Sends one request; for all users of a status as many as it takes, and joins their results.
async function send(button, path, body) {
  const results = [];
  for (;;) {
    const answer = await fetch(main.dataset.api + path, {
      method: button.dataset.method,
      headers: { "content-type": "application/json", "x-csrf-token": main.dataset.csrf },
      body: JSON.stringify(body),
    });
    const content = await answer.json();
    if (content.error || !content.data.results) return content;
    results.push(...content.data.results);
    if (!content.data.next) return { data: { ...content.data, results } };
    body.after = content.data.next;
    showError(`${results.length} users so far…`);
  }
}

// What applies after an action, even if a stricter setting was there before.
function holds(data) {
  const parts = [];
  if (data.newTokensFrom) parts.push(`tokens issued from ${full.format(Date.parse(data.newTokensFrom))} on are accepted, earlier ones are refused`);
  if (data.tokensCarryIat === false) parts.push("this user’s tokens carry no time of issue (iat), so all of them are refused until the revocation is lifted");
  if (data.until) parts.push(`it holds until ${full.format(Date.parse(data.until))}`);
  else if (data.until === null) parts.push("it holds until it is lifted");
  if (data.note) parts.push(data.note);
  if (data.previous) parts.push(`before it was ${data.previous.requests} in ${data.previous.window} s`);
  return parts;
}

function outcome(what, data) {
  if (data.wasUsed === false) return `${what}: nothing was used up`;
  if (!data.results) return [`${what}: ${data.applied === false ? "nothing changed" : "done"}`, ...holds(data)].join("; ");
  const failed = data.results.filter((one) => !one.done);
  const parts = [`${what}: ${data.results.length - failed.length} of ${data.results.length} done`];
  const unchanged = data.results.filter((one) => one.applied === false).length;
  if (unchanged) parts.push(`${unchanged} had nothing to change`);
  const from = data.results.map((one) => one.newTokensFrom).filter(Boolean).sort();
  parts.push(...holds({ newTokensFrom: from.at(-1) }));
  const undated = data.results.filter((one) => one.tokensCarryIat === false).length;
  if (undated) parts.push(`the tokens of ${undated} carry no time of issue (iat), so all of them are refused until the revocation is lifted`);
  for (const one of failed.slice(0, 5)) parts.push(`${one.userId}: ${one.message}`);
  if (failed.length > 5) parts.push(`and ${failed.length - 5} more`);
  return parts.join("; ");
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-path]");
  if (button) ask(button);
});
document.addEventListener("change", (event) => {
  if (event.target.id === "choose-all") {
    for (const box of document.querySelectorAll("input[name=chosen]")) box.checked = event.target.checked;
  }
  count();
});
document.addEventListener("refreshed", count);
dialog?.querySelector("[value=cancel]").addEventListener("click", () => dialog.close("cancel"));
