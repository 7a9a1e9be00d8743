import { expect, test } from "vitest";
import { forecastOf } from "./forecast";

const DAY = { window: "day", limit: 100, used: 10, remaining: 90, resets_at: "2027-01-03T00:00:00Z" };
const at = (hour: number) => Date.UTC(2027, 0, 2, hour);

test("a slow pace leaves something at the reset", () => {
  expect(forecastOf(DAY, at(12))).toEqual({ spentAt: null, atReset: 20 });
});

test("a fast pace ends before the window does", () => {
  expect(forecastOf({ ...DAY, used: 50, remaining: 50 }, at(6))).toEqual({ spentAt: at(12), atReset: 200 });
});

test("a month is as long as it is", () => {
  const month = { ...DAY, window: "month", resets_at: "2027-03-01T00:00:00Z" };
  expect(forecastOf(month, Date.UTC(2027, 1, 15))).toEqual({ spentAt: null, atReset: 20 });
});

test("nothing is known of a window that has just begun, has no end, or in which nothing is used or left", () => {
  expect(forecastOf(DAY, at(0))).toBeNull();
  expect(forecastOf({ ...DAY, window: "total", resets_at: null }, at(12))).toBeNull();
  expect(forecastOf({ ...DAY, used: 0 }, at(12))).toBeNull();
  expect(forecastOf({ ...DAY, remaining: 0 }, at(12))).toBeNull();
});
