/** A page of a real browser that fails on what a person would not notice: faults of scripts, blocked resources, and
 * content that people with a disability cannot use (WCAG 2.2 AA, as far as axe finds it). */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { inspect } from "node:util";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
const KEPT_MESSAGES = 20;
const POLL_MS = 30;

/** What a journey is given by the test that starts it. `axe` is false where another run of it looks for violations.
 * @typedef {{ url: string, folder: string, timeout: number, axe?: boolean, unseen?: string[], [name: string]: any }} Given
 * @typedef {(tools: Tools, given: Given) => Promise<void>} Journey */

/** Run a journey in a context of its own. Returns null, or why it failed: the step, the faults and the last messages of the
 * page, and where its picture is. `onClose` receives what ends the journey early.
 * @param {import("playwright-core").Browser} browser @param {Journey} journey @param {Given} given
 * @param {(end: () => void) => void} onClose */
export async function run(browser, journey, given, onClose) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: "reduce" });
  onClose(() => void context.close());
  context.setDefaultTimeout(given.timeout);
  await context.addInitScript(keepWhatIsCopied);
  const page = await context.newPage();
  const tools = new Tools(page, given);
  try {
    await journey(tools, given);
    if (tools.faults.length === 0) return null;
    throw new Error(`the page has ${tools.faults.length} faults`);
  } catch (error) {
    const picture = `${given.folder}/failed.png`;
    await page.screenshot({ path: picture, fullPage: true, timeout: 10_000 }).catch(() => undefined);
    const messages = tools.messages.slice(-KEPT_MESSAGES);
    return `the step “${tools.current}” failed, on ${page.url()}: ${inspect({ error, faults: tools.faults, messages, picture })}`;
  } finally {
    await context.close();
  }
}

/** The clipboard is that of the whole browser, in which other journeys run. */
function keepWhatIsCopied() {
  Object.defineProperty(navigator.clipboard, "writeText", {
    value: async (/** @type {string} */ text) => {
      // @ts-expect-error read by `Tools.curl`
      window.copied = text;
    },
  });
}

export class Tools {
  /** @param {import("playwright-core").Page} page @param {Given} given */
  constructor(page, given) {
    this.page = page;
    this.given = given;
    this.current = "begin";
    /** @type {string[]} */
    this.faults = [];
    /** @type {string[]} */
    this.messages = [];
    page.on("pageerror", (error) => this.faults.push(`a script failed: ${error.stack}`));
    page.on("console", (message) => {
      this.messages.push(`${message.type()}: ${message.text()} (${message.location().url})`);
      const expected = message.text().startsWith("Failed to load resource"); // a refusal by the API, which the page shows
      if (message.type() === "error" && !expected) this.faults.push(`the console says: ${message.text()}`);
    });
    page.on("dialog", (dialog) => this.faults.push(`a dialog opened: ${dialog.message()}`));
    /** @type {Set<import("playwright-core").Request>} */
    this.pending = new Set();
    page.on("response", (response) => this.pending.delete(response.request())); // some bodies are not read
    page.on("requestfailed", (request) => this.pending.delete(request));
    page.on("request", (request) => {
      if (!request.url().includes("/admin/events")) this.pending.add(request); // that one does not end
      if (!request.url().startsWith(given.url) && !request.url().startsWith("data:")) this.faults.push(`a foreign request: ${request.url()}`);
    });
  }

  /** What the person does next: a failure names it. @param {string} name */
  step(name) {
    this.current = name;
  }

  /** @param {string} email @param {string} password */
  async signIn(email, password) {
    const { page } = this;
    this.step("sign in");
    await page.goto(`${this.given.url}/console`);
    await page.getByLabel("E-mail address").fill(email);
    await page.locator('input[autocomplete="current-password"]').fill(password);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("heading", { name: "Playground" }).waitFor();
  }

  /** Go to a view by its link, and check it. @param {string} name @param {string} heading */
  async open(name, heading = name) {
    this.step(`open ${name}`);
    await this.page.getByRole("navigation").getByRole("link", { name, exact: true }).click();
    await this.page.getByRole("heading", { name: heading, level: 1 }).waitFor();
    await this.settle();
    await this.check();
  }

  /** Wait until all that the view reads is shown. */
  async settle() {
    const { page } = this;
    const deadline = Date.now() + this.given.timeout;
    do {
      if (Date.now() > deadline) throw new Error(`no answer from ${[...this.pending].map((one) => one.url())}`);
      await page.waitForFunction(() => document.querySelector(".mantine-Skeleton-root") === null);
      await page.waitForTimeout(POLL_MS);
    } while (this.pending.size > 0);
  }

  /** Notes what axe finds in what is shown, and texts that this user may not see. */
  async check() {
    const { page, given } = this;
    const shown = (await page.locator("body").textContent()) ?? "";
    for (const text of given.unseen ?? []) if (shown.includes(text)) this.faults.push(`${page.url()} shows ${text}, which is not for this user`);
    if (given.axe === false) return;
    await page.waitForFunction(() => document.getAnimations().every((one) => one.playState !== "running")); // colours blend meanwhile
    if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axe);
    const found = await page.evaluate(async (rules) => {
      // @ts-expect-error axe has put itself there
      const { violations } = await window.axe.run(document, { runOnly: rules, preload: false });
      return violations.map((/** @type {any} */ one) => `${one.id}: ${one.nodes.map((/** @type {any} */ node) => node.html).join(" | ")}`);
    }, RULES);
    for (const violation of found) this.faults.push(`axe, on ${page.url()}, at “${this.current}”: ${violation}`);
  }

  /** What "Copy as curl" has copied. The view is checked without and with the commands. */
  async curl() {
    const { page } = this;
    await this.check();
    await page.getByRole("button", { name: "Copy as curl" }).click();
    await page.getByTestId("curl").waitFor();
    await this.check();
    // @ts-expect-error kept by `keepWhatIsCopied`
    const copied = await page.evaluate(() => /** @type {string} */ (window.copied));
    await page.keyboard.press("Escape");
    return copied;
  }
}

/** @param {unknown} condition @param {string} message @returns {asserts condition} */
export function assert(condition, message) {
  if (!condition) throw new Error(message);
}
