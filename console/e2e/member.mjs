/** A member: signs in, asks a model, watches the quota fall, stops a call, sees why it cost what it cost, makes a key. */

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import { assert } from "./browser.mjs";

/** @param {string | null} text */
const number = (text) => Number(text?.replaceAll(",", ""));

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
  const { page } = tools;
  await page.goto(`${given.url}/console`);
  await page.getByLabel("E-mail address").waitFor();
  await tools.check();
  await page.getByLabel("E-mail address").fill(given.email);
  await page.locator('input[autocomplete="current-password"]').fill("wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").getByText("The username or the password is wrong.").waitFor();
  await tools.signIn(given.email, given.password);
  await page.reload(); // the access token was in memory: the cookie brings a new one
  await page.getByRole("heading", { name: "Playground" }).waitFor();
  assert((await page.evaluate(() => JSON.stringify([localStorage, sessionStorage, document.cookie]))).search(/eyJ|tk-refresh/) < 0, "a token is stored");

  tools.step("Ask, and see the cost");
  const left = page.getByTestId("left").first();
  const before = number(await left.textContent());
  await page.getByLabel("Message").fill(given.prompt);
  await page.getByTestId("estimate").filter({ hasText: "fits" }).waitFor();
  await tools.check();
  await page.getByRole("button", { name: "Send" }).click();
  const cost = page.getByTestId("cost").getByText(/^Cost /);
  await cost.waitFor();
  const paid = number((await cost.textContent())?.match(/Cost ([\d,]+)/)?.[1] ?? null);
  assert(paid > 0, "the call cost nothing");
  await page.waitForFunction(([text]) => document.querySelector('[data-testid="left"]')?.textContent === text, [(before - paid).toLocaleString("en")]);
  assert((await page.getByTestId("answer").textContent())?.includes(given.echoed), "the answer is missing");
  await tools.check();

  tools.step("Why: hold, report, settle");
  await page.getByRole("link", { name: "Why this cost" }).click();
  await page.getByRole("heading", { name: "Why this call cost what it cost" }).waitFor();
  assert(number(await page.getByTestId("cost").textContent()) === paid, "the picture shows another cost");
  assert(number(await page.getByTestId("held").textContent()) >= paid, "less was held than paid");
  await tools.check();

  tools.step("The same with curl");
  await tools.open("Quotas", "My quotas");
  const curl = await tools.curl();
  const [, token] = (await page.evaluate(async () => {
    const response = await fetch("auth/refresh", { method: "POST", headers: { "X-Tollkeeper-Console": "1" } });
    return ["", (await response.json()).access_token];
  }));
  const { stdout: printed } = await promisify(execFile)("sh", ["-c", curl], { env: { ...process.env, TOKEN: token } });
  assert(JSON.parse(printed).remaining === before - paid, `curl shows another quota: ${printed}`);

  tools.step("A call that is stopped shows what it cost");
  await tools.open("Playground");
  await page.getByLabel("Message").fill(given.endless);
  await page.getByRole("button", { name: "Send" }).click();
  await page.getByTestId("answer").filter({ hasText: given.begun }).waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByText(/^Stopped\. It cost [\d,]+ tokens\.$/).waitFor();

  await tools.open("Charges", "My charges");
  await page.getByRole("table").getByRole("row").nth(2).waitFor();

  await tools.open("My usage");
  await page.getByRole("row").nth(1).waitFor();
  await page.getByRole("combobox", { name: "By" }).click();
  await page.getByRole("option", { name: "Model", exact: true }).click();
  await page.getByRole("columnheader", { name: "Model" }).waitFor();
  assert(page.url().includes("by=model"), `the filter is not in the URL: ${page.url()}`);
  const saved = page.waitForEvent("download");
  await page.getByRole("button", { name: "Export as CSV" }).click();
  const csv = readFileSync(await (await saved).path(), "utf8");
  assert(csv.includes("cost") && csv.trim().split("\n").length === 2, `the export is ${csv}`);

  tools.step("A key, whose name is hostile; it is shown once, and works until it is revoked");
  await tools.open("API keys");
  await page.getByRole("button", { name: "Create a key" }).first().click();
  await page.getByRole("dialog").getByLabel("Name").fill(given.hostile);
  await page.getByRole("dialog").getByRole("button", { name: "Create a key" }).click();
  const shown = page.getByRole("dialog").getByLabel("Your new key");
  await page.waitForFunction(() => [...document.querySelectorAll("input")].some((input) => input.value.startsWith("tk-")));
  const key = await shown.inputValue();
  const withKey = () => page.evaluate(async (sent) => (await fetch("me", { headers: { Authorization: `Bearer ${sent}` } })).status, key);
  assert((await withKey()) === 200, "the key does not work");
  await page.getByRole("dialog", { name: "Your new key" }).getByRole("button", { name: "Close" }).click();
  await page.getByRole("cell", { name: given.hostile }).waitFor();
  await tools.check();
  await page.getByRole("button", { name: "Revoke" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  await page.getByText("You have no API key.").waitFor();
  assert((await withKey()) === 401, "the revoked key works");

  tools.step("Ask for more");
  await tools.open("Ask for more");
  await page.getByLabel("How many tokens more").fill("1000");
  await page.getByLabel("Why").fill(given.hostile);
  await page.getByRole("button", { name: "Ask", exact: true }).click();
  await page.getByRole("cell", { name: "pending" }).waitFor();

  tools.step("In the dark");
  await page.getByRole("button", { name: "Switch between light and dark" }).click();
  await tools.open("Charges", "My charges");
};
