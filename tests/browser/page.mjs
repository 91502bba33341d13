// Drives the status page of a real tailhop in Chromium. Ends with 0 if everything holds; the first
// thing that does not is told on standard error.
//
//     node page.mjs TAILHOP CHROMIUM FOLDER_OF_NODE_MODULES [FOLDER_FOR_SCREENSHOTS]
import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { createRequire } from "node:module";
import { Mac, Tailhop, Tailscaled, Visitor, says, text, until, unused, write } from "./stage.mjs";

const [binary, chromium, modules, shots] = process.argv.slice(2);
const require = createRequire(path.join(modules, "from.js"));
const { chromium: engine } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const TOKEN = "a-token-of-at-least-thirty-two-characters";
const CANARY = "hidden-canary-7341";
// As text none of it does anything: markup, a script, and signs that turn the direction of text.
const HOSTILE = `<img src=x onerror=alert(1)><script>alert(2)</script> "&amp; \u202eesrever\u202c \u05e9\u05dc\u05d5\u05dd`;
const SHOWN = HOSTILE.replace(/[\u202a-\u202e]/g, "\ufffd");

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "tailhop-page-"));
const file = path.join(folder, "routing.toml");
const [ollama, qdrant, data, admin, lonely, named] = await Promise.all([1, 2, 3, 4, 5, 6].map(unused));
const macs = ["127.0.0.2", "127.0.0.3"].map((host) => new Mac(host, [ollama, qdrant]));
const url = `http://127.0.0.1:${admin}/`;

const routing = `# ops: keep this comment
listen = { data = "127.0.0.1:${data}", admin = "127.0.0.1:${admin}" }
tailnet.dial = "direct"

[backends]
macbook-m1 = { host = "127.0.0.2" }
mac-dev1   = { host = "127.0.0.3" }

[services]
ollama = { port = ${ollama} }
qdrant = { port = ${qdrant} }

[schedule]
timezone = "Asia/Tokyo"
default  = "macbook-m1"
switch   = [{ at = 2099-02-17, to = "mac-dev1" }]
`;

const hop = new Tailhop(binary, ["run", "--config", file], { ADMIN_API_KEY: TOKEN, SECRET_OF_A_URL: CANARY, K_REVISION: "papers-00042" });
// Without a tailscaled, with a stand-in file, and with orders taken away.
const alone = new Tailhop(binary, ["run", "--config", path.join(folder, "gone.toml"), "--config", path.join(folder, "stand-in.toml")], { ADMIN_FUNCTIONS_ENABLED: "false" });
// With a tailscaled, an emergency order, and long names.
const inTailnet = new Tailhop(binary, ["run", "--config", path.join(folder, "tailnet.toml")], { ACTIVE_BACKEND: "mac-dev1" });
const demo = new Tailhop(binary, ["demo"], {});
const tailscaled = new Tailscaled();
const LONG = "a-name-of-sixty-three-letters-is-as-long-as-names-may-be-here-x";

function others() {
  const common = (admin, services) => `[backends]\nmacbook-m1 = {}\nmac-dev1 = {}\n[services]\n${services}\n[schedule]\ndefault = "macbook-m1"\n[listen]\ndata = "127.0.0.1:0"\nadmin = "127.0.0.1:${admin}"\n`;
  const tailnet = (socket) => `[tailnet]\nsocket = "${path.join(folder, socket)}"\n`;
  fs.writeFileSync(path.join(folder, "stand-in.toml"), common(lonely, "ollama = {}\nqdrant = {}") + tailnet("nobody"));
  fs.writeFileSync(path.join(folder, "tailnet.toml"), common(named, `ollama = {}\n${LONG} = { port = 1 }`) + tailnet("socket"));
  const node = (name, ip, more) => ({ DNSName: `${name}.tail1234.ts.net.`, TailscaleIPs: [ip], Online: true, ...more });
  tailscaled.status = {
    Version: "1.102.3", BackendState: "Running", MagicDNSSuffix: "tail1234.ts.net", Health: [HOSTILE],
    Self: node("cr", "100.64.0.9"),
    Peer: { a: node("macbook-m1", "100.64.0.1", { CurAddr: "203.0.113.7:41641" }), b: node("mac-dev1", "100.64.0.2", { Online: false }) },
  };
  return tailscaled.listen(path.join(folder, "socket"));
}

