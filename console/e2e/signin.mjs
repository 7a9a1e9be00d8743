/** A member: finds single sign-on, sets up a second factor, signs in with it, and ends sessions. */

import { assert } from "./browser.mjs";
import { codeOf } from "./totp.mjs";

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
  const { page } = tools;
  tools.step("Single sign-on is offered to addresses of a domain that has it; a refusal names the id of its reason");
  await page.goto(`${given.url}/console?refused=id-of-the-reason`);
  await page.getByText("Correlation ID: id-of-the-reason").waitFor();
  await page.getByLabel("E-mail address").fill(`ada@${given.domain}`);
  const signOn = page.getByRole("link", { name: `Single sign-on of ${given.domain}` });
  const target = new URL((await signOn.getAttribute("href")) ?? "", page.url());
  assert(target.href === `${given.url}/auth/oidc/${given.provider}/start?console=true`, `the button leads to ${target}`);
  await tools.check();
  await page.getByLabel("E-mail address").fill(given.email);
  await signOn.waitFor({ state: "hidden" });

  tools.step("To the security by the palette, without the mouse");
  await tools.signIn(given.email, given.password);
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox", { name: "A view or an act" }).fill("sign");
  await page.getByRole("option", { name: "Sign-in & security" }).waitFor();
  await tools.check();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Sign-in & security", level: 1 }).waitFor();

  tools.step("The second factor");
  await page.getByRole("button", { name: "Set up" }).click();
  const shown = page.locator("input[readonly]");
  await shown.waitFor();
  const secret = await shown.inputValue();
  await page.locator('input[autocomplete="one-time-code"]').fill(codeOf(secret));
  await page.getByRole("button", { name: "Confirm" }).click();
  await page.getByTestId("recovery").waitFor();
  await page.getByText("It is set up").waitFor();
  await tools.check();
  await page.getByRole("button", { name: "Sign out", exact: true }).click();
  await page.getByLabel("E-mail address").fill(given.email);
  await page.locator('input[autocomplete="current-password"]').fill(given.password);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByLabel("Code of your second factor").fill("000000");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").waitFor();
  await tools.check();
  await page.getByLabel("Code of your second factor").fill(codeOf(secret, 1)); // a code works once
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Sign-in & security", level: 1 }).waitFor();

  tools.step("Another session ends, then all do");
  await page.getByRole("cell", { name: given.program }).waitFor();
  await page.getByRole("row").filter({ hasText: given.program }).getByRole("button", { name: "End" }).click();
  await page.getByRole("cell", { name: given.program }).waitFor({ state: "hidden" });
  await page.setViewportSize({ width: 375, height: 800 });
  await tools.check();
  await page.waitForFunction(() => document.documentElement.scrollWidth <= 375); // the layout follows the size
  await page.getByRole("button", { name: "Sign out everywhere" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Sign out everywhere" }).click();
  await page.getByLabel("E-mail address").waitFor();
  await page.reload();
  await page.getByLabel("E-mail address").waitFor();
};
