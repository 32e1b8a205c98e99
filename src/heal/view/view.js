// Keys, marks without leaving the page, and word of what is new. Without it every page still works.
"use strict";

const form = document.getElementById("marking");
const said = document.getElementById("said");
const help = document.getElementById("help");
const keysOn = document.getElementById("keys-on");
const rows = [...document.querySelectorAll(".traces tbody tr")];
const onList = document.body.classList.contains("list");
let at = -1;

function say(text, failed) {
  if (!said) return;
  said.textContent = text;
  said.classList.toggle("failed", Boolean(failed));
}

function select(place) {
  if (!rows.length) return;
  if (at >= 0) rows[at].classList.remove("here");
  at = Math.max(0, Math.min(rows.length - 1, place));
  rows[at].classList.add("here");
  rows[at].querySelector("a.open").focus({ preventScroll: true });
  rows[at].scrollIntoView({ block: "nearest" });
}

async function send(fields) {
  try {
    const answer = await fetch("/mark", {
      method: "POST",
      body: new URLSearchParams(fields),
      headers: { Accept: "application/json" },
    });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    return told;
  } catch (error) {
    say(`Not marked: ${error.message}`, true);
    return null;
  }
}

async function markRow(mark) {
  if (at < 0) return say("Choose a trace first: j and k", true);
  const row = rows[at];
  const { trace, problem, stage, tag } = row.dataset;
  const wanted = row.dataset.mark === mark ? "none" : mark;
  const told = await send({ token: form.elements.token.value, trace, problem, stage, tag, mark: wanted });
  if (!told) return;
  row.dataset.mark = told.mark === "none" ? "" : told.mark;
  const cell = row.querySelector("td.mark");
  cell.textContent = row.dataset.mark || "–";
  cell.classList.toggle("none", !row.dataset.mark);
  say(told.mark === "none" ? "mark taken back" : `marked ${told.mark}`);
}

async function markTrace(mark, note) {
  const fields = Object.fromEntries(new FormData(form));
  fields.note = form.elements.note.value;
  const held = form.elements.held.value;
  fields.mark = note ? held : held === mark ? "none" : mark;
  const told = await send(fields);
  if (!told) return;
  form.elements.held.value = told.mark;
  for (const button of form.querySelectorAll("button.keep")) button.value = told.mark;
  for (const button of form.querySelectorAll("button[aria-pressed]"))
    button.setAttribute("aria-pressed", String(button.value === told.mark));
  say(note ? "note kept" : told.mark === "none" ? "mark taken back" : `marked ${told.mark}`);
}

function follow(selector) {
  const link = document.querySelector(selector);
  if (link) link.click();
}

function move(by) {
  if (!onList) return follow(by > 0 ? 'a[rel="next"]' : 'a[rel="prev"]');
  if (at + by >= rows.length) return follow('a[rel="next"]');
  if (at + by < 0 && at >= 0) return follow('a[rel="prev"]');
  select(at + by);
}

const keys = {
  j: () => move(1),
  k: () => move(-1),
  ArrowDown: () => onList && move(1),
  ArrowUp: () => onList && move(-1),
  Enter: () => onList && at >= 0 && rows[at].querySelector("a.open").click(),
  u: () => follow("#back"),
  g: () => (onList ? markRow("good") : form && markTrace("good")),
  b: () => (onList ? markRow("bad") : form && markTrace("bad")),
  n: () => document.getElementById("note")?.focus(),
  "/": () => (onList ? document.getElementById("search").focus() : follow("#back")),
  "?": () => help.showModal(),
};

document.addEventListener("keydown", (event) => {
  const field = event.target.closest("input, select, textarea, dialog");
  const typing = field && (help.open || !help.contains(field)); // focus leaves a closed dialog late
  if (event.key === "Escape" && typing && !help.open) return event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !keysOn.checked) return;
  if (event.key === "Enter" && event.target.closest("a, button")) return;
  const act = keys[event.key];
  if (!act || ((event.key === "ArrowDown" || event.key === "ArrowUp") && !onList)) return;
  event.preventDefault();
  act();
});

document.getElementById("help-open")?.addEventListener("click", () => help.showModal());
keysOn.checked = localStorage.getItem("keys") !== "off";
keysOn.addEventListener("change", () => localStorage.setItem("keys", keysOn.checked ? "on" : "off"));
for (const choice of document.querySelectorAll(".filters select"))
  choice.addEventListener("change", () => choice.form.requestSubmit());
rows.forEach((row, place) => row.addEventListener("focusin", () => at !== place && select(place)));
if (form && !onList)
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const pressed = event.submitter;
    markTrace(pressed?.value, !pressed || pressed.classList.contains("keep"));
  });

const state = document.getElementById("state");
if (state)
  setInterval(async () => {
    try {
      const told = await (await fetch("/state")).json();
      if (String(told.version) === state.dataset.version) return;
      state.textContent = told.said;
      state.dataset.version = told.version;
      document.getElementById("fresh").hidden = false;
    } catch {
      state.textContent = "The viewer was ended: heal view starts it again.";
    }
  }, 5000);
