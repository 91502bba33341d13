// Drives the status page of a real tailhop in Chromium. Ends with 0 if everything holds; the first
// thing that does not is told on standard error.
//
//     node page.mjs TAILHOP CHROMIUM FOLDER_OF_NODE_MODULES [FOLDER_FOR_SCREENSHOTS]
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { createRequire } from "node:module";

const [binary, chromium, modules, shots] = process.argv.slice(2);
const require = createRequire(path.join(modules, "from.js"));
const { chromium: engine } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const TOKEN = "a-token-of-at-least-thirty-two-characters";
const CANARY = "hidden-canary-7341";
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "tailhop-page-"));
const file = path.join(folder, "routing.toml");

const unused = () => new Promise((done) => {
  const server = net.createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => done(port));
  });
});

// A stand-in Mac: answers everything, and can go away with all its connections.
class Mac {
  constructor(host, port) {
    this.host = host;
    this.port = port;
    this.sockets = new Set();
  }
  up() {
    this.server = http.createServer((request, response) => {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ version: this.host, models: [], result: { collections: [] } }));
    });
    this.server.on("connection", (socket) => {
      this.sockets.add(socket);
      socket.on("close", () => this.sockets.delete(socket));
    });
    return new Promise((done) => this.server.listen(this.port, this.host, done));
  }
  down() {
    const closed = new Promise((done) => this.server.close(done));
    for (const socket of this.sockets) socket.destroy();
    return closed;
  }
}

