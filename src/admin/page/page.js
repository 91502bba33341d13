// What is shown is made of /status alone; /events only says when to look at it again.
// Elements are made, never parsed from text: what a file, a Mac or a person says stays text.

const LOOK_EVERY = 3000;
const PATIENCE = 5000;
// The server beats every 15 s.
const SILENCE = 40_000;
const CHANGES_SHOWN = 6;
const ROUTES_SHOWN = 8;

let language = "en";
let status = null;
// The server's clock less ours, in milliseconds.
let ahead = 0;
// When the last look failed after others did not, and what was said then.
let lost = null;
let ordering = false;

const byId = (id) => document.getElementById(id);
const sleep = (time) => new Promise((done) => setTimeout(done, time));
const now = () => Date.now() + ahead;

// Words and elements

const word = (key) => WORDS[language][key] ?? key;
const filled = (key, value) => word(key).replace("{0}", value);

function make(name, attributes, ...content) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value != null) element.setAttribute(key, value);
  }
  element.append(...content.flat(Infinity).filter((one) => one != null && one !== ""));
  return element;
}

// Somebody's words: they cannot turn around the direction of what stands beside them.
const foreign = (text) => make("bdi", {}, String(text).replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd"));
// The same in the language of the program.
function english(text) {
  const element = foreign(text);
  element.lang = "en";
  return element;
}

// A sentence, with its {0}, {1} filled in.
function say(key, ...values) {
  return word(key).split(/(\{\d\})/).map((part) => {
    const place = part.match(/^\{(\d)\}$/);
    if (!place) return part;
    const value = values[place[1]];
    return typeof value === "string" ? foreign(value) : value;
  });
}

const small = (...content) => make("small", {}, ...content);
const tag = (text, grade) => make("span", { class: `tag ${grade ?? ""}` }, text);
const note = (grade, ...content) => make("p", { class: `note ${grade}` }, ...content);
const list = (names) => names.join(word("and"));
const joined = (...parts) => parts.filter((part) => part != null).flatMap((part, i) => (i ? [" · ", part] : [part]));

// Times

const instant = (time) => Date.parse(time);
// In the zone of the schedule, as it came.
const clock = (time) => time.slice(0, 19).replace("T", " ");
// Filled in by `tick`.
const ticking = (kind, time) => make("time", { datetime: time, "data-tick": kind });

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return filled("s", s);
  if (s < 3600) return filled("min", Math.floor(s / 60));
  if (s < 86_400) return `${filled("h", Math.floor(s / 3600))} ${filled("min", Math.floor((s % 3600) / 60))}`;
  return `${filled("d", Math.floor(s / 86_400))} ${filled("h", Math.floor((s % 86_400) / 3600))}`;
}

function tick() {
  for (const time of document.querySelectorAll("[data-tick]")) {
    const seconds = (instant(time.getAttribute("datetime")) - now()) / 1000;
    const kind = time.dataset.tick;
    const text = filled(kind, span(kind === "ago" || kind === "running" ? -seconds : seconds));
    if (time.textContent !== text) time.textContent = text;
  }
}

function took(seconds) {
  if (seconds == null) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
}

// Drawing

const drawn = new Map();

// Replaces what an element holds, if that is different: who reads, selects or types there is not
// disturbed by a look that brought nothing, and a screen reader says nothing twice.
function put(id, ...content) {
  const fresh = make("div", {}, ...content);
  if (drawn.get(id) === fresh.innerHTML) return;
  drawn.set(id, fresh.innerHTML);
  const place = byId(id);
  const focused = place.contains(document.activeElement) && document.activeElement !== place ? document.activeElement.id : null;
  const chosen = place.value;
  place.replaceChildren(...fresh.childNodes);
  if (place.localName === "select" && [...place.options].some((one) => one.value === chosen)) place.value = chosen;
  if (focused !== null) (byId(focused) ?? byId("main")).focus({ preventScroll: true });
}

function show(id, whether) {
  byId(id).hidden = !whether;
}

