import { expect, test } from "vitest";
import { ownTokenWindows } from "./quotas";

test("more can be requested in the windows of one's own token quotas", () => {
  const quotas = [
    { name: "user-day", unit: "tokens", window: "day" },
    { name: "user-month-usd", unit: "micro_usd", window: "month" },
    { name: "tenant-month", unit: "tokens", window: "month" },
    { name: "key-hour", unit: "tokens", window: "hour" },
    { name: "user-day", unit: "tokens", window: "day" },
  ];
  expect(ownTokenWindows(quotas)).toEqual(["day"]);
});
