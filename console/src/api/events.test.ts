import { expect, test, vi } from "vitest";
import { type CallEvent, MAX_SHOWN, type Tail, withEvents } from "./events";

vi.hoisted(() => vi.stubGlobal("location", new URL("https://ai.example.com/console"))); // the module of the API has a base

const event = (id: number) => ({ event_id: String(id) }) as CallEvent;
const ids = (tail: Tail) => tail.events.map((one) => one.event_id);

test("the newest event is the first, none is there twice, and a page keeps so many", () => {
  const lost: Tail = { state: "lost", events: [], dropped: 2, error: new Error("gone") };
  const first = withEvents(lost, [event(1), event(2)]);
  expect(first).toMatchObject({ state: "following", dropped: 2, error: null });
  const again = withEvents(first, [event(1), event(2), event(3)]);
  expect(ids(again)).toEqual(["3", "2", "1"]);
  const many = withEvents(again, Array.from({ length: MAX_SHOWN }, (_, at) => event(at + 4)));
  expect(ids(many)).toHaveLength(MAX_SHOWN);
  expect(ids(many)[0]).toBe(String(MAX_SHOWN + 3));
});