const ask = async (where) => (await fetch(`http://127.0.0.1:${data}${where}`)).headers.get("x-tailhop-backend");
const order = async (where, body) => {
  const headers = { "content-type": "application/json", authorization: `Bearer ${TOKEN}` };
  const answer = await fetch(url + where, { method: "POST", headers, body: JSON.stringify(body) });
  assert.equal(answer.status, 200, await answer.text());
};

let visitor;
const began = Date.now();
const ok = (what) => console.log(`ok  ${((Date.now() - began) / 1000).toFixed(1).padStart(5)} s  ${what}`);

async function isWell() {
  const page = await visitor.open(url);
  assert.equal(await page.evaluate(() => document.documentElement.lang), "en");
  await says(page, "macbook-m1 is active for ollama");
  await says(page, "schedule.default: no switch has passed");
  await says(page, "ollama: mac-dev1 becomes active instead of macbook-m1");
  for (const directive of ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"]) {
    assert.ok(page.policy.includes(directive), page.policy);
  }
  assert.doesNotMatch(page.policy, /unsafe|\*|http/);
  await visitor.accessible(page, "all is well");
  ok("in English: who is active, why, and what comes");
  return page;
}

// The best of three: how busy this machine is is not the page's doing.
async function hearsOfOthers(page) {
  const times = [];
  while (times.length < 3 && !times.some((time) => time < 1000)) {
    await order("pin", { backend: "mac-dev1", for: "1h", reason: `somebody else's, ${times.length}` });
    const answered = Date.now();
    await says(page, `reason: somebody else's, ${times.length}`);
    times.push(Date.now() - answered);
    await order("unpin", {});
    await says(page, "No order holds.");
  }
  assert.ok(Math.min(...times) < 1000, `after ${times} ms`);
  ok(`an order that somebody else gave shows after ${Math.min(...times)} ms`);
}

async function showsAFault(page) {
  macs[0].down();
  const died = Date.now();
  await until("reads go to mac-dev1", async () => (await ask("/ollama/api/version")) === "mac-dev1");
  await says(page, "mac-dev1 answers for ollama: macbook-m1 is active and is down");
  await says(page, "it refuses connections");
  ok(`a Mac that died shows by itself, ${Date.now() - died} ms after its death`);
  await visitor.accessible(page, "a Mac is down");
}

// With something to see: a pin of one service, and the fault of the other.
async function everyShape() {
  await order("pin", { backend: "mac-dev1", services: ["ollama"], for: "2h", reason: "macbook-m1 is at the repair shop" });
  await ask("/qdrant/collections");
  for (const [name, options] of [
    ["desktop", {}],
    ["dark", { scheme: "dark" }],
    ["phone", { width: 390, height: 844 }],
    ["small", { width: 320, height: 640, scheme: "dark", locale: "ja-JP" }],
    ["ja", { locale: "ja-JP" }],
  ]) {
    const page = await visitor.open(url, options);
    await visitor.accessible(page, name);
    if (name !== "small") await visitor.shoot(page, name);
    await page.context().close();
  }
  await order("unpin", {});
  ok("dark, on a phone, 320 px wide: nothing for axe, no sideways scrolling");
}