function draw() {
  drawLink();
  if (!status) return;
  show("main", true);
  put("who", joined(foreign(status.instance), status.version, ticking("running", status.started)));
  drawHeadline();
  put("times", pastItems(), nowItem(), nextItems());
  drawForm();
  put("held", orderItems());
  put("services", status.services.map(serviceTable));
  put("tailnet", tunnelRows());
  put("file", fileParts());
  put("foot", say("foot", status.time.slice(19)), make("a", { href: "status" }, "/status"));
  tick();
}

function drawWords() {
  document.documentElement.lang = language;
  byId("language").value = language;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
}

// Whether what is shown is fresh.
function drawLink() {
  const [key, grade] = lost ? ["lost", "bad"] : status ? ["live", "ok"] : ["connecting", ""];
  put("live", word(key));
  byId("live").className = `tag ${grade}`;
  show("old", lost && status);
  if (lost && status) put("old", say("old", clock(status.time)), lost.said && small(english(lost.said)));
  if (lost && !status) put("foot", lost.said && english(lost.said));
}

// One sentence a service: who is active, who answers, and why.
function drawHeadline() {
  const all = status.services.map(sentence);
  const notes = [];
  const { tailnet, config } = status;
  if (tailnet.state !== "up") {
    notes.push(note(tunnelGrade[tailnet.state], say("now.tunnel", word(`u.${tailnet.state}`)), tailnet.detail && small(english(tailnet.detail))));
  }
  if (config.stand_in) notes.push(note("bad", word("now.stand-in")));
  if (config.rejected) notes.push(note("bad", say("now.rejected", config.rejected.count)));
  put("headline", notes, all.map((one) => one.element));
  const grades = all.map((one) => one.grade).concat(notes.length ? ["warn"] : []);
  byId("now").className = ["bad", "warn"].find((grade) => grades.includes(grade)) ?? "ok";
  const mark = { ok: "●", warn: "▲", bad: "✕" }[byId("now").className];
  document.title = `${mark} ${status.services.map((one) => `${one.name} → ${answering(one)}`).join(", ")} · tailhop`;
}

const endpoint = (service, name) => service.backends.find((one) => one.name === name);
const others = (service) => service.serving.filter((name) => name !== service.active.backend);

function condition(service) {
  const { verdict, drained } = endpoint(service, service.active.backend);
  if (drained) return "drained";
  return verdict === "up" || verdict === "unknown" ? null : verdict;
}

const answering = (service) => (condition(service) && others(service)[0]) || service.active.backend;

function sentence(service) {
  const active = service.active.backend;
  const wrong = condition(service);
  const is = wrong && word(`is.${wrong}`);
  const instead = others(service);
  let grade = "ok";
  let text = say("now.active", active, service.name);
  if (wrong && instead.length) {
    [grade, text] = ["warn", say("now.instead", list(instead), service.name, active, is)];
  } else if (wrong) {
    [grade, text] = ["bad", say(service.serving.length ? "now.but" : "now.nobody", active, service.name, is)];
  }
  const writes = service.writes.backend !== active ? say("now.writes", service.writes.backend) : null;
  return { grade, element: make("p", {}, text, small(joined(why(service), writes))) };
}

// Why the active backend is the active one.
function why(service) {
  const { why: kind, sentence: text } = service.active;
  if (language === "en") return foreign(text);
  const pin = held("pin").find((order) => order.backend === service.active.backend && (!order.services || order.services.includes(service.name)));
  return kind === "pin" && pin ? joined(word("why.pin"), ...orderFacts(pin)) : word(`why.${kind}`);
}

// Timeline

function pastItems() {
  return status.history.slice(0, CHANGES_SHOWN).reverse().map((change) => {
    const facts = [clock(change.time), ticking("ago", change.time), cause(change), change.by && say("by", change.by)];
    // The reason of the schedule is its cause in other words.
    const reason = (change.cause === "pin" || change.kind === "drain") && change.reason;
    return make("li", {}, happened(change), small(joined(...facts.filter(Boolean), reason ? say("because", reason) : null)));
  });
}

function happened(change) {
  if (change.kind === "drain") return say(change.to ? "change.drained" : "change.undrained", change.backend);
  if (change.kind === "switch") return say(change.to ? "change.held" : "change.released", change.service, change.to || change.from);
  return say(`change.${change.kind}`, change.service, change.from || word("nobody"), change.to || word("nobody"));
}

