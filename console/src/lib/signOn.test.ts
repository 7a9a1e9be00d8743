import { expect, test } from "vitest";
import { domainOf, refusedIn } from "./signOn";

test("only a complete address has a domain", () => {
  expect(domainOf(" Ada@Example.COM ")).toBe("example.com");
  expect(["", "ada", "ada@", "ada@example", "a@b@example.com", "ada@example.c"].map(domainOf)).toEqual(Array(6).fill(undefined));
});

test("a refusal is known by its id, and nothing else is shown", () => {
  expect(refusedIn("?refused=0af7-651")).toBe("0af7-651");
  expect(refusedIn("?refused=Call+this+number:+555")).toBeNull();
  expect(refusedIn("")).toBeNull();
});
