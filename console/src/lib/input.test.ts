import { expect, test } from "vitest";
import { daysFromNow, namesIn } from "./input";

test("names are separated by commas", () => {
  expect(namesIn(" gpt-4o-mini ,echo,, ")).toEqual(["gpt-4o-mini", "echo"]);
  expect(namesIn(" , ")).toBeUndefined();
});

test("an expiry is a moment in UTC", () => {
  expect(daysFromNow(2, Date.UTC(2027, 0, 1))).toBe("2027-01-03T00:00:00.000Z");
});
