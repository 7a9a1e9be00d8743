/** An operator watches how far a verification of the ledger is: it waits for a file after the first entries, and after the
 * first charges. */

import { writeFileSync } from "node:fs";
import { assert } from "./browser.mjs";

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
  const { page } = tools;
  const panel = page.getByTestId("verification").filter({ hasText: "Verify the ledger" });
  const bar = panel.getByRole("progressbar");

  /** What the bar says: from 0 to 100. */
  const share = async () => Number(await bar.getAttribute("aria-valuenow"));
  /** @param {string} what */
  const goOn = (what) => writeFileSync(`${given.server}/${what}`, "");

  await tools.signIn(given.email, given.password);
  await tools.open("Ledger");
  await panel.getByText("not verified since this server started").waitFor();
  assert((await bar.count()) === 0, "a bar is shown though nothing runs");
  await panel.getByRole("button", { name: "Verify the ledger" }).click();

  tools.step("see the first entries");
  await panel.getByText(/^entries: [1-9]\d* of about \d+$/).waitFor();
  await panel.getByText(/^charges: 0 of about \d+$/).waitFor();
  const first = await share();
  assert(first > 0 && first <= 50, `after some entries and no charge, the bar says ${first}`);
  await panel.getByText(`${Math.floor(first)} %`, { exact: false }).waitFor();
  assert(await panel.getByRole("button", { name: "Verify the ledger" }).isDisabled(), "it can be started twice");
  await tools.check();

  tools.step("see the first charges");
  goOn("entries");
  await panel.getByText(/^charges: [1-9]\d* of about \d+$/).waitFor();
  const second = await share();
  assert(second > first && second < 100, `the bar went from ${first} to ${second}`);

  tools.step("see the result");
  goOn("charges");
  await panel.getByText("Clean: nothing is wrong.").waitFor();
  await panel.getByText("finished", { exact: true }).waitFor();
  assert((await bar.count()) === 0, "a bar is shown though it has ended");
};
