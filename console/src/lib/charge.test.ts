import { expect, test } from "vitest";
import { partsOf } from "./charge";

const closed_at = "2027-01-02T12:00:00Z";

test("the parts of a hold are the whole of it", () => {
  expect(partsOf({ held: 100, cost: 30, forgiven: 20, closed_at })).toEqual({ paid: 30, forgiven: 20, released: 50, overrun: 0 });
  expect(partsOf({ held: 100, cost: 0, forgiven: 0, closed_at })).toEqual({ paid: 0, forgiven: 0, released: 100, overrun: 0 });
});

test("what costs more than was held is an overrun", () => {
  expect(partsOf({ held: 100, cost: 130, forgiven: 0, closed_at })).toEqual({ paid: 100, forgiven: 0, released: 0, overrun: 30 });
});

test("of an open charge nothing is known", () => {
  expect(partsOf({ held: 100, cost: 0, forgiven: 0, closed_at: null })).toEqual({ paid: 0, forgiven: 0, released: 0, overrun: 0 });
});
