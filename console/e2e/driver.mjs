/** One browser for all journeys of a run. `POST /NAME`, with what the journey is given as JSON, runs `NAME.mjs` in a context
 * of its own, and returns the status 200 or, with the status 500, why it failed. The argument is the path of the browser. Prints its
 * process id and port, and ends at SIGTERM. */

import { createServer } from "node:http";
import { json } from "node:stream/consumers";
import { chromium } from "playwright-core";
import { run } from "./browser.mjs";

const browser = await chromium.launch({
  executablePath: process.argv[2],
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});

const server = createServer(async (request, response) => {
  try {
    const { default: journey } = await import(`.${request.url}.mjs`);
    const given = /** @type {import("./browser.mjs").Given} */ (await json(request));
    const failure = await run(browser, journey, given, (end) => response.once("close", end));
    response.writeHead(failure === null ? 200 : 500).end(failure ?? "");
  } catch (error) {
    response.writeHead(500).end(String(error));
  }
});
server.listen(0, "127.0.0.1", () => {
  const address = server.address();
  if (address !== null && typeof address === "object") console.log(JSON.stringify({ pid: process.pid, port: address.port }));
});
process.once("SIGTERM", () => void browser.close().finally(() => process.exit(0)));
