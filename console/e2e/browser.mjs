/** A page of a real browser that fails on what a person would not notice: faults of scripts, blocked resources, and
 * content that people with a disability cannot use (WCAG 2.2 AA, as far as axe finds it). */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

/** What a journey is given by the test that starts it.
 * @typedef {{ url: string, browser: string, folder: string, timeout: number, [name: string]: any }} Given */

/** Run a journey with a browser of its own. Prints "ok" at its end, or exits with the reason.
 * @param {(tools: Tools, given: Given) => Promise<void>} journey */
export async function run(journey) {
  /** @type {Given} */
  const given = JSON.parse(readFileSync(0, "utf8"));
  const browser = await chromium.launch({ executablePath: given.browser, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, permissions: ["clipboard-read", "clipboard-write"] });
  context.setDefaultTimeout(given.timeout);
  const page = await context.newPage();
  /** @type {string[]} */
  const faults = [];
  page.on("pageerror", (error) => faults.push(`a script failed: ${error.stack}`));
  page.on("console", (message) => {
    const expected = message.text().startsWith("Failed to load resource"); // a refusal by the API, which the page shows
    if (message.type() === "error" && !expected) faults.push(`the console says: ${message.text()}`);
  });
  page.on("dialog", (dialog) => faults.push(`a dialog opened: ${dialog.message()}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(given.url) && !request.url().startsWith("data:")) faults.push(`a foreign request: ${request.url()}`);
  });
  try {
    await journey(new Tools(page, given, faults), given);
    if (faults.length) throw new Error(faults.join("\n"));
    console.log("ok");
  } catch (error) {
    await page.screenshot({ path: `${given.folder}/failed.png`, fullPage: true }).catch(() => undefined);
    console.error(error, faults, `a picture of the page is in ${given.folder}/failed.png`);
    process.exitCode = 1;
  } finally {
    await browser.close();
  }
}

export class Tools {
  /** @param {import("playwright-core").Page} page @param {Given} given @param {string[]} faults */
  constructor(page, given, faults) {
    this.page = page;
    this.given = given;
    this.faults = faults;
  }

  /** @param {string} email @param {string} password */
  async signIn(email, password) {
    const { page } = this;
    await page.goto(`${this.given.url}/console`);
    await page.getByLabel("E-mail address").fill(email);
    await page.locator('input[autocomplete="current-password"]').fill(password);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("heading", { name: "Playground" }).waitFor();
  }

  /** Go to a view by its link, and check it. @param {string} name @param {string} heading */
  async open(name, heading = name) {
    await this.page.getByRole("navigation").getByRole("link", { name, exact: true }).click();
    await this.page.getByRole("heading", { name: heading, level: 1 }).waitFor();
    await this.page.waitForFunction(() => document.querySelector(".mantine-Skeleton-root") === null);
    await this.check();
  }

  /** Notes what axe finds in what is shown. A picture is made where the test wants pictures. */
  async check() {
    const { page, given } = this;
    await page.waitForFunction(() => document.getAnimations().every((one) => one.playState !== "running")); // colours blend meanwhile
    await page.evaluate(axe);
    const found = await page.evaluate(async (rules) => {
      // @ts-expect-error axe has put itself there
      const { violations } = await window.axe.run(document, { runOnly: rules });
      return violations.map((/** @type {any} */ one) => `${one.id}: ${one.nodes.map((/** @type {any} */ node) => node.html).join(" | ")}`);
    }, RULES);
    const shown = (await page.locator("body").textContent()) ?? "";
    for (const text of given.unseen ?? []) if (shown.includes(text)) this.faults.push(`${page.url()} shows ${text}, which is another tenant's`);
    for (const violation of found) this.faults.push(`axe, on ${page.url()}: ${violation}`);
    if (given.pictures) {
      const name = (new URL(page.url()).hash.replace(/[^a-z-]+/g, " ").trim() || "playground").split(" ")[0];
      await page.screenshot({ path: `${given.pictures}/${name}.png` });
    }
  }

  /** What "Copy as curl" has copied. The view is checked without and with the commands. */
  async curl() {
    const { page } = this;
    await this.check();
    await page.getByRole("button", { name: "Copy as curl" }).click();
    await page.getByTestId("curl").waitFor();
    await this.check();
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    await page.keyboard.press("Escape");
    return copied;
  }
}

/** @param {unknown} condition @param {string} message @returns {asserts condition} */
export function assert(condition, message) {
  if (!condition) throw new Error(message);
}
