// Small comforts; every page works without them.
"use strict";

// Times are sent in UTC and shown in the reader's own zone; UTC stays in the title.
const clock = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const thisYear = new Intl.DateTimeFormat(undefined, clock);
const anyYear = new Intl.DateTimeFormat(undefined, { year: "numeric", ...clock });

function showLocalTimes(root) {
  const now = new Date();
  for (const element of root.querySelectorAll("time[datetime]:not([data-local])")) {
    const at = new Date(element.dateTime);
    const format = at.getFullYear() === now.getFullYear() ? thisYear : anyYear;
    element.textContent = format.format(at);
    element.dataset.local = "yes";
  }
}

// The server groups usage by the reader's days.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
document.cookie = `hydrant_zone=${encodeURIComponent(zone)}; path=/; max-age=31536000; samesite=lax`;

async function copyText(button) {
  const source = document.getElementById(button.dataset.copy);
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(source.value);
    button.textContent = "Copied";
  } catch {
    source.select(); // no clipboard over plain HTTP: select it, so that Ctrl-C works
    button.textContent = "Selected: press Ctrl-C";
  }
  setTimeout(() => { button.textContent = label; }, 3000);
}

document.addEventListener("click", (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) copyText(copy);
  // One open question at a time; a click elsewhere closes it.
  for (const open of document.querySelectorAll("details.confirm[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const open of document.querySelectorAll("details.confirm[open]")) open.open = false;
});

// A form is sent once, however often its button is pressed.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) event.preventDefault();
  if (event.target.method === "post") event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// A page that answered a form must not send it again on reload.
const replace = document.querySelector("[data-replace-url]");
if (replace) history.replaceState(null, "", replace.dataset.replaceUrl);

// Filters apply as soon as they are chosen.
document.addEventListener("change", (event) => {
  if (event.target.closest("form[data-auto]") && event.target.matches("select")) event.target.form.requestSubmit();
});

// A part that refreshes itself waits while someone reads with the keyboard in it, selects text in it, or looks elsewhere.
document.addEventListener("htmx:beforeRequest", (event) => {
  const part = event.target;
  if (!part.hasAttribute("hx-trigger")) return;
  const selection = document.getSelection();
  const selecting = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  if (document.hidden || selecting || part.querySelector(":focus-visible")) event.preventDefault();
});

function connection(lost) {
  const banner = document.getElementById("connection-lost");
  if (banner) banner.hidden = !lost;
}
document.addEventListener("htmx:sendError", () => connection(true));
document.addEventListener("htmx:timeout", () => connection(true));
document.addEventListener("htmx:responseError", (event) => connection(event.detail.xhr.status >= 500));
document.addEventListener("htmx:afterSwap", (event) => {
  connection(false);
  showLocalTimes(event.target);
});

showLocalTimes(document);
