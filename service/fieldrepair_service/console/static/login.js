// Who follows a link from a chat or a mail arrives without the cookie (SameSite=Strict), although they are signed in.
// A request from this page carries it: then there is nothing to ask, and they go where they wanted.
"use strict";

(async () => {
  const form = document.querySelector("form[data-session]");
  const answer = await fetch(form.dataset.session);
  if ((await answer.json()).signed_in) window.location.replace(form.elements.next.value);
})();
