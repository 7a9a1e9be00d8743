/** Pictures of views, as one user sees them: light, dark, and 375 pixels wide. */

import { writeFileSync } from "node:fs";

const SETTLE_MS = 700;
const QUALITY = 55;
const KINDS = /** @type {const} */ ([
  { kind: "light", colorScheme: "light", viewport: { width: 1280, height: 800 } },
  { kind: "dark", colorScheme: "dark", viewport: { width: 1280, height: 800 } },
  { kind: "narrow", colorScheme: "light", viewport: { width: 375, height: 812 } },
]);

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
  const { page } = tools;
  const session = await page.context().newCDPSession(page);

  /** @param {string} name */
  async function take(name) {
    for (const { kind, colorScheme, viewport } of KINDS) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize(viewport);
      await page.waitForTimeout(SETTLE_MS);
      const { data } = await session.send("Page.captureScreenshot", { format: "webp", quality: QUALITY });
      writeFileSync(`${given.target}/${name}-${kind}.webp`, Buffer.from(data, "base64"));
    }
  }

  if (given.signIn) {
    await page.goto(`${given.url}/console`);
    await page.getByLabel("E-mail address").waitFor();
    await take("sign-in");
    await page.setViewportSize(KINDS[0].viewport);
  }
  await tools.signIn(given.email, given.password);
  for (const { name, path } of given.views) {
    await page.setViewportSize(KINDS[0].viewport);
    await page.goto(`${given.url}/console#/${path}`);
    await page.getByRole("heading", { level: 1 }).waitFor();
    await page.waitForFunction(() => document.querySelector(".mantine-Skeleton-root") === null);
    if (name === "playground") await ask();
    await take(name);
  }

  async function ask() {
    await page.getByLabel("Message").fill("What does a token quota do?");
    await page.getByRole("button", { name: "Send" }).click();
    await page.getByTestId("cost").first().waitFor();
  }
};