// From the address bar to an order, with nothing but the keyboard.
async function pinByKeyboard(page) {
  await says(page, "No order holds.");
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  const to = async (id) => {
    for (let tabs = 0; tabs < 12; tabs++) {
      if ((await page.evaluate(() => document.activeElement.id)) === id) return;
      await page.keyboard.press("Tab");
    }
    assert.fail(`${id} is not reached with the Tab key`);
  };
  await to("o-backend");
  await page.keyboard.type("mac-dev1");
  await to("o-reason");
  await page.keyboard.type(HOSTILE);
  await to("o-token");
  await page.keyboard.type(TOKEN);
  await to("do-pin");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#ask[open]");
  await visitor.accessible(page, "the question");
  await page.keyboard.press("Escape");
  await page.waitForSelector("#ask", { state: "hidden" });
  await to("do-pin");
  await page.keyboard.press("Enter");
  await to("yes");
  await page.keyboard.press("Enter");
  await says(page, "mac-dev1 is pinned for all");
  const held = await page.locator("#held").innerText();
  assert.ok(held.includes(`reason: ${SHOWN}`), held);
  assert.match(held, /by ADMIN_API_KEY/);
  assert.match(held, /(2 h 0|1 h 59) min left/);
  assert.equal(await ask("/ollama/api/version"), "mac-dev1");
  const written = fs.readFileSync(file, "utf8");
  assert.ok(written.includes("# ops: keep this comment") && written.includes("[[pin]]"), written);
  assert.equal(await page.locator("main img, main script").count(), 0);
  await visitor.accessible(page, "pinned");
  ok("a pin by keyboard alone: with author, reason and expiry, in the file and in use; markup stays text");
}

async function unpins(page) {
  await page.getByRole("button", { name: "End this pin" }).click();
  await page.click("#yes");
  await says(page, "No order holds.");
  await says(page, "Done: ");
  await says(page, "macbook-m1 is active for ollama");
  await until("reads go to macbook-m1", async () => (await ask("/ollama/api/version")) === "macbook-m1");
  ok("and taken back");
}

async function drains(page) {
  await page.selectOption("#o-backend", "macbook-m1");
  await page.fill("#o-reason", "a disk is full");
  await page.click("#do-drain");
  await page.click("#yes");
  await until("reads go to the other", async () => (await ask("/ollama/api/version")) === "mac-dev1");
  await says(page, "mac-dev1 answers for ollama: macbook-m1 is active and is drained");
  await page.getByRole("button", { name: "End this drain" }).click();
  await page.click("#yes");
  await says(page, "No order holds.");
  ok("a drain, and its end");
}

async function isRefusedWhenStale(page) {
  await page.fill("#o-reason", "decided on what stood there");
  await page.click("#do-pin");
  await page.waitForSelector("#ask[open]");
  await order("pin", { backend: "mac-dev1", for: "1h", reason: "I was first" });
  await says(page, "reason: I was first");
  await page.click("#yes");
  await says(page, "Not done: the file is not the one that you saw");
  const said = await page.locator("#said").innerText();
  assert.match(said, /meanwhile: .*mac-dev1.*"ADMIN_API_KEY".*I was first/);
  await visitor.accessible(page, "refused");
  await order("unpin", {});
  await says(page, "No order holds.");
  ok("who decided on an older state is refused and told what the other did");
}

async function tellsOfAWrongToken(page) {
  await page.fill("#o-token", "wrong");
  await page.click("#do-pin");
  await page.click("#yes");
  await says(page, "Not done: this token is none of ours, or no longer");
  assert.equal(fs.readFileSync(file, "utf8").includes("[[pin]]"), false);
  await until("still live", async () => (await page.locator("#live").innerText()).includes("live"));
  await page.fill("#o-token", TOKEN);
  ok("a wrong token changes nothing and is told");
}