class Tailhop {
  start() {
    this.child = spawn(binary, ["run", "--config", file], {
      env: { ADMIN_API_KEY: TOKEN, SECRET_OF_A_URL: CANARY, PATH: process.env.PATH },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.log = "";
    for (const pipe of [this.child.stdout, this.child.stderr]) pipe.on("data", (text) => (this.log += text));
    this.ended = new Promise((done) => this.child.on("exit", done));
  }
  async end() {
    this.child.kill("SIGTERM");
    await this.ended;
  }
}

const [port, data, admin] = [await unused(), await unused(), await unused()];
const macs = [new Mac("127.0.0.2", port), new Mac("127.0.0.3", port)];
const hop = new Tailhop();
const url = `http://127.0.0.1:${admin}/`;
const ask = (where) => fetch(`http://127.0.0.1:${data}${where}`).then((answer) => answer.headers.get("x-tailhop-backend"));
const until = async (what, holds, patience = 15_000) => {
  for (const end = Date.now() + patience; Date.now() < end; ) {
    try {
      if (await holds()) return;
    } catch { /* not yet */ }
    await new Promise((done) => setTimeout(done, 25));
  }
  assert.fail(`${what}\n${hop.log.slice(-2000)}`);
};

const routing = `# ops: keep this comment
listen = { data = "127.0.0.1:${data}", admin = "127.0.0.1:${admin}" }
tailnet.dial = "direct"

[backends]
macbook-m1 = { host = "127.0.0.2" }
mac-dev1   = { host = "127.0.0.3" }

[services]
ollama = { port = ${port} }
qdrant = { port = ${port} }

[schedule]
timezone = "Asia/Tokyo"
default  = "macbook-m1"
switch   = [{ at = 2099-02-17, to = "mac-dev1" }]
`;

let browser;
const trouble = [];

// A page that notes whatever it should not do.
async function open(options, query = "") {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on("console", (message) => {
    // While tailhop restarts, what the page asks for cannot be had.
    if (!/Failed to load resource|ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE/.test(message.text())) trouble.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => trouble.push(`error: ${error.message}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith("data:")) trouble.push(`asks ${request.url()}`);
  });
  const answer = await page.goto(url + query);
  await page.waitForSelector("#headline");
  const policy = answer.headers()["content-security-policy"];
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe/);
  return page;
}

async function accessible(page, when) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const told = found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 120)).join(" | ")}`);
  assert.deepEqual(told, [], `axe, ${when}`);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(wide <= 0, `${when}: ${wide} px wider than the screen`);
}

const says = (page, text, patience) => until(`the page says ${text}`, async () => (await page.locator("main").innerText()).includes(text), patience);

async function shoot(page, name) {
  if (shots) await page.screenshot({ path: path.join(shots, `page-${name}.png`), fullPage: name !== "desktop" });
}

async function steps() {
  const page = await open({ viewport: { width: 1200, height: 900 }, colorScheme: "light", locale: "en-US" });
  assert.equal(await page.evaluate(() => document.documentElement.lang), "en");
  await says(page, "macbook-m1 is active for ollama");
  await says(page, "mac-dev1 becomes active".slice(0, 8));
  await accessible(page, "all is well");
  console.log("ok   in English; nothing wrong for axe; nothing asked elsewhere");

  await macs[0].down();
  const began = Date.now();
  await until("reads go to mac-dev1", async () => (await ask("/ollama/api/version")) === "mac-dev1");
  await says(page, "mac-dev1 answers for ollama: macbook-m1 is active and is down", 5000);
  console.log(`ok   a Mac that died shows by itself, after ${Date.now() - began} ms`);
  await accessible(page, "a Mac is down");
  await shoot(page, "desktop");
  const dark = await open({ viewport: { width: 1200, height: 900 }, colorScheme: "dark", locale: "en-US" });
  await accessible(dark, "dark");
  await shoot(dark, "dark");
  const phone = await open({ viewport: { width: 390, height: 844 }, colorScheme: "light", locale: "en-US" });
  await accessible(phone, "phone");
  await shoot(phone, "phone");
  const small = await open({ viewport: { width: 320, height: 640 }, colorScheme: "dark", locale: "ja-JP" });
  await accessible(small, "small, dark, Japanese");
  await macs[0].up();
  await says(page, "macbook-m1 is active for ollama", 15_000);
  console.log("ok   and that it came back");

  // With the keyboard alone, and a reason that is no markup.
  await page.focus("#o-to");
  await page.keyboard.type("mac-dev1");
  for (const keys of ["Tab", "Tab"]) await page.keyboard.press(keys);
  await page.keyboard.press("Tab");
  await page.keyboard.type('trial <b>"of"</b> the new index');
  await page.keyboard.press("Tab");
  await page.keyboard.type(TOKEN);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "do-pin");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#ask[open]");
  await accessible(page, "the question");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await says(page, "mac-dev1 is pinned for all", 10_000);
  await says(page, 'trial <b>"of"</b> the new index');
  assert.match(await page.locator("[data-left]").first().innerText(), /^1 h 5\d min left$/);
  assert.equal(await ask("/ollama/api/version"), "mac-dev1");
  const written = fs.readFileSync(file, "utf8");
  assert.ok(written.includes("# ops: keep this comment") && written.includes("mac-dev1") && written.includes("pin"), written);
  await accessible(page, "pinned");
  console.log("ok   a pin by keyboard: in the file, in use, counting down");
  await page.click("#do-unpin");
  await page.click("#yes");
  await says(page, "No order holds.", 10_000);
  assert.equal(await ask("/ollama/api/version"), "macbook-m1");
  console.log("ok   and taken back");

  await page.fill("#o-token", "wrong");
  await page.locator("#o-token").blur();
  await page.fill("#o-why", "no");
  await page.click("#do-pin");
  await page.click("#yes");
  await until("a wrong token is told", async () => (await page.locator("#said.bad").innerText()).length > 0);
  assert.equal(fs.readFileSync(file, "utf8").includes("[[pin]]"), false);
  console.log("ok   a wrong token changes nothing and is told");

  const ja = await open({ viewport: { width: 1200, height: 900 }, colorScheme: "light", locale: "ja-JP" });
  assert.equal(await ja.evaluate(() => document.documentElement.lang), "ja");
  await says(ja, "ollama は macbook-m1 が担当しています");
  await accessible(ja, "Japanese");
  await shoot(ja, "ja");
  await ja.selectOption("#lang", "en");
  await says(ja, "macbook-m1 is active for ollama");
  console.log("ok   in Japanese, and over to English");

  fs.writeFileSync(file, routing.replace('default  = "macbook-m1"', 'default  = "macbok-m1"'));
  await says(page, 'did you mean "macbook-m1"?', 10_000);
  fs.writeFileSync(file, routing);
  await says(page, "the file on disk is in use", 10_000);
  console.log("ok   a rejected file shows with its problem, and its repair");

  await hop.end();
  await until("the page says that it is stale", async () => /no news|not connected/.test(await page.locator("#live").innerText()), 20_000);
  hop.start();
  await until("it is live again", async () => (await page.locator("#live").innerText()).includes("live"), 20_000);
  await says(page, "macbook-m1 is active for ollama");
  console.log("ok   a page left open over a restart goes on");

  const source = await (await fetch(url)).text();
  assert.ok(Buffer.byteLength(source) <= 60 * 1024, "the document has at most 60 KiB");
  const status = await (await fetch(`${url}status`)).text();
  for (const secret of [TOKEN, CANARY]) assert.ok(!source.includes(secret) && !status.includes(secret) && !hop.log.includes(secret));
  assert.deepEqual(trouble, []);
  console.log("ok   no console line, no request elsewhere, no secret, 60 KiB at most");
}

try {
  fs.writeFileSync(file, routing);
  await Promise.all(macs.map((mac) => mac.up()));
  hop.start();
  await until("tailhop is ready", async () => (await fetch(`${url}ready`)).ok);
  await ask("/ollama/api/version");
  await ask("/qdrant/collections");
  browser = await engine.launch({
    executablePath: chromium,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  await steps();
} catch (error) {
  console.error(error.stack, trouble);
  process.exitCode = 1;
} finally {
  await browser?.close();
  hop.child?.kill("SIGKILL");
  await Promise.allSettled(macs.map((mac) => mac.down()));
  fs.rmSync(folder, { recursive: true, force: true });
}
