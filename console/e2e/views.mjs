/** A user of a role looks at every view of theirs: light, and dark and 375 pixels wide. All that users can name is hostile
 * markup, which is shown as text. */

import { assert } from "./browser.mjs";

const WIDE = { width: 1280, height: 900 };
const NARROW = { width: 375, height: 812 };

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
  const { page } = tools;
  /** @type {Set<string>} */
  const hostile = new Set();

  async function look() {
    await tools.settle();
    await tools.check();
    const made = await page.locator("[onerror], [onclick], [src=x]").count();
    if (made > 0) tools.faults.push(`${page.url()} shows a name as markup`);
    const broken = await page.locator("time").evaluateAll((all) => all.filter((one) => one.getClientRects().length > 1).map((one) => one.textContent));
    if (broken.length > 0) tools.faults.push(`${page.url()} breaks lines in times, at “${tools.current}”: ${broken}`);
  }

  await tools.signIn(given.email, given.password);
  await tools.settle(); // the links depend on the role
  const links = await page.getByRole("navigation").getByRole("link").evaluateAll((all) => all.map((one) => one.getAttribute("href") ?? ""));
  await page.getByRole("navigation").getByRole("link").last().click(); // each view is then another than the one before
  await page.locator("h1", { hasNotText: "Playground" }).waitFor();
  const views = [...links.map((link) => link.replace(/^.*#\//, "")), ...given.more];
  assert(views.length >= given.least, `there are only ${views.length} views`);
  for (const view of views) {
    tools.step(`look at ${view || "playground"}`);
    await page.emulateMedia({ colorScheme: "light" });
    await page.setViewportSize(WIDE);
    await page.evaluate(() => document.querySelector("h1")?.setAttribute("data-left", ""));
    await page.goto(`${given.url}/console#/${view}`);
    await page.locator("h1:not([data-left])").waitFor();
    await look();
    const name = view.split(/[/?]/)[0] ?? "";
    const isHostile = async () => {
      const shown = (await page.getByRole("main").textContent()) ?? "";
      return [given.hostile, given.hostileModel].some((one) => shown.includes(one));
    };
    const more = page.getByRole("main").getByRole("button", { name: "Show more" });
    while (given.hostileOn.includes(name) && !(await isHostile()) && (await more.count()) > 0) {
      const rows = await page.getByRole("row").count(); // a server of many tests has many tenants
      await more.first().click();
      await page.waitForFunction((before) => document.querySelectorAll("tr").length > before, rows);
    }
    if (await isHostile()) hostile.add(name);

    tools.step(`look at ${view || "playground"}, dark and 375 pixels wide`);
    await page.emulateMedia({ colorScheme: "dark" });
    await page.setViewportSize(NARROW);
    await look();
    await page.waitForFunction((width) => document.documentElement.scrollWidth <= width, NARROW.width); // no wider than the telephone
  }
  tools.step("hostile names were shown");
  const missing = given.hostileOn.filter((/** @type {string} */ name) => !hostile.has(name));
  assert(missing.length === 0, `they were not on ${missing}, only on ${[...hostile]}`);

  tools.step("the menu on a telephone");
  await page.getByRole("button", { name: "Menu" }).click();
  await page.getByRole("navigation").getByRole("link", { name: "Playground" }).click();
  await page.getByRole("heading", { name: "Playground" }).waitFor();
  await look();
};
