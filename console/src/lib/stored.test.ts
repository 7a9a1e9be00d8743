import { expect, test } from "vitest";
import { isName, newName, turnsOf } from "./stored";

test("the name of a new conversation is one that the API takes", () => {
  const name = newName(new Date("2027-03-04T05:06:07.891Z"));
  expect(name).toBe("chat-2027-03-04T050607");
  expect(isName(name)).toBe(true);
  for (const wrong of ["", "a b", "a/b", "ä", "x".repeat(101)]) expect(isName(wrong)).toBe(false);
});

test("stored messages are turns: an answer belongs to the question before it", () => {
  const messages = [
    { role: "assistant", content: "Hello" },
    { role: "user", content: "One?" },
    { role: "user", content: "Two?" },
    { role: "assistant", content: "2" },
  ] as const;
  expect(turnsOf([...messages])).toEqual([
    { question: "", images: [], answer: "Hello" },
    { question: "One?", images: [], answer: "" },
    { question: "Two?", images: [], answer: "2" },
  ]);
  expect(turnsOf([])).toEqual([]);
});
