import { expect, test } from "vitest";
import { areTags } from "../api/attribution";
import { callOf, toolsIn, withoutBytes } from "./call";

const BEFORE = [
  { question: "One?", images: [], answer: "1" },
  { question: "Two?", images: [], answer: "" },
];
const ASKED = { question: "Three?", images: [] as string[], answer: "" };
const IMAGE = "data:image/png;base64,AAAA";

test("a call is of the native API, with the answered turns before it", () => {
  const { path, body, headers } = callOf(BEFORE, ASKED, { retrieve: true, max_tokens: 5, group: "research", tags: { run: "7", team: "", "cost-centre": "4/2" } }, "m");
  const messages = [
    { role: "user", content: "One?" },
    { role: "assistant", content: "1" },
    { role: "user", content: "Three?" },
  ];
  expect({ path, body, headers }).toEqual({
    path: "/ai/chat",
    headers: { "X-Tollkeeper-Group": "research", "X-Tollkeeper-Tags": "run=7,cost-centre=4/2" },
    body: { max_tokens: 5, retrieve: true, messages, stream: true },
  });
});

test("the server knows what was said before in a conversation that it stores", () => {
  const { path, body } = callOf(BEFORE, ASKED, { session: "physics" }, "m");
  expect({ path, body }).toEqual({ path: "/ai/chat", body: { session_id: "physics", messages: [{ role: "user", content: "Three?" }], stream: true } });
});

test("images and tools need OpenAI's API, which has no default model", () => {
  const options = { system_prompt: "Be brief.", tools: '[{"type": "function"}]' };
  const request = callOf([], { ...ASKED, images: [IMAGE] }, options, "m");
  expect(request.path).toBe("/v1/chat/completions");
  expect(request.body).toEqual({
    model: "m",
    stream: true,
    tools: [{ type: "function" }],
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: [{ type: "text", text: "Three?" }, { type: "image_url", image_url: { url: IMAGE } }] },
    ],
  });
  expect(JSON.stringify(withoutBytes(request))).not.toContain("AAAA");
});

test("an image of an earlier turn is sent again", () => {
  const { path, body } = callOf([{ question: "What is it?", images: [IMAGE], answer: "A dot" }], ASKED, {}, "m");
  expect(path).toBe("/v1/chat/completions");
  expect(JSON.stringify(body)).toContain(IMAGE);
});

test("tools are an array in JSON", () => {
  expect(toolsIn("  ")).toBeUndefined();
  expect(toolsIn("[]")).toBeUndefined();
  expect(() => toolsIn("{}")).toThrow(SyntaxError);
  expect(() => toolsIn("[")).toThrow(SyntaxError);
});

test("a value of a tag brings no further tag and no line of a header", () => {
  expect(areTags({ run: "7f3a", team: "", path: "a/b:c@d+e" })).toBe(true);
  for (const value of ["7,team=2", "7\r\nHost: a", "7\n", "-7", "ü", "7 8"]) expect(areTags({ run: value }), value).toBe(false);
});