async function speaksJapanese() {
  const ja = await visitor.open(url, { locale: "ja-JP" });
  assert.equal(await ja.evaluate(() => document.documentElement.lang), "ja");
  await says(ja, "ollama は macbook-m1 が担当しています");
  await says(ja, "スケジュールの既定値による");
  // What is left in English is what people, files and the system said, and marked as such.
  const plain = await ja.evaluate(() => {
    const copy = document.querySelector("main").cloneNode(true);
    for (const other of copy.querySelectorAll("[lang=en], bdi")) other.remove();
    return copy.textContent;
  });
  const english = plain.match(/\b(the|is|of|and|no|by|was)\b/gi);
  assert.equal(english, null, plain);
  await ja.selectOption("#language", "en");
  await says(ja, "macbook-m1 is active for ollama");
  assert.match(ja.url(), /lang=en$/);
  await ja.context().close();
  ok("in Japanese throughout, and over to English");
}

async function showsABrokenFile(page) {
  write(file, routing.replace('default  = "macbook-m1"', `default  = "macbok-m1" # ${HOSTILE}`));
  await says(page, 'did you mean "macbook-m1"?');
  await says(page, "The file on disk is not in use (problems: 1)");
  const problems = await page.locator("#problems").innerText();
  assert.ok(problems.includes("<script>alert(2)</script>"), problems);
  await page.fill("#o-reason", "while the file is broken");
  await page.click("#do-pin");
  await page.click("#yes");
  await says(page, "Not done: the file is");
  await visitor.accessible(page, "a broken file");
  write(file, routing);
  await says(page, "the file on disk is in use");
  ok("a broken edit shows with its text, and its repair");
}

async function survivesARestart(page) {
  await hop.end();
  await until("it says that nobody answers", async () => (await page.locator("#live").innerText()) === "✕ not connected");
  await says(page, "No answer since ");
  await visitor.accessible(page, "not connected");
  hop.start();
  await until("it is live again", async () => (await page.locator("#live").innerText()) === "● live");
  assert.ok(!(await text(page)).includes("No answer since"));
  ok("a lost connection shows, and a page left open over a restart goes on");
}

async function withoutTailscaled() {
  await until("the stand-in is taken", async () => (await fetch(`http://127.0.0.1:${lonely}/live`)).ok);
  const page = await visitor.open(`http://127.0.0.1:${lonely}/`);
  await says(page, "The tunnel is ○ starting");
  await says(page, "The stand-in copy of the file is in use");
  await says(page, "Orders cannot be given from here: ADMIN_FUNCTIONS_ENABLED=false takes them away");
  assert.equal(await page.locator("#give").isVisible(), false);
  await visitor.accessible(page, "without tailscaled");
  const japanese = await visitor.open(`http://127.0.0.1:${lonely}/`, { query: "?lang=ja" });
  await says(japanese, "代替コピーの設定を使用中です");
  await page.context().close();
  ok("without a tailscaled, on the stand-in copy, orders taken away");
}

async function inATailnet() {
  const page = await visitor.open(`http://127.0.0.1:${named}/`, { width: 320, height: 640 });
  await says(page, SHOWN);
  await says(page, "macbook-m1: direct");
  await says(page, "mac-dev1: not connected to the control plane");
  await says(page, "ACTIVE_BACKEND: mac-dev1 for everything");
  await says(page, "▲ ACTIVE_BACKEND contradicts the schedule for ollama");
  await says(page, "Orders cannot be given from here: orders are off here, as nobody is named");
  await says(page, LONG);
  assert.equal(await page.locator("main img, main script").count(), 0);
  await visitor.accessible(page, "hostile and long words");
  tailscaled.silent = true;
  ok("what tailscaled says stays text, long names fit 320 px, ACTIVE_BACKEND shows");
  return page;
}

// tailscaled was silent since `inATailnet`, which takes as long to be called dead as it takes.
async function repairs(page) {
  await says(page, "The tunnel is ▲ repairing", 40_000);
  tailscaled.silent = false;
  tailscaled.status = { ...tailscaled.status, BackendState: "NeedsLogin", Health: [] };
  await says(page, "The tunnel is ✕ off");
  await says(page, "tailscaled is logged out: run `tailscale up`");
  ok("a tunnel that needs repair, or a login, shows");
}

