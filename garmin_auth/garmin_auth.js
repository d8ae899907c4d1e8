// What the pages do by themselves: the progress of a login, and the time left for a code.
"use strict";

// Asks how the login stands, and goes on when it has ended.
function followProgress(line) {
  const EVERY = 2000, SLOW_AFTER = 30000, GIVES_UP_AFTER = 5; // ms, ms, failures in a row
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
}

// Counts the time for the code down, and takes the form away when it is over.
function countDown(line) {
  // From what the server says is left: this device's clock may be wrong.
  const end = Date.now() + Number(line.dataset.seconds) * 1000;
  const left = document.getElementById("ga-left");
  const said = document.getElementById("ga-said");
  const form = document.getElementById("ga-code");
  const over = document.getElementById("ga-over");
  let before = Infinity, timer;

  function finish() {
    clearInterval(timer);
    // On the body where this runs before the browser heeds autofocus.
    const active = document.activeElement;
    const focused = active === document.body || form.contains(active);
    form.hidden = true;
    over.hidden = false;
    said.classList.add("ga-alert");
    said.textContent = said.dataset.over;
    if (focused) {
      document.getElementById("ga-new").focus();
    }
  }

  function tick() {
    const seconds = Math.max(0, Math.ceil((end - Date.now()) / 1000));
    left.textContent = Math.floor(seconds / 60) + ":" + String(seconds % 60).padStart(2, "0");
    // Once, for a screen reader says it; not where the page begins with less.
    if (seconds <= 60 && before > 60 && before < Infinity) {
      said.textContent = said.dataset.minute;
    }
    before = seconds;
    if (seconds === 0) {
      finish();
    }
  }

  line.hidden = false;
  timer = setInterval(tick, 1000);
  tick();
  // A phone that was in a pocket has run no timers.
  document.addEventListener("visibilitychange", () => before > 0 && tick());
}

for (const [id, run] of [["ga-progress", followProgress], ["ga-countdown", countDown]]) {
  const line = document.getElementById(id);
  if (line) {
    run(line);
  }
}
