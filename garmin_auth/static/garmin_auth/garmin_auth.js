// What the pages do by themselves: the progress of a login, the time left for a code, times in the
// visitor's zone, and what a form's buttons do. Without it, the pages work too.
"use strict";

// Writes seconds as minutes and seconds, such as 1:05.
function inMinutes(seconds) {
  return Math.floor(seconds / 60) + ":" + String(seconds % 60).padStart(2, "0");
}

// Asks how the login stands, and goes on when it has ended.
function followProgress(line) {
  const EVERY = 2000, SLOW_AFTER = 30000, GIVES_UP_AFTER = 5; // ms, ms, failures in a row
  const slowAt = Date.now() + SLOW_AFTER;
  let failures = 0, slow = false;

  // The page that loads itself again every few seconds is for browsers without this script.
  const url = new URL(line.dataset.url, location.href);
  url.searchParams.set("live", "1");
  if (!new URLSearchParams(location.search).has("live")) {
    location.replace(url);
    return;
  }

  // Only what differs is written: a screen reader says it each time.
  function say(text) {
    line.textContent = text;
  }

  function stop() {
    document.getElementById("ga-working").hidden = true;
    document.getElementById("ga-why").hidden = true;
    say(line.dataset.lost);
  }

  async function ask() {
    const response = await fetch(url, {
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

// Counts the time that a login takes.
function countUp(line) {
  const start = Date.now() - Number(line.dataset.seconds) * 1000;
  const passed = document.getElementById("ga-passed");
  setInterval(() => {
    passed.textContent = inMinutes(Math.floor((Date.now() - start) / 1000));
  }, 1000);
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
    left.textContent = inMinutes(seconds);
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

// Disables the buttons of a form once it has been sent.
function disableOnSubmit() {
  const AGAIN_AFTER = 10000; // ms: the visitor may have stopped the page

  function disable(buttons, disabled) {
    buttons.forEach((button) => {
      button.disabled = disabled;
    });
  }

  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented || !event.target.closest(".garmin-auth")) {
      return;
    }
    const buttons = [...event.target.elements].filter((field) => field.matches("button:enabled"));
    disable(buttons, true);
    setTimeout(disable, AGAIN_AFTER, buttons, false);
    // "Back" may show the very page that was left.
    addEventListener("pageshow", () => disable(buttons, false), { once: true });
  });
}

// Lets the visitor see the password that they type.
function showPasswords() {
  document.querySelectorAll(".garmin-auth .ga-toggle").forEach((button) => {
    const field = document.getElementById(button.getAttribute("aria-controls"));

    function show(shown) {
      field.type = shown ? "text" : "password";
      button.setAttribute("aria-pressed", shown);
    }

    button.addEventListener("click", () => show(field.type === "password"));
    // Browsers remember what is sent in a field of text.
    field.form.addEventListener("submit", () => show(false));
    button.hidden = false;
  });
}

// Writes times in this browser's zone, in the language of the text that they stand in.
function writeTimes() {
  const STYLES = {
    date: { dateStyle: "long" },
    time: { timeStyle: "short" },
    datetime: { dateStyle: "long", timeStyle: "short" },
  };
  document.querySelectorAll(".garmin-auth time[data-style]").forEach((time) => {
    const language = time.closest("[lang]")?.lang.replace("_", "-") || undefined;
    const format = new Intl.DateTimeFormat(language, STYLES[time.dataset.style]);
    time.textContent = format.format(new Date(time.dateTime));
  });
}

disableOnSubmit();
showPasswords();
const LINES = [["ga-progress", followProgress], ["ga-elapsed", countUp], ["ga-countdown", countDown]];
for (const [id, run] of LINES) {
  const line = document.getElementById(id);
  if (line) {
    run(line);
  }
}
writeTimes(); // Last: a site's layout may name a language that no browser knows.
