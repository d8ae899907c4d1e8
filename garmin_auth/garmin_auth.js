// The progress page: asks how the login stands, and goes on when it has ended.
"use strict";
(() => {
  const EVERY = 2000, SLOW_AFTER = 30000, GIVES_UP_AFTER = 5; // ms, ms, failures in a row
  const line = document.getElementById("ga-progress");
  const slowAt = Date.now() + SLOW_AFTER;
  let failures = 0, slow = false;

  // Only what differs is written: a screen reader says it each time.
  function say(text) {
    line.textContent = text;
  }

  function stop() {
    document.getElementById("ga-working").hidden = true;
    document.getElementById("ga-why").hidden = true;
    document.getElementById("ga-again").hidden = false;
    say(line.dataset.lost);
  }

  async function ask() {
    const response = await fetch(line.dataset.url, {
      headers: { Accept: "application/json" },
      cache: "no-store",
      signal: AbortSignal.timeout(10000),
    });
    // Redirected: to the site's login, where the user's session has ended meanwhile.
    return response.redirected ? { under_way: false, url: line.dataset.url } : response.json();
  }

  async function look() {
    try {
      const answer = await ask();
      if (!answer.under_way) {
        // In place of this page: "back" leads to the form, not here.
        location.replace(answer.url);
        return;
      }
      failures = 0;
    } catch {
      // A site that restarts is away for some seconds.
      failures += 1;
      if (failures === GIVES_UP_AFTER) {
        stop();
        return;
      }
    }
    if (!slow && Date.now() > slowAt) {
      slow = true;
      say(line.dataset.slow);
    }
    setTimeout(look, EVERY);
  }

  setTimeout(look, EVERY);
})();
