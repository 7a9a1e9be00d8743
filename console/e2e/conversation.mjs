/** A member: uploads a document, is answered from it, goes on with tools and an image, and is refused for a group. */

import { assert } from "./browser.mjs";

const PNG = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==", "base64");

/** @type {import("./browser.mjs").Journey} */
export default async (tools, given) => {
  const { page } = tools;
  const file = page.locator("input[type=file]");
  /** @param {string} question */
  async function ask(question) {
    const turns = await page.getByTestId("turn").count();
    await page.getByLabel("Message").fill(question);
    await page.getByRole("button", { name: "Send" }).click();
    const turn = page.getByTestId("turn").nth(turns);
    await turn.getByText(/^Cost [\d,]+ tokens/).waitFor();
    return turn;
  }

  await tools.signIn(given.email, given.password);
  await tools.open("Documents");
  await page.getByText("--data-binary").waitFor();
  await file.setInputFiles({ name: given.document, mimeType: "text/markdown", buffer: Buffer.from(given.content) });
  await page.getByRole("cell", { name: "ready" }).waitFor();
  await page.getByRole("cell", { name: given.document }).waitFor();
  await tools.check();

  tools.step("An answer with its source, and a second turn");
  await tools.open("Playground");
  await page.getByRole("switch", { name: "Answer from documents" }).click({ force: true });
  const first = await ask(given.question);
  const sources = first.getByTestId("sources");
  assert((await sources.textContent())?.includes(given.document), "the source is not named");
  assert((await sources.textContent())?.includes(given.quote), "the source has no quote");
  await tools.check();
  await page.getByRole("switch", { name: "Answer from documents" }).click({ force: true });

  tools.step("A tool, whose name is hostile, and an image");
  const editor = page.getByRole("textbox", { name: "Tools" });
  await editor.fill("{");
  await page.getByText("This is no JSON array.").waitFor();
  await page.getByLabel("Message").fill(given.toolQuestion);
  assert(await page.getByRole("button", { name: "Send" }).isDisabled(), "a call with broken tools can be sent");
  await editor.fill(given.tools);
  const second = await ask(given.toolQuestion);
  assert((await second.getByTestId("tool").textContent())?.includes(given.argument), "the tool's input is missing");
  await tools.check();
  await editor.fill("");
  await file.setInputFiles({ name: "dot.png", mimeType: "image/png", buffer: PNG });
  await page.getByRole("img", { name: "Image 1" }).waitFor();
  await page.getByLabel("Message").fill(given.question);
  await page.getByText("There is no estimate for images and tools.").waitFor();
  const copied = await tools.curl();
  assert(copied.includes("/v1/chat/completions") && copied.includes(",BASE64") && !copied.includes("iVBOR"), `curl is ${copied}`);
  const third = await ask(given.question);
  await third.getByRole("img", { name: "Image 1" }).waitFor();
  await page.getByRole("button", { name: "New conversation" }).click();

  tools.step("For a group, whose quota is too small");
  await page.getByRole("combobox", { name: "Group" }).click();
  await page.getByRole("option", { name: given.group }).click();
  await page.getByTestId("quota").filter({ hasText: "group" }).waitFor();
  await page.getByLabel("Message").fill(given.question);
  await page.getByTestId("estimate").filter({ hasText: "does not fit" }).waitFor();
  await page.getByRole("button", { name: "Send" }).click();
  await page.getByRole("alert").getByText(/^Correlation ID: /).waitFor();
  await page.setViewportSize({ width: 375, height: 800 });
  await tools.check();
  await page.waitForFunction(() => document.documentElement.scrollWidth <= 375); // the layout follows the size
  await page.setViewportSize({ width: 1280, height: 900 });
  await tools.open("Quotas", "My quotas");
  await page.getByRole("combobox", { name: "Group" }).click();
  await page.getByRole("option", { name: given.group }).click();
  await page.getByTestId("quota").filter({ hasText: "group" }).waitFor();
  assert((await tools.curl()).includes(`'X-Tollkeeper-Group: ${given.group}'`), "curl names no group");

  tools.step("a conversation that the server stores is opened again, goes on, and is deleted");
  await page.reload();
  await page.getByRole("navigation").waitFor();
  await tools.open("Playground");
  await page.getByText("No conversation of yours is stored.").waitFor();
  await page.getByRole("switch", { name: "Store this conversation" }).click({ force: true });
  await page.getByLabel("Name of the conversation").fill("a b");
  await page.getByText("1 to 100 letters, digits and . _ -").waitFor();
  await page.getByLabel("Name of the conversation").fill(given.session);
  await ask(given.question);
  const stored = page.getByTestId("stored").filter({ hasText: given.session });
  await stored.getByText(/^2 messages/).waitFor();
  await page.getByRole("button", { name: "New conversation" }).click();
  await page.getByTestId("turn").waitFor({ state: "hidden" });
  await stored.getByRole("button", { name: given.session, exact: true }).click();
  await page.getByTestId("turn").filter({ hasText: given.echoed }).waitFor();
  await ask(given.question);
  await stored.getByText(/^4 messages/).waitFor();
  const going = await tools.curl();
  assert(going.includes("/ai/sessions") && going.includes(`"session_id":"${given.session}"`), `curl is ${going}`);
  await stored.getByRole("button", { name: `Delete ${given.session}` }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await page.getByText("No conversation of yours is stored.").waitFor();
  assert((await page.getByTestId("turn").count()) === 0, "the deleted conversation is still shown");

  await tools.open("Documents");
  await page.getByRole("button", { name: "Delete" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await page.getByText("There is no document yet.").waitFor();
};
