/** An administrator of a tenant: sees who spends what with filters in the URL, reads and saves the statement of the month,
 * and gives the tenant a provider key of its own. */

import { readFileSync } from "node:fs";
import { assert } from "./browser.mjs";

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
  const { page } = tools;
  const dialog = page.getByRole("dialog");
  await tools.signIn(given.email, given.password);

  await tools.open("Usage");
  await page.getByRole("row").filter({ hasText: given.member }).waitFor();
  await page.getByRole("combobox", { name: "By" }).click();
  await page.getByRole("option", { name: "Model", exact: true }).click();
  await page.getByRole("combobox", { name: "Whose" }).click();
  await page.getByRole("option", { name: given.member }).click();
  await page.getByRole("columnheader", { name: "Model" }).waitFor();
  assert(/by=model/.test(page.url()) && /user=/.test(page.url()), `the filters are not in the URL: ${page.url()}`);
  await page.reload();
  await page.getByRole("cell", { name: given.model }).waitFor();

  const filter = page.getByRole("textbox", { name: "Tag" });
  await filter.fill("cost-centre=42");
  await filter.press("Enter");
  await page.getByText("There was no call in this time.").waitFor();
  assert(page.url().includes("tag=cost-centre"), `the tag is not in the URL: ${page.url()}`);

  await tools.open("Statement");
  await page.getByRole("cell", { name: given.model }).waitFor();
  const ofTags = page.getByRole("table", { name: "Spent by tag" }).getByRole("row");
  const wanted = Object.entries(given.tagged).map(([value, calls]) => `cost-centre ${value} ${calls}`);
  const shown = async () => (await ofTags.evaluateAll((rows) => rows.slice(1).map((row) => [...row.children].slice(0, 3).map((cell) => cell.textContent).join(" ")))).sort();
  const deadline = Date.now() + given.timeout;
  while ((await shown()).join() !== wanted.join()) {
    assert(Date.now() < deadline, `the lines of tags are ${await shown()}`);
    await page.reload(); // calls are added up after some seconds
    await page.getByRole("cell", { name: given.model }).first().waitFor();
  }
  await page.emulateMedia({ media: "print" });
  for (const frame of [page.locator("header"), page.locator("nav")]) assert(!(await frame.isVisible()), "the frame is printed");
  assert((await page.getByRole("main").evaluate((main) => getComputedStyle(main).paddingLeft)) === "0px", "a margin for the frame is printed");
  const printed = await page.evaluate(() => [document.documentElement, ...document.querySelectorAll("main [role=region]")].filter((one) => one.scrollWidth > one.clientWidth).length);
  assert(printed === 0, "tables are cut on paper");
  assert(!(await page.getByRole("button", { name: "Print" }).isVisible()), "buttons are printed");
  await page.emulateMedia({ media: "screen" });
  const saved = page.waitForEvent("download");
  await page.getByRole("button", { name: "Save as CSV" }).click();
  assert(readFileSync(await (await saved).path(), "utf8").includes(given.model), "the file has no line of the model");

  await tools.open("Provider keys");
  await page.getByRole("button", { name: "Set a key" }).click();
  await dialog.getByLabel("Provider").fill("openai");
  await dialog.locator('input[type="password"]').fill("sk-of-the-tenant-0123456789");
  await dialog.getByRole("button", { name: "Set a key" }).click();
  await page.getByRole("cell", { name: "…6789" }).waitFor();
  assert(!(await page.content()).includes("sk-of-the-tenant"), "the key is shown");
  await page.getByRole("button", { name: "Remove" }).click();
  await dialog.getByRole("button", { name: "Remove" }).click();
  await page.getByText("The tenant has no key of its own").waitFor();
  await tools.check();
};
