// The labelling page's keys, zoom, search and answers in the background. Everything here has a plain form behind it:
// without this script the page works, only slower.
"use strict";

const form = document.getElementById("answer");
const place = document.getElementById("task-place");
const status = document.getElementById("status");
const problem = document.getElementById("problem");
const answers = document.getElementById("answers");
const examples = document.getElementById("examples");
const search = document.getElementById("search");
const list = document.getElementById("classes");
const matches = document.getElementById("matches");
const nothing = document.getElementById("nothing");
const buttons = [...list.querySelectorAll("button")];
const names = buttons.map((button) => button.querySelector("bdi").textContent.toLowerCase());
const exampleItems = [...examples.querySelectorAll("li")];

let busy = false;
let marked = null;
let zoom = 0; // 0 = fit
let waiting = 0;
let ahead = null; // keeps the next picture from being thrown away before it is shown

const task = () => document.getElementById("task");

// -- answers ---------------------------------------------------------------------------------------------------

async function send(button) {
  if (busy) return;
  busy = true;
  form.classList.add("busy");
  try {
    const body = new URLSearchParams(new FormData(form));
    body.append(button.name, button.value);
    await replace(await fetch(form.action, { method: "POST", body, headers: { "x-fragment": "task" } }));
  } catch (error) {
    complain("The answer could not be sent: the server does not answer. Try again.");
  } finally {
    busy = false;
    form.classList.remove("busy");
  }
}

async function replace(answer) {
  const text = await answer.text();
  if (!answer.ok) {
    let detail = text;
    try { detail = JSON.parse(text).detail; } catch (error) { /* not our JSON: show it as it is */ }
    complain(answer.status === 401 ? "You are signed out. Load the page again to sign in." : detail.slice(0, 500));
    return;
  }
  problem.hidden = true;
  const hadFocus = place.contains(document.activeElement);
  place.innerHTML = text; // rendered and escaped by the server, as in the page itself
  clear_search();
  arrive(true);
  if (hadFocus || answers.hidden) focus_heading();
}

function complain(text) {
  problem.textContent = text;
  problem.hidden = false;
}

function focus_heading() {
  const heading = document.getElementById("task-heading");
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
}

// A task is there: announce it, fetch the next picture, show what needs a script.
function arrive(announce) {
  const now = task();
  const has_task = "task" in now.dataset;
  answers.hidden = examples.hidden = !has_task;
  for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;
  apply_zoom();
  if (announce) {
    const heading = document.getElementById("task-heading").textContent;
    status.textContent = `${now.dataset.said} ${heading}.`.trim();
  }
  if (now.dataset.ahead) {
    ahead = new Image();
    ahead.src = now.dataset.ahead;
  }
  clearTimeout(waiting);
  if ("wait" in now.dataset) waiting = setTimeout(look_again, 5000);
  if (search && has_task && buttons.length > 30 && document.activeElement === document.body) search.focus();
}

async function look_again() {
  try {
    await replace(await fetch(form.action, { headers: { "x-fragment": "task", accept: "text/html" } }));
  } catch (error) {
    waiting = setTimeout(look_again, 5000);
  }
}

form.addEventListener("submit", (event) => {
  if (!event.submitter) return;
  event.preventDefault();
  send(event.submitter);
});

// -- zoom ------------------------------------------------------------------------------------------------------

const STEPS = [0, 1, 2, 4, 8, 16, 32];

function apply_zoom() {
  const stage = document.getElementById("stage");
  const subject = document.getElementById("subject");
  if (!stage) return;
  const factor = STEPS[zoom];
  stage.classList.toggle("zoomed", factor > 0);
  subject.style.width = factor ? `${factor * subject.getAttribute("width")}px` : "";
  stage.tabIndex = factor ? 0 : -1;
  document.getElementById("zoom-level").textContent = factor ? `${factor} ×` : "fit";
}

function change_zoom(by) {
  zoom = Math.min(STEPS.length - 1, Math.max(0, zoom + by));
  apply_zoom();
}

place.addEventListener("click", (event) => {
  const button = event.target.closest("#zoom-in, #zoom-out");
  if (button) change_zoom(button.id === "zoom-in" ? 1 : -1);
});

// -- search ----------------------------------------------------------------------------------------------------

function filter() {
  const wanted = search.value.trim().toLowerCase();
  // Names that begin with what was typed come first, then those that contain it.
  const shown = buttons.filter((button, index) => names[index].includes(wanted));
  const visible = new Set(shown);
  buttons.forEach((button) => { button.hidden = !visible.has(button); });
  exampleItems.forEach((item) => { item.hidden = !visible.has(buttons[item.dataset.class]); });
  matches.textContent = wanted ? `${shown.length} of ${buttons.length} classes` : `${buttons.length} classes`;
  nothing.hidden = shown.length > 0;
  const first = shown.find((button) => names[buttons.indexOf(button)].startsWith(wanted)) || shown[0];
  mark(wanted ? first || null : null);
}

function mark(button) {
  if (marked) marked.classList.remove("marked");
  marked = button;
  if (!button) return;
  button.classList.add("marked");
  button.scrollIntoView({ block: "nearest" });
  status.textContent = `${button.querySelector("bdi").textContent} marked`;
}

function move(by) {
  const shown = buttons.filter((button) => !button.hidden);
  const at = shown.indexOf(marked);
  mark(shown[Math.min(shown.length - 1, Math.max(0, at + by))] || null);
}

function clear_search() {
  if (!search || (!search.value && !marked)) return;
  search.value = "";
  filter();
}

if (search) {
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      if (marked && !event.repeat) send(marked);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Escape") {
      clear_search();
      focus_heading();
    }
  });
}

// -- keys ------------------------------------------------------------------------------------------------------

function toggle(id) {
  const part = document.getElementById(id);
  if (part) part.open = !part.open;
}

const COMMANDS = {
  e: () => { toggle("examples"); if (examples.open) examples.scrollIntoView({ block: "nearest" }); },
  p: () => toggle("prediction"),
  "+": () => change_zoom(1),
  "=": () => change_zoom(1),
  "-": () => change_zoom(-1),
  "/": () => { if (search) search.focus(); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input:not([type=hidden]), textarea, select")) return;
  const key = event.key === "ArrowRight" && !event.target.closest(".scroll, .stage.zoomed") ? "l" : event.key.toLowerCase();
  const command = COMMANDS[key];
  if (command) {
    event.preventDefault();
    command();
    return;
  }
  const button = document.querySelector(`#answer button[data-key="${CSS.escape(key)}"]`);
  if (button && (!answers.hidden || key === "u")) {
    event.preventDefault();
    send(button);
  }
});

arrive(false);