function cause({ kind, cause }) {
  if (kind !== "serving" || cause === "active") return word(`cause.${cause}`);
  return cause === "none" ? null : say("cause.state", word(`is.${cause}`));
}

function nowItem() {
  const actives = status.services.map((one) => `${one.name} → ${one.active.backend}`);
  return make("li", { class: "now" }, `${word("now")}: `, foreign(list(actives)));
}

function nextItems() {
  if (!status.timeline.length) return make("li", { class: "none soft" }, word("none-comes"));
  return status.timeline.map((coming) => {
    const text = coming.kind === "active"
      ? say(coming.writes ? "coming.active" : "coming.reads", coming.service, coming.from, coming.to)
      : say(`coming.${coming.kind}`, coming.to);
    const lacks = coming.lacks ? say("lacks", foreign(list(coming.lacks))) : null;
    return make("li", { class: "next" }, text, small(joined(clock(coming.at), ticking("in", coming.at), lacks)));
  });
}

// Orders

const held = (kind) => status.orders.filter((order) => order.holds && order.kind === kind);

function orderFacts(order) {
  return [
    order.until ? say("until", clock(order.until)) : say("no-end"),
    order.by && say("by", order.by),
    order.reason && say("because", order.reason),
  ].filter(Boolean);
}

function orderItems() {
  const items = status.orders.filter((order) => order.holds).map((order, i) => {
    const services = order.services ? list(order.services) : word("all");
    return make("li", {},
      say(`order.${order.kind}`, order.backend, services), " ",
      order.kind === "pin" && order.writes ? `(${word("with-writes")}) ` : null,
      order.hold_writes ? `(${word("writes-held")}) ` : null,
      order.until ? [ticking("left", order.until), " "] : null,
      endButton(order, i),
      order.kind === "active-backend" ? null : small(joined(...orderFacts(order))));
  });
  const against = status.services.filter((one) => one.contradicts_schedule).map((one) => one.name);
  if (against.length) items.push(make("li", {}, note("warn", say("contradicts", list(against)))));
  return items.length ? items : make("li", { class: "soft" }, word("no-orders"));
}

function endButton(order, i) {
  const path = { pin: "unpin", drain: "undrain" }[order.kind];
  if (!path || byId("give").hidden) return null;
  const button = make("button", { type: "button", id: `end-${i}` }, word(path));
  const body = path === "unpin" ? { services: order.services } : { backend: order.backend };
  button.addEventListener("click", () => give(path, body, say(`ask.${path}`, order.backend)));
  return button;
}

function drawForm() {
  const you = status.you ?? {};
  const may = you.may_order || you.token;
  show("give", may);
  show("off", !may);
  show("as", may);
  show("o-token-box", may && !you.may_order);
  if (!may) put("off", word("off"), you.why && english(you.why));
  if (may) put("as", you.may_order ? say("as", you.name) : word("as-token"));
  const names = [...new Set(status.services.flatMap((one) => one.backends.map((backend) => backend.name)))];
  const option = (value, text) => make("option", { value }, text ?? value);
  put("o-backend", names.map((name) => option(name)));
  put("o-service", option("", word("all")), status.services.map((one) => option(one.name)));
}

function giveFromForm(path) {
  if (!byId("give").reportValidity()) return;
  const backend = byId("o-backend").value;
  const service = byId("o-service").value;
  const length = byId("o-for");
  const body = { backend, for: length.value, reason: byId("o-reason").value };
  if (path === "pin" && service) body.services = [service];
  give(path, body, say(`ask.${path}`, backend, length.selectedOptions[0].textContent, service || word("all")));
}

async function give(path, body, question) {
  if (ordering || byId("ask").open) return;
  // What is decided on is what is shown now; who changed the file meanwhile is told of.
  const base = status.config.hash;
  if (!(await agreed(question))) return;
  ordering = true;
  tell("", word("working"));
  const headers = { "content-type": "application/json" };
  const token = byId("o-token").value;
  if (token && !status.you?.may_order) headers.authorization = `Bearer ${token}`;
  try {
    const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify({ ...body, base }), signal: AbortSignal.timeout(2 * PATIENCE) });
    const text = await answer.text();
    tellOutcome(answer.ok, outcome(text));
  } catch {
    tell("bad", say("failed", word("no-answer")));
  }
  ordering = false;
  await look();
}

