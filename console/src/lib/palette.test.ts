import { expect, test } from "vitest";
import { matching } from "./palette";

const entries = ["My usage", "Usage", "Audit log"].map((name) => ({ name, section: name === "Audit log" ? "Tenant" : "My account" }));
const names = (query: string) => matching(entries, query).map((entry) => entry.name);

test("what begins so is first", () => {
  expect(names("usa")).toEqual(["Usage", "My usage"]);
  expect(names(" TENANT")).toEqual(["Audit log"]);
  expect(names("")).toHaveLength(3);
  expect(names("xyz")).toEqual([]);
});
