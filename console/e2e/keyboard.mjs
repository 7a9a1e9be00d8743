/** A member without a mouse: signs in, goes to the views by the palette, asks a model, asks for more, and signs out. */

import { assert } from "./browser.mjs";

const MOST_STEPS = 80;

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
  const { page } = tools;
  const { keyboard } = page;

  /** Move the focus with Tab. @param {string} label */
  async function tabTo(label) {
    tools.step(`move to “${label}” with Tab`);
    const named = page.getByRole("button", { name: label, exact: true }).or(page.getByRole("link", { name: label, exact: true }));
    const target = page.locator("input, textarea, button, a").and(page.getByLabel(label).or(named)).first();
    await target.waitFor();
    for (let step = 0; step < MOST_STEPS; step += 1) {
      if (await target.evaluate((element) => element === document.activeElement)) return;
      await keyboard.press("Tab");
    }
    throw new Error(`Tab does not reach “${label}”`);
  }

  /** Open a view, or do an act, by a part of its name. @param {string} typed @param {string} name */
  async function command(typed, name) {
    tools.step(`go to “${name}” by the palette`);
    await keyboard.press("Control+k");
    await page.getByRole("combobox", { name: "A view or an act" }).waitFor();
    await keyboard.type(typed);
    await page.getByRole("option", { name }).and(page.locator('[aria-selected="true"]')).waitFor();
    await keyboard.press("Enter");
    await page.getByRole("dialog").waitFor({ state: "hidden" });
  }

  tools.step("sign in");
  await page.goto(`${given.url}/console`);
  await page.getByLabel("E-mail address").waitFor();
  await keyboard.type(given.email); // the field has the focus from the start
  await keyboard.press("Tab");
  await keyboard.type(given.password);
  await keyboard.press("Enter");
  await page.getByRole("heading", { name: "Playground" }).waitFor();

  await tabTo("Skip to the content");
  await keyboard.press("Enter");
  await tabTo("Message");
  await keyboard.type(given.prompt);
  await keyboard.press("Control+Enter");
  await page.getByTestId("cost").getByText(/^Cost /).waitFor();
  await tools.check();

  await command("more", "Ask for more");
  await tabTo("How many tokens more");
  await keyboard.type("1000");
  await tabTo("Why");
  await keyboard.type(given.hostile);
  await keyboard.press("Enter");
  await page.getByRole("cell", { name: "pending" }).waitFor();

  await command("api k", "API keys");
  await tabTo("Create a key");
  await keyboard.press("Enter");
  await tabTo("Name");
  await keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  tools.step("the focus is where it was");
  await page.waitForFunction(() => document.activeElement?.textContent === "Create a key");

  const before = await page.locator("html").getAttribute("data-mantine-color-scheme");
  await command("dark", "Switch between light and dark");
  await page.waitForFunction((one) => document.documentElement.dataset.mantineColorScheme !== one, before);
  await command("sign out", "Sign out");
  await page.getByLabel("E-mail address").waitFor();
  await page.reload();
  await page.getByLabel("E-mail address").waitFor();
  assert((await page.context().cookies()).length === 0, "a cookie is left");
};
