/** An administrator of a tenant: sees people and budgets, grants what a member asked for, sets a limit, invites someone,
 * and finds each act in the audit log. */

import { assert } from "./browser.mjs";

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
  const { page } = tools;
  // A login of long ago: the page has it from the cookie.
  tools.step("confirm who it is, for an act that needs a fresh login");
  const { hostname } = new URL(given.url);
  await page.context().addCookies([{ name: "tollkeeper_refresh", value: given.cookie, domain: hostname, path: "/auth", httpOnly: true, sameSite: "Strict" }]);
  await page.goto(`${given.url}/console#/keys`);
  await page.getByRole("button", { name: "Create a key" }).first().click();
  await page.getByRole("dialog").getByLabel("Name").fill("nightly");
  await page.getByRole("dialog").getByRole("button", { name: "Create a key" }).click();
  const confirm = page.getByRole("dialog", { name: "Confirm that it is you" });
  await confirm.locator('input[type="password"]').fill("wrong");
  await confirm.getByRole("button", { name: "Confirm" }).click();
  await confirm.getByText("The username or the password is wrong.").waitFor();
  await confirm.locator('input[type="password"]').fill(given.password);
  await confirm.getByRole("button", { name: "Confirm" }).click();
  await page.getByRole("dialog", { name: "Your new key" }).getByRole("button", { name: "Close" }).click();

  const names = await page.getByRole("navigation").getByRole("link").allTextContents();
  assert(!names.includes("Tenants") && !names.includes("Ledger"), "an administrator of a tenant sees the installation");

  await tools.open("Requests for more");
  await page.getByRole("cell", { name: given.hostile }).waitFor();
  await page.getByRole("cell", { name: given.member }).waitFor();
  await page.getByRole("button", { name: "Grant", exact: true }).click();
  await page.getByText("Nobody asks for more.").waitFor();
  await tools.check();

  await tools.open("Budgets");
  await page.getByRole("cell", { name: given.member }).waitFor();
  const row = page.getByRole("row").filter({ hasText: given.member });
  await row.getByText(`of ${given.granted} tokens used`, { exact: false }).first().waitFor();
  await row.getByRole("button", { name: "Set a limit" }).last().click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Limit").fill("123456");
  await dialog.getByLabel("Reason").fill(given.hostile);
  await tools.check();
  await dialog.getByRole("button", { name: "Set a limit" }).click();
  await page.getByText("of 123,456 tokens used", { exact: false }).first().waitFor();
  await dialog.waitFor({ state: "hidden" });

  await tools.open("People");
  await page.getByRole("cell", { name: given.member }).waitFor();
  assert(!(await page.getByRole("main").textContent())?.includes(given.stranger), "a user of another tenant is shown");
  await page.getByRole("button", { name: "Invite someone" }).click();
  await page.getByRole("dialog").getByLabel("E-mail address").fill(given.invited);
  await page.getByRole("dialog").getByRole("button", { name: "Invite someone" }).click();
  await page.waitForFunction(() => [...document.querySelectorAll("input")].some((input) => input.value.includes("/auth/invitations#")));
  await page.getByRole("dialog", { name: "The invitation" }).getByRole("button", { name: "Close" }).click();

  await tools.open("Usage");
  await page.getByRole("row").filter({ hasText: given.member }).waitFor();

  await tools.open("Audit log");
  await page.getByRole("cell", { name: "quota.set" }).first().waitFor();
  await page.getByRole("cell", { name: given.hostile }).first().waitFor();
  await page.getByLabel("Action").fill("no.such.act");
  await page.getByText("No act matches.").waitFor();
  assert(page.url().includes("action=no.such.act"), `the filter is not in the URL: ${page.url()}`);
  await page.reload();
  await page.getByText("No act matches.").waitFor();
};
