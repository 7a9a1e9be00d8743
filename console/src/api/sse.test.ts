import { expect, test } from "vitest";
import { EventParser, eventsOf } from "./sse";

const STREAM = ': ping\n\ndata: {"content":"a"}\n\nevent: error\ndata: one\ndata: two\n\ndata: [DONE]\n\n';
const EVENTS = [
  { event: "message", data: '{"content":"a"}' },
  { event: "error", data: "one\ntwo" },
  { event: "message", data: "[DONE]" },
];

test.each([1, 2, 3, 7, 1000])("events are complete, in pieces of %i characters", (size) => {
  const parser = new EventParser();
  const found = [];
  for (let at = 0; at < STREAM.length; at += size) found.push(...parser.push(STREAM.slice(at, at + size)));
  expect(found).toEqual(EVENTS);
});

test("an event that is cut off is none", () => {
  expect(new EventParser().push("data: half")).toEqual([]);
});

test("characters may be divided between chunks", async () => {
  const bytes = new TextEncoder().encode("data: ü€😀\n\n");
  const body = new ReadableStream({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    },
  });
  const found = [];
  for await (const event of eventsOf(new Response(body))) found.push(event);
  expect(found).toEqual([{ event: "message", data: "ü€😀" }]);
});
