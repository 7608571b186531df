// Keeps the live part of a case page up to date by server-sent events. Without script the page is complete, but stands.
"use strict";

(() => {
  const live = document.getElementById("live");
  const status = document.getElementById("live-status");
  const state = document.getElementById("live-state");
  const longestPause = 15000;
  let pause = 1000;
  let source = null;

  function say(text) {
    state.hidden = text === "";
    state.textContent = text;
  }

  function show(message) {
    const now = JSON.parse(message.data);
    pause = 1000;
    say("");
    if (now.place !== live.dataset.place) {
      window.location.reload(); // another state: the rest of the page is out of date as well
      return;
    }
    live.innerHTML = now.html; // rendered and escaped by the server, from the template of this page
    if (status.textContent !== now.announcement) status.textContent = now.announcement;
  }

  function connect() {
    source = new EventSource(live.dataset.events);
    source.addEventListener("case", show);
    source.addEventListener("end", () => source.close());
    source.addEventListener("error", () => {
      say("connection lost, trying again");
      // Some browsers try again by themselves, but none after an answer that is not a stream, as while a server starts.
      source.close();
      window.setTimeout(connect, pause);
      pause = Math.min(pause * 2, longestPause);
    });
  }

  connect();
  // A page in the back/forward cache must not keep a connection open, and needs a new one when it comes back.
  window.addEventListener("pagehide", () => source.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
})();