// The guard answers in plain text.
function outcome(text) {
  try {
    return JSON.parse(text);
  } catch {
    return { error: text.trim() };
  }
}

function tellOutcome(ok, told) {
  const changes = (told.changes ?? []).map(foreign);
  const facts = [
    told.error && english(told.error),
    ...(told.result === "stale" && changes.length ? [say("meanwhile", joined(...changes))] : changes),
    ...(told.notes ?? []).map(english),
  ].filter(Boolean);
  tell(ok ? "ok" : "bad", say(ok ? "done" : "failed", joined(...facts)), told.problems ?? told.edit);
}

function tell(grade, content, more) {
  byId("said").className = grade;
  byId("said").replaceChildren(...[content].flat(Infinity));
  show("more", more);
  byId("more").replaceChildren(foreign(more ?? ""));
}

function agreed(question) {
  const dialog = byId("ask");
  byId("question").replaceChildren(...question);
  dialog.returnValue = "";
  dialog.showModal();
  byId("no").focus();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}

// Backends, tunnel, configuration

const grade = { up: "ok", suspect: "warn", returning: "warn", asleep: "bad", down: "bad" };
const tunnelGrade = { up: "ok", starting: "warn", repairing: "warn", off: "bad" };

function serviceTable(service) {
  const heads = ["backend", "verdict", "evidence", "work"].map((key) => word(`head.${key}`));
  const { routes } = service;
  const caption = make("caption", {}, service.name, small(joined(
    ...routes.slice(0, ROUTES_SHOWN).map(foreign),
    routes.length > ROUTES_SHOWN ? say("more", routes.length - ROUTES_SHOWN) : null,
    service.listen,
    say("in-flight", service.in_flight),
    ...traffic(service.recent))));
  return make("table", {}, caption,
    make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, service.backends.map((backend) => backendRow(service, backend, heads))));
}

function traffic({ seconds, requests, errors, total, first_byte: first }) {
  const minutes = Math.max(1, Math.round(seconds / 60));
  if (!requests) return [say("traffic.none", minutes)];
  const three = ({ p50, p95, p99 }) => [p50, p95, p99].map(took);
  return [say("traffic", requests, minutes, errors), say("total", ...three(total)), say("first", ...three(first))];
}

function backendRow(service, backend, heads) {
  const marks = [
    backend.name === service.active.backend && tag(word("active"), "ok"),
    service.serving.includes(backend.name) && tag(word("serving")),
    backend.drained && tag(word("drained"), "warn"),
  ].filter(Boolean);
  const error = backend.last_error;
  const loaded = (backend.models?.models ?? []).filter((model) => model.loaded).map((model) => small(
    model.tokens_per_s ? say("rate", foreign(model.name), model.tokens_per_s) : foreign(model.name)));
  const cell = (head, ...content) => make("td", { "data-head": heads[head] }, ...content);
  return make("tr", {},
    make("th", { scope: "row" }, foreign(backend.name), marks.map((mark) => [" ", mark]), backend.url && small(foreign(backend.url))),
    cell(1, tag(word(`v.${backend.verdict}`), grade[backend.verdict]), backend.since && small(say("since", clock(backend.since)))),
    cell(2, word(`e.${backend.evidence}`), error && small(say("last-error", ticking("ago", error.at), english(error.text)))),
    cell(3, backend.in_flight, loaded, backend.lacks && small(say("lacks", foreign(list(backend.lacks))))));
}

const row = (key, ...content) => [make("dt", {}, word(key)), make("dd", {}, ...content)];

