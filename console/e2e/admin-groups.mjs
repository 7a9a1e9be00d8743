/** An administrator of a tenant: makes a group of users, gives it a budget in the tree, finds the keys of a user there,
 * makes templates, declares a tag with a quota and names it in a call, and has alerts fire. */

import { assert } from "./browser.mjs";

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
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
  await tools.check();
  await group.getByRole("button", { name: "Remove" }).click();
  await dialog.getByText("No later call holds on it", { exact: false }).waitFor();
  await tools.check();
  await dialog.getByLabel("Reason").fill(given.hostile);
  await page.keyboard.press("Escape"); // one who does not go on removes nothing
  await dialog.waitFor({ state: "hidden" });
  await group.getByText("of 1,000,000 tokens used", { exact: false }).waitFor();
  await group.getByRole("button", { name: "Remove" }).click();
  await dialog.getByLabel("Reason").fill(given.hostile);
  await dialog.getByRole("button", { name: "Remove" }).click();
  await group.getByText("no quota").waitFor();
  await dialog.waitFor({ state: "hidden" });
  await page.reload();
  await group.getByText("no quota").waitFor();
  const member = page.getByRole("row").filter({ hasText: given.member });
  await member.getByRole("button", { name: "Show keys" }).click();
  await page.getByText(`key ${given.hostile}`, { exact: false }).waitFor();
  await tools.check();

  await tools.open("Templates");
  const each = page.getByTestId("template-conversation");
  await each.getByText("Conversations are not limited.").waitFor();
  await each.getByRole("button", { name: "Set a limit" }).click();
  await dialog.getByLabel("Limit").fill("50000");
  await dialog.getByLabel("Reason").fill(given.hostile);
  await dialog.getByRole("button", { name: "Set a limit" }).click();
  await each.getByRole("cell", { name: "50,000 tokens per day" }).waitFor();
  await dialog.waitFor({ state: "hidden" });
  await each.getByRole("button", { name: "Only report" }).click();
  await dialog.getByLabel("Reason").fill("A trial");
  await dialog.getByRole("button", { name: "Only report" }).click();
  await each.getByRole("cell", { name: "it only reports" }).waitFor();
  await dialog.waitFor({ state: "hidden" });
  await tools.check();
  await each.getByRole("button", { name: "Remove" }).click();
  await dialog.getByLabel("Reason").fill(given.hostile);
  await dialog.getByRole("button", { name: "Remove" }).click();
  await each.getByText("Conversations are not limited.").waitFor();
  await dialog.waitFor({ state: "hidden" });

  await tools.open("Tags");
  await page.getByText("tollkeeper tag declare").waitFor();
  await page.getByRole("button", { name: "Declare a tag" }).click();
  await dialog.getByLabel("Name").fill("cost-centre");
  await dialog.getByRole("textbox", { name: "Values", exact: true }).fill("42, 43");
  await dialog.getByRole("button", { name: "Declare a tag" }).click();
  await page.getByRole("cell", { name: "2 listed" }).waitFor();
  await dialog.waitFor({ state: "hidden" });
  await page.getByRole("link", { name: "Values of cost-centre" }).click();
  const value = page.getByRole("table", { name: "Values of cost-centre" }).getByRole("row").filter({ has: page.getByRole("cell", { name: "42", exact: true }) });
  await value.getByRole("button", { name: "Set a limit" }).click();
  await dialog.getByLabel("Limit").fill("7000");
  await dialog.getByLabel("Reason").fill(given.hostile);
  await dialog.getByRole("button", { name: "Set a limit" }).click();
  await value.getByText("of 7,000 tokens used", { exact: false }).waitFor();
  await dialog.waitFor({ state: "hidden" });
  await tools.check();

  await tools.open("Playground");
  const tag = page.getByLabel("Tag cost-centre");
  await tag.fill("42,run=7");
  await page.getByText("1 to 64 letters").waitFor();
  await tag.fill("42");
  await page.getByTestId("quota").filter({ hasText: "tag-cost-centre" }).waitFor();
  await tools.check();
  assert((await tools.curl()).includes("'X-Tollkeeper-Tags: cost-centre=42'"), "curl names no tag");
  await tools.open("Tags");
  await page.getByRole("link", { name: "Values of cost-centre" }).click();
  await value.getByRole("button", { name: "Remove" }).click();
  await dialog.getByLabel("Reason").fill(given.hostile);
  await dialog.getByRole("button", { name: "Remove" }).click();
  await value.getByText("no quota").waitFor();
  await dialog.waitFor({ state: "hidden" });
  await tools.check();
  await page.getByRole("button", { name: "Close" }).click();
  await dialog.getByRole("button", { name: "Close" }).last().click();
  await page.getByText("There is no tag yet.").waitFor();

  await tools.open("Alerts");
  await page.getByText("No alert has fired.").waitFor();
  await page.getByRole("button", { name: "Add a rule" }).click();
  await dialog.getByLabel("At these shares").fill("50, 100");
  await dialog.getByRole("button", { name: "Add a rule" }).click();
  await page.getByRole("cell", { name: "50 %, 100 %" }).waitFor();
  await tools.check();
};
