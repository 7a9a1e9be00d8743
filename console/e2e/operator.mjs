/** An operator: sees whether all is well, creates a tenant, verifies the ledger, sees the entries of a charge, refunds it
 * with a fresh login, and switches a model off and on. */

import { assert } from "./browser.mjs";

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
  const { page } = tools;
  await tools.signIn(given.email, given.password);

  await tools.open("Live");
  await page.getByText("Calls per second").waitFor();
  await page.getByText("Open holds").waitFor();
  await page.getByTestId("tail").filter({ hasText: "Connected." }).waitFor();
  await page.getByRole("cell", { name: `refused: ${given.refusal}` }).first().waitFor(); // a call of before
  const request = { method: "POST", headers: { Authorization: `Bearer ${given.token}`, "Content-Type": "application/json" } };
  const called = await fetch(`${given.url}/ai/query`, { ...request, body: JSON.stringify({ prompt: given.hostile }) });
  const { query_id: charge } = await called.json();
  await page.locator(`a[href$="/ledger/${charge}"]`).waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await tools.check();

  await tools.open("Tenants");
  await page.getByRole("button", { name: "Create a tenant" }).click();
  await page.getByRole("dialog").getByLabel("Name").fill(given.tenant);
  await page.getByRole("dialog").getByRole("button", { name: "Create a tenant" }).click();
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  await tools.check();

  await tools.open("Plans");
  await page.getByRole("button", { name: "Create a plan" }).click();
  await page.getByRole("dialog").getByLabel("Name").fill(given.plan);
  await page.getByRole("dialog").getByLabel("Calls per user").fill("600/minute");
  await page.getByRole("dialog").getByRole("button", { name: "Create a plan" }).click();
  const plan = page.getByRole("row").filter({ hasText: given.plan });
  await plan.getByRole("button", { name: "Put a tenant on it" }).click();
  await page.getByRole("dialog").getByRole("combobox", { name: "Tenant" }).fill(given.tenant);
  await page.getByRole("option", { name: given.tenant }).click();
  await page.getByRole("dialog").getByLabel("Reason").fill(given.hostile);
  await page.getByRole("dialog").getByRole("button", { name: "Put a tenant on it" }).click();
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  await tools.check();

  await tools.open("Ledger");
  await page.getByRole("button", { name: "Verify the ledger" }).click();
  await page.getByText("Clean: nothing is wrong.").first().waitFor({ timeout: 2 * given.timeout }); // by a process of its own
  await page.getByLabel("A charge").fill(given.charge);
  await page.getByRole("button", { name: "Show" }).click();
  await page.getByRole("heading", { name: "Why this call cost what it cost" }).waitFor();
  await page.getByRole("cell", { name: "settle", exact: true }).first().waitFor();
  await tools.check();
  await page.getByRole("button", { name: "Refund" }).click();
  await page.getByRole("dialog").getByLabel("Reason").fill(given.hostile);
  await page.getByRole("dialog").getByRole("button", { name: "Refund" }).click();
  await page.getByRole("cell", { name: given.hostile }).first().waitFor();
  await page.getByRole("button", { name: "Refund" }).first().waitFor({ state: "hidden" });

  await tools.open("Models", "Models and providers");
  const row = page.getByRole("row").filter({ hasText: given.model });
  await row.getByRole("button", { name: "Switch off" }).click();
  await page.getByRole("dialog").getByLabel("Reason").fill(given.hostile);
  await page.getByRole("dialog").getByRole("button", { name: "Switch off" }).click();
  await row.getByText(given.hostile).waitFor();
  await row.getByRole("button", { name: "Switch on" }).click();
  await row.getByRole("cell", { name: "on", exact: true }).waitFor();

  await tools.open("Doctor");
  await page.getByRole("row").filter({ hasText: "signing secret" }).filter({ hasText: "it has at least 32 bytes" }).waitFor();
  assert((await tools.curl()).includes("/admin/doctor"), "curl has no checks");
};
