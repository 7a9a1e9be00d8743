/** An administrator of a tenant: makes a group of users, gives it a budget in the tree, finds the keys of a user there,
 * and has alerts fire. */

import { run } from "./browser.mjs";

await run(async (tools, given) => {
  const { page } = tools;
  const dialog = page.getByRole("dialog");
  await tools.signIn(given.email, given.password);

  await tools.open("Groups");
  await page.getByRole("button", { name: "Create a group" }).click();
  await dialog.getByLabel("Name").fill(given.group);
  await dialog.getByRole("button", { name: "Create a group" }).click();
  await page.getByRole("row").filter({ hasText: given.group }).getByRole("link", { name: "Members" }).click();
  await page.getByRole("heading", { name: `Members of ${given.group}` }).waitFor();
  await page.getByRole("button", { name: "Add a member" }).click();
  await dialog.getByRole("combobox", { name: "User" }).click();
  await page.getByRole("option", { name: given.member }).click();
  await dialog.getByRole("button", { name: "Add a member" }).click();
  await dialog.waitFor({ state: "hidden" });
  await page.getByRole("cell", { name: given.member }).waitFor();
  await page.getByRole("cell", { name: "yes", exact: true }).waitFor();
  await tools.check();

  await tools.open("Budgets");
  const group = page.getByRole("row").filter({ hasText: `group ${given.group}` });
  await group.getByRole("button", { name: "Set a limit" }).click();
  await dialog.getByLabel("Limit").fill("1000000");
  await dialog.getByLabel("Reason").fill(given.hostile);
  await dialog.getByRole("button", { name: "Set a limit" }).click();
  await group.getByText("of 1,000,000 tokens used", { exact: false }).waitFor();
  await dialog.waitFor({ state: "hidden" });
  const member = page.getByRole("row").filter({ hasText: given.member });
  await member.getByRole("button", { name: "Show keys" }).click();
  await page.getByText(`key ${given.hostile}`, { exact: false }).waitFor();
  await tools.check();

  await tools.open("Alerts");
  await page.getByText("No alert has fired.").waitFor();
  await page.getByRole("button", { name: "Add a rule" }).click();
  await dialog.getByLabel("At these shares").fill("50, 100");
  await dialog.getByRole("button", { name: "Add a rule" }).click();
  await page.getByRole("cell", { name: "50 %, 100 %" }).waitFor();
  await tools.check();
});
