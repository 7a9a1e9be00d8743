/** An administrator of a tenant: sets what may not be sent to models, sees in the log what was found, and compares the
 * models by the scores of their answers. */

import { assert } from "./browser.mjs";

const POLL_MS = 200;

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
  const { page } = tools;
  const dialog = page.getByRole("dialog");
  await tools.signIn(given.email, given.password);

  await tools.open("Moderation");
  await page.getByText("There is no policy, so nothing is moderated.").waitFor();
  await page.getByRole("button", { name: "Edit the policy" }).click();
  await dialog.getByLabel("Policy, as JSON").fill("{");
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.getByText("That is no JSON object.").first().waitFor();
  const rule = { name: "names", action: "block", words: [given.forbidden, given.hostile] };
  await dialog.getByLabel("Policy, as JSON").fill(JSON.stringify({ rules: [rule] }));
  await tools.check();
  await dialog.getByRole("button", { name: "Save" }).click();
  await page.getByRole("cell", { name: `${given.forbidden}, ${given.hostile}` }).waitFor();
  await dialog.waitFor({ state: "hidden" });

  tools.step("a member is refused for the rule, a second later at most");
  const headers = { Authorization: `Bearer ${given.token}`, "Content-Type": "application/json" };
  for (;;) {
    const body = JSON.stringify({ prompt: `What is ${given.forbidden}?` });
    const called = await fetch(`${given.url}/ai/query`, { method: "POST", headers, body });
    if (called.status === 400) {
      assert((await called.json()).code === "content_blocked", "the call was refused for another reason");
      break;
    }
    await page.waitForTimeout(POLL_MS);
  }

  tools.step("the log of the moderation");
  const found = page.getByRole("table", { name: "What the rules have found" }).getByRole("row").filter({ hasText: "names" });
  for (let shown = 0; shown === 0; shown = await found.count()) {
    await page.waitForTimeout(POLL_MS); // counts are stored in the background
    await page.reload();
    await page.getByRole("heading", { name: "What the rules have found" }).waitFor();
    await tools.settle();
  }
  await found.getByRole("cell", { name: "block", exact: true }).waitFor();
  await found.getByRole("cell", { name: "enforced" }).waitFor();
  assert(!(await page.getByRole("main").textContent())?.includes(`What is ${given.forbidden}`), "the log has the prompt");
  await tools.check();

  await tools.open("Scores");
  for (const [model, mean] of Object.entries(given.scores)) {
    const row = page.getByRole("row").filter({ has: page.getByRole("cell", { name: model, exact: true }) });
    await row.getByText(mean, { exact: true }).waitFor();
  }
  await page.getByRole("combobox", { name: "By" }).click();
  await page.getByRole("option", { name: "Judge", exact: true }).click();
  await page.getByRole("columnheader", { name: "Judge", exact: true }).waitFor();
  await page.getByRole("cell", { name: given.judge, exact: true }).waitFor();
  assert(page.url().includes("by=judge"), `the filter is not in the URL: ${page.url()}`);
  await page.getByLabel("Until").fill("2026-01-01");
  await page.getByText("No answer was rated in this time.").waitFor();
  await tools.check();

  await tools.open("Moderation");
  await page.getByRole("button", { name: "Remove the policy" }).click();
  await dialog.getByRole("button", { name: "Remove the policy" }).click();
  await page.getByText("There is no policy, so nothing is moderated.").waitFor();
};
