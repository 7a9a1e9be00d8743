import { expect, test } from "vitest";
import { ago, amount, bytes, percent } from "./format";

test("amounts are in the unit of their quota", () => {
  expect(amount(1_234_567, "tokens")).toBe("1,234,567");
  expect(amount(1_500_000, "micro_usd")).toBe("$1.50");
  expect(amount(7, "micro_usd")).toBe("$0.000007");
});

test("a part of a limit is between nothing and all of it", () => {
  expect(percent(5, 20)).toBe(25);
  expect(percent(30, 20)).toBe(100);
  expect(percent(0, 0)).toBe(100);
  expect(percent(-1, 20)).toBe(0);
});

test("sizes are in units that people know", () => {
  expect([0, 1_023, 1_536, 20 * 2 ** 20].map(bytes)).toEqual(["0 B", "1,023 B", "1.5 KiB", "20 MiB"]);
});

test("times are relative to now", () => {
  const now = Date.UTC(2027, 0, 2, 12);
  expect(ago("2027-01-02T11:57:00Z", now)).toBe("3 minutes ago");
  expect(ago("2027-01-02T14:00:00Z", now)).toBe("in 2 hours");
  expect(ago("2027-01-01T12:00:00Z", now)).toBe("yesterday");
  expect(ago("2027-01-02T12:00:00.5Z", now)).toBe("now");
});