async function sleeps() {
  const [, demoAdmin] = demo.log.match(/admin (http:\/\/[\d.:]+)/);
  const [, power] = demo.log.match(/(http:\/\/[\d.:]+)\/macbook-m1\/sleep/);
  await fetch(`${power}/macbook-m1/sleep`, { method: "POST" });
  const page = await visitor.open(`${demoAdmin}/`);
  await says(page, "macbook-m1 is active for qdrant and is asleep");
  await says(page, "probes are not answered");
  await visitor.accessible(page, "asleep");
  await page.context().close();
  ok("a Mac that sleeps");
}

// The policy does hold, and nobody may put the page into a frame.
async function isFenced() {
  const quiet = new Visitor(visitor.browser, axe);
  const page = await quiet.open(url);
  await page.evaluate(() => {
    const style = document.createElement("style");
    style.textContent = "main { display: none }";
    document.head.append(style);
    try {
      document.querySelector("main").innerHTML = "<b>no</b>";
    } catch { /* so it should */ }
  });
  await until("the policy is applied", () => quiet.trouble.some((line) => line.includes("policy: style-src")));
  await until("markup from text is refused", () => quiet.trouble.some((line) => line.includes("policy: require-trusted-types-for")));
  const other = http.createServer((request, response) => {
    response.setHeader("content-type", "text/html");
    response.end(`<iframe src="${url}"></iframe>`);
  });
  await new Promise((done) => other.listen(0, "127.0.0.1", done));
  await page.goto(`http://127.0.0.1:${other.address().port}/`);
  await until("the frame is refused", () => page.frames()[1]?.url().startsWith("chrome-error:"));
  await page.context().close();
  other.close();
  ok("the policy holds: no style, no markup from text, no frame of another site");
}

async function keepsSecrets() {
  const source = await (await fetch(url)).text();
  const status = await (await fetch(`${url}status`)).text();
  for (const secret of [TOKEN, CANARY]) assert.ok(![source, status, hop.log].some((said) => said.includes(secret)));
  assert.ok(Buffer.byteLength(source) <= 60 * 1024, "at most 60 KiB");
  assert.deepEqual(visitor.trouble, []);
  ok(`no secret; in all of it no console line, no error, no policy violation, nothing asked elsewhere; ${Buffer.byteLength(source)} bytes`);
}

async function play() {
  const page = await isWell();
  const tailnet = await inATailnet();
  await hearsOfOthers(page);
  await showsAFault(page);
  await everyShape();
  await pinByKeyboard(page);
  await macs[0].up();
  await unpins(page);
  await drains(page);
  await isRefusedWhenStale(page);
  await tellsOfAWrongToken(page);
  await speaksJapanese();
  await showsABrokenFile(page);
  await withoutTailscaled();
  await sleeps();
  await survivesARestart(page);
  await isFenced();
  await repairs(tailnet);
  await keepsSecrets();
}

const all = [hop, alone, inTailnet, demo];
let browser;
try {
  write(file, routing);
  await Promise.all([...macs.map((mac) => mac.up()), others()]);
  for (const one of all) one.start();
  browser = await engine.launch({
    executablePath: chromium,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  visitor = new Visitor(browser, axe, shots);
  // The fourth one first waits for the file that never comes.
  for (const port of [admin, named]) await until(`${port} is ready`, async () => (await fetch(`http://127.0.0.1:${port}/live`)).ok);
  await until("the demo tells where it is", () => demo.log.includes("/macbook-m1/sleep"));
  await ask("/ollama/api/version");
  await ask("/qdrant/collections");
  ok("four instances, and a browser");
  await play();
} catch (error) {
  console.error(error.stack, visitor?.trouble);
  for (const one of all) console.error(one.log.slice(-1500));
  process.exitCode = 1;
} finally {
  await browser?.close();
  await Promise.allSettled(all.map((one) => one.end()));
  tailscaled.end();
  for (const mac of macs) mac.down();
  fs.rmSync(folder, { recursive: true, force: true });
}
