// Keyboard, time measurement, folding, views of the answers, and sending without a page load.
// The pages are plain forms and work without this file.
"use strict";
(() => {
  const IDLE_MS = 120000; // time counts as active until this long after the last input
  const TICK_MS = 500;
  const MAX_RETRY_MS = 30000;
  const PENDING = "rlalign-pending-vote";
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
  const texts = document.body.dataset;

  let item = null; // state of the task on the screen, see setUp
  let unsent = null; // vote that the server has not confirmed yet
  let busy = false;
  let statusTimers = [];
  let lastInput = performance.now();
  let lastTick = performance.now();

  // ---- Status line and stored vote

  // The text is set a moment after the old one is removed, so that an equal text is read out again.
  function announce(text, persistent = false) {
    const status = $("#status");
    statusTimers.forEach(clearTimeout);
    status.textContent = "";
    status.classList.toggle("persistent", persistent);
    statusTimers = [setTimeout(() => (status.textContent = text), 50)];
    if (!persistent) statusTimers.push(setTimeout(() => (status.textContent = ""), 4000));
  }

  function keep(vote) {
    unsent = vote;
    try {
      if (vote) sessionStorage.setItem(PENDING, JSON.stringify(vote));
      else sessionStorage.removeItem(PENDING);
    } catch {
      // Storage can be disabled; the vote is then kept in memory only.
    }
  }

  function loadKept() {
    try {
      return JSON.parse(sessionStorage.getItem(PENDING));
    } catch {
      return null;
    }
  }

  // ---- Server

  function post(path, body) {
    const headers = { "Content-Type": "application/json", "X-CSRF": $("input[name=csrf]")?.value ?? "" };
    return fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  }

  // Repeat a request until it is answered: after 1, 2, 4, ... seconds, or when the browser is online again.
  async function persist(request, answered) {
    for (let delay = 1000; ; delay = Math.min(2 * delay, MAX_RETRY_MS)) {
      const response = await request().catch(() => null);
      if (response && answered(response)) return response;
      announce(response?.status === 423 ? texts.paused : texts.lost, true);
      await new Promise((resolve) => {
        setTimeout(resolve, delay);
        addEventListener("online", resolve, { once: true });
      });
    }
  }

  async function send(vote) {
    setBusy(true);
    keep(vote);
    const answered = (response) => response.status < 500 && ![423, 429].includes(response.status);
    const response = await persist(() => post("/api/vote", vote), answered);
    keep(null);
    if (response.status === 413 || response.status === 422) {
      const answer = await response.json().catch(() => null);
      setBusy(false);
      announce(answer?.error?.message ?? texts.refused, true);
    } else if (!response.ok && response.status !== 409) {
      location.reload(); // signed out or withdrawn: the server shows which
    } else {
      await showNext();
      setBusy(false);
      announce(response.ok ? texts.saved : texts.conflict, !response.ok);
    }
  }

  // Replace main and footer by those of the next page. The header with the status line stays, so that screen readers
  // announce it. The pointer still lies on the button of the last answer, whose style returns when the pointer moves.
  async function showNext() {
    const response = await persist(() => fetch("/"), () => true);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!$("main", page) || !$("footer", page)) return location.assign("/");
    history.replaceState(null, "", response.url);
    document.title = page.title;
    document.documentElement.classList.add("still");
    for (const part of ["main", "footer"]) $(part).replaceWith(document.adoptNode($(part, page)));
    scrollTo(0, 0);
    setUp();
  }

  // ---- One task

  function setUp() {
    measure();
    item?.observer.disconnect();
    item = null;
    const form = $("#vote");
    if (form) {
      const unseen = new Set($$(".card .end"));
      // The margin is about the height of the sticky buttons, which cover the end of an answer.
      const observer = new IntersectionObserver(
        (entries) => entries.forEach((entry) => entry.isIntersecting && unseen.delete(entry.target)),
        { rootMargin: "0px 0px -80px 0px" },
      );
      item = { form, observer, unseen, born: performance.now(), active: 0, visible: 0, beat: 0, unfolded: false };
      fold();
      unseen.forEach((end) => observer.observe(end));
      setTimeout(showArmed, Number(form.dataset.armMs) + 20);
      showArmed();
    }
    // Areas that scroll sideways must be reachable by keyboard.
    $$("table, math").forEach((wide) => wide.scrollWidth > wide.clientWidth + 1 && (wide.tabIndex = 0));
    $("h1[tabindex]")?.focus({ preventScroll: true });
  }

  // Votes are refused in the first moments of an item: they would be meant for the previous one.
  const armed = () => item && !busy && performance.now() - item.born >= Number(item.form.dataset.armMs);

  function showArmed() {
    const disabled = String(!armed());
    $$("#vote button").forEach((button) => button.setAttribute("aria-disabled", disabled));
  }

  function setBusy(value) {
    busy = value;
    showArmed();
  }

  // Fold all answers at one height if one of them is long. Without this script they are not folded.
  function fold() {
    const folds = $$(".card .fold");
    const limit = 34 * parseFloat(getComputedStyle(document.documentElement).fontSize);
    const long = !item.unfolded && folds.some((answer) => answer.scrollHeight > 1.25 * limit);
    folds.forEach((answer) => answer.classList.toggle("folded", long));
    $(".unfold").hidden = !long;
  }

  function unfold() {
    item.unfolded = true;
    fold();
  }

  function toggle(button) {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(pressed));
    return pressed;
  }

  function toggleRaw(button) {
    const raw = toggle(button);
    $$(".text.rendered").forEach((text) => (text.hidden = raw));
    $$(".text.raw").forEach((text) => (text.hidden = !raw));
    fold();
  }

  function toggleDifferences(button) {
    const marked = toggle(button);
    for (const view of [".rendered", ".raw"]) {
      const [left, right] = $$(`.card ${view}`);
      if (!left || !right) continue; // an empty answer
      if (!marked) [left, right].forEach(Differences.unmark);
      else if (!Differences.mark(left, right)) announce(texts.tooLong);
    }
  }

  function readVote(form, button) {
    measure();
    const { active, unseen, unfolded } = item;
    const measured = { active_ms: Math.round(active), seen: unseen.size === 0, unfolded };
    for (const [name, value] of Object.entries(measured)) form.elements[name].value = Number(value);
    const vote = { lease: Number(form.elements.lease.value), comment: form.elements.comment.value, ...measured };
    if (button?.name === "choice") return { ...vote, choice: button.value };
    const values = {}; // "rating-NAME" or "rank-A": value
    for (const input of $$("input:checked", form)) values[input.name.replace(/^\w+?-/, "")] = Number(input.value);
    return { ...vote, [form.dataset.kind === "rating" ? "ratings" : "ranking"]: values };
  }

  // Add the time since the last call to the item on the screen.
  function measure() {
    const now = performance.now();
    const passed = Math.min(now - lastTick, 4 * TICK_MS); // a longer gap means that the computer slept
    lastTick = now;
    if (!item || document.hidden) return;
    item.visible += passed;
    if (now - lastInput < IDLE_MS) item.active += passed;
  }

  function tick() {
    measure();
    if (!item || document.hidden) return;
    if (busy || item.visible - item.beat < 1000 * Number(item.form.dataset.heartbeatS)) return;
    item.beat = item.visible;
    post("/api/heartbeat", { lease: Number(item.form.elements.lease.value), visible_ms: Math.round(item.visible) }).then(
      (response) => !busy && [401, 403, 409].includes(response.status) && location.reload(),
      () => {}, // the connection is lost: the next heartbeat or the vote tries again
    );
  }

  // ---- Keyboard

  function togglePanel(panel, open = !panel.open) {
    const inside = panel.contains(document.activeElement);
    panel.open = open;
    if (open) $(".sheet", panel).focus();
    else if (inside) $("summary", panel).focus();
  }

  // Set the scale or rank that has the focus, else the first open one, else (after an undo) the first one.
  // The focus then moves to the next one to set, at the end to the button that saves.
  function setPoint(value) {
    const scales = $$("fieldset", item.form);
    const firstOpen = () => scales.find((scale) => !$("input:checked", scale));
    const focused = document.activeElement;
    const complete = !firstOpen();
    const first = complete && !item.form.contains(focused) ? scales[0] : firstOpen();
    const scale = focused.closest("#vote fieldset") ?? first;
    const input = scale && $(`input[value="${value}"]`, scale);
    if (!input) return;
    input.checked = true;
    const next = complete ? scales[scales.indexOf(scale) + 1] : firstOpen();
    if (next) ($("input:checked", next) ?? $("input", next)).focus();
    else $("button.primary", item.form).focus();
  }

  const CHOICES = { Digit1: "a", Digit2: "b", Digit3: "tie", Digit4: "bad", Digit0: "skip" };
  const COMMANDS = {
    KeyZ: () => $("#undo")?.requestSubmit(),
    KeyG: () => togglePanel($("#guidelines")),
    KeyM: () => toggleRaw($("#raw-button")),
    KeyD: () => $("#differences-button") && toggleDifferences($("#differences-button")),
    KeyC: () => {
      $("#comment").open = true;
      $("#comment-text").focus();
    },
  };

  function onKey(event) {
    lastInput = performance.now();
    const { isComposing, keyCode, repeat, ctrlKey, altKey, metaKey, key } = event;
    if (!item || isComposing || keyCode === 229 || repeat || ctrlKey || altKey || metaKey) return;
    const field = event.target.closest("input:not([type=radio]), textarea, select, [contenteditable]");
    if (key === "Escape") {
      field?.blur();
      $$(".panel[open]").forEach((panel) => togglePanel(panel, false));
    }
    if (field || !armed()) return;
    const code = event.code.replace("Numpad", "Digit");
    const choice = CHOICES[code] && $(`button[value="${CHOICES[code]}"]`, item.form);
    if (key === "?" || key === "？") togglePanel($("#shortcuts"));
    else if (choice) item.form.requestSubmit(choice);
    else if (/^Digit\d$/.test(code)) setPoint(code.slice(5));
    else if (COMMANDS[code]) COMMANDS[code]();
    else return;
    event.preventDefault();
  }

  document.addEventListener("keydown", onKey);
  document.addEventListener("submit", (event) => {
    if (event.target !== item?.form) return;
    event.preventDefault();
    if (armed()) send(readVote(event.target, event.submitter));
  });
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (button?.id === "raw-button") toggleRaw(button);
    if (button?.id === "differences-button") toggleDifferences(button);
    if (button?.id === "unfold-button") unfold();
  });
  document.addEventListener("focusin", ({ target }) => item && target.closest(".folded") && unfold());
  for (const name of ["pointermove", "pointerdown", "wheel", "touchmove", "scroll"])
    addEventListener(name, () => (lastInput = performance.now()), { passive: true });
  addEventListener("pointermove", (event) => {
    // browsers also report a move when the page moves under the pointer
    if (event.movementX || event.movementY) document.documentElement.classList.remove("still");
  }, { passive: true });
  addEventListener("beforeunload", (event) => unsent && event.preventDefault());
  setInterval(tick, TICK_MS);

  document.documentElement.classList.add("scripted");
  setUp();
  const kept = loadKept();
  if (kept && $("input[name=csrf]")) send(kept); // without a token this is no page of an annotator
})();
