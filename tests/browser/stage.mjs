// What the page is looked at with: stand-in Macs, tailhop itself, a scripted tailscaled, and a
// browser that notes whatever a page should not do.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import path from "node:path";

const PATIENCE = 20_000;

export const unused = () => new Promise((done) => {
  const server = net.createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => done(port));
  });
});

// Returns once `holds` does; what it throws counts as no.
export async function until(what, holds, patience = PATIENCE) {
  let last = "";
  for (const end = Date.now() + patience; Date.now() < end; ) {
    try {
      if (await holds()) return;
    } catch (error) {
      last = error.message;
    }
    await new Promise((done) => setTimeout(done, 20));
  }
  assert.fail(`never so: ${what} ${last}`);
}

// A Mac that answers everything, on all its ports, and can go away with all its connections.
export class Mac {
  constructor(host, ports) {
    Object.assign(this, { host, ports, servers: [] });
  }

  up() {
    this.servers = this.ports.map((port) => http.createServer((request, response) => {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ version: this.host, models: [], result: { collections: [] } }));
    }).listen(port, this.host));
    return Promise.all(this.servers.map((server) => new Promise((done) => server.on("listening", done))));
  }

  down() {
    for (const server of this.servers) {
      server.close();
      server.closeAllConnections();
    }
  }
}

// A tailscaled that says of itself what it is told to, or nothing.
export class Tailscaled {
  status = {};
  silent = false;

  listen(socket) {
    this.server = http.createServer((request, response) => {
      if (this.silent || request.method !== "GET") return;
      const answers = { "/localapi/v0/status": this.status, "/localapi/v0/prefs": { ShieldsUp: false } };
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify(answers[request.url] ?? {}));
    });
    return new Promise((done) => this.server.listen(socket, done));
  }

  end() {
    this.server.closeAllConnections();
    this.server.close();
  }
}

// A process of the real binary.
export class Tailhop {
  constructor(binary, args, environment) {
    Object.assign(this, { binary, args, environment, log: "" });
  }

  start() {
    const env = { PATH: process.env.PATH, TMPDIR: process.env.TMPDIR ?? "/tmp", ...this.environment };
    this.child = spawn(this.binary, this.args, { env, stdio: ["ignore", "pipe", "pipe"] });
    for (const pipe of [this.child.stdout, this.child.stderr]) pipe.on("data", (text) => (this.log += text));
    this.ended = new Promise((done) => this.child.on("exit", done));
  }

  async end() {
    if (this.child?.exitCode === null) this.child.kill("SIGTERM");
    await this.ended;
  }
}

// Opens pages, and keeps what they did that no page of ours does.
export class Visitor {
  trouble = [];

  constructor(browser, axe, shots) {
    Object.assign(this, { browser, axe, shots });
  }

  async open(url, { query = "", width = 1200, height = 900, scheme = "light", locale = "en-US" } = {}) {
    const context = await this.browser.newContext({ viewport: { width, height }, colorScheme: scheme, locale });
    await context.addInitScript({ content: this.axe });
    await context.addInitScript(() => document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective}`)));
    const page = await context.newPage();
    const note = (text) => this.trouble.push(`${url}: ${text}`);
    // While tailhop restarts, or refuses, what the page asks for cannot be had.
    const expected = /Failed to load resource|ERR_CONNECTION|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE/;
    page.on("console", (line) => expected.test(line.text()) || note(`console: ${line.text()}`));
    page.on("pageerror", (error) => note(`error: ${error.message}`));
    page.on("dialog", (dialog) => note(`dialog: ${dialog.message()}`));
    page.on("request", (request) => request.url().startsWith(url) || request.url().startsWith("data:") || note(`asks ${request.url()}`));
    const answer = await page.goto(url + query);
    await page.waitForSelector("#headline p");
    return Object.assign(page, { policy: answer.headers()["content-security-policy"] });
  }

  // Nothing for axe to find, and nothing wider than the screen.
  async accessible(page, when) {
    const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
    const told = found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 160)).join(" | ")}`);
    assert.deepEqual(told, [], `axe, ${when}`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0, `${when}: ${wide} px wider than the screen`);
  }

  async shoot(page, name) {
    if (this.shots) await page.screenshot({ path: path.join(this.shots, `page-${name}.png`) });
  }
}

export const text = (page) => page.locator("main").innerText();
export const says = (page, words, patience) => until(`the page says ${words}`, async () => (await text(page)).includes(words), patience);

export const write = (file, text) => {
  // As an editor saves: a half file is never seen.
  fs.writeFileSync(`${file}.new`, text);
  fs.renameSync(`${file}.new`, file);
};