function tunnelRows() {
  const { state, since, detail, way, suffix, shields_up: shields, warning, machines, repairs } = status.tailnet;
  const path = ({ online, direct }) => (online ? (direct ? "path.direct" : "path.relay") : "path.offline");
  const lines = (all) => all.map((line) => make("div", {}, line));
  return [
    row("state", tag(word(`u.${state}`), tunnelGrade[state]), small(say("since", clock(since)))),
    detail ? row("detail", english(detail)) : [],
    way ? row("way", way) : [],
    suffix ? row("suffix", foreign(suffix)) : [],
    shields == null ? [] : row("shields", word(shields ? "yes" : "unsafe"), warning && note("warn", english(warning))),
    machines.length ? row("paths", lines(machines.map((one) => say(path(one), one.backend)))) : [],
    row("repairs", repairs.length ? lines(repairs.map((one) => say("repair", one.repair, one.result, one.count))) : word("no-repairs")),
  ];
}

function fileParts() {
  const { path, hash, generation, stand_in: standIn, applied_at: since, rejected, warnings, changes } = status.config;
  const items = (key, all) => (all.length ? [make("h3", {}, word(key)), make("ul", { lang: "en" }, all.map((one) => make("li", {}, foreign(one))))] : []);
  let state = note("ok", word("fine"));
  if (standIn) state = note("bad", word("now.stand-in"));
  if (rejected) state = note("bad", say("now.rejected", rejected.count), small(say("looked", clock(rejected.at))));
  return [
    state,
    rejected ? make("pre", { id: "problems", tabindex: "0", lang: "en" }, foreign(rejected.text)) : null,
    make("dl", {}, row("file", foreign(path)), row("used", say("used.since", clock(since), generation, hash))),
    items("last-change", changes),
    items("warnings", warnings),
  ];
}

// Asking

async function look() {
  try {
    const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Refused(await answer.text());
    const before = status;
    status = await answer.json();
    ahead = instant(status.time) - Date.now();
    lost = null;
    // Another version may have another page.
    if (before && before.version !== status.version) location.reload();
  } catch (error) {
    lost = { said: error instanceof Refused ? error.message.trim() : "" };
  }
  draw();
}

class Refused extends Error {}

// A page that nobody sees holds no connection: a browser has only six for all its pages.
function seen() {
  return document.hidden ? new Promise((done) => document.addEventListener("visibilitychange", done, { once: true })).then(seen) : null;
}

// Looks whenever something changed.
async function follow() {
  for (let pause = 500; ; pause = Math.min(2 * pause, PATIENCE)) {
    await seen();
    const stop = new AbortController();
    const hide = () => document.hidden && stop.abort();
    document.addEventListener("visibilitychange", hide);
    let silent = setTimeout(() => stop.abort(), SILENCE);
    try {
      const answer = await fetch("events", { cache: "no-store", signal: stop.signal });
      if (!answer.ok) throw new Refused();
      const reader = answer.body.getReader();
      while (!(await reader.read()).done) {
        clearTimeout(silent);
        silent = setTimeout(() => stop.abort(), SILENCE);
        pause = 500;
        await look();
      }
    } catch {
      // The next look tells whether anybody answers.
    }
    clearTimeout(silent);
    document.removeEventListener("visibilitychange", hide);
    stop.abort();
    if (!document.hidden) await look();
    await sleep(pause);
  }
}

// Looks now and then: numbers change all the time and are no events.
async function poll() {
  for (;;) {
    await seen();
    await look();
    await sleep(LOOK_EVERY);
  }
}

function speak(tongue) {
  language = tongue;
  drawWords();
  draw();
}

function chosenLanguage() {
  const wanted = [new URLSearchParams(location.search).get("lang"), ...navigator.languages];
  return wanted.map((one) => (one ?? "").slice(0, 2)).find((one) => Object.hasOwn(WORDS, one)) ?? "en";
}

byId("language").addEventListener("change", (event) => {
  speak(event.target.value);
  history.replaceState(null, "", `?lang=${language}`);
});
byId("give").addEventListener("submit", (event) => {
  event.preventDefault();
  giveFromForm("pin");
});
byId("do-drain").addEventListener("click", () => giveFromForm("drain"));
byId("yes").addEventListener("click", () => byId("ask").close("yes"));
byId("no").addEventListener("click", () => byId("ask").close());
setInterval(tick, 1000);
speak(chosenLanguage());
follow();
poll();
