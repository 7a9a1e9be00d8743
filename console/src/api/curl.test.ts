import { execFileSync } from "node:child_process";
import { beforeAll, expect, test, vi } from "vitest";
import { asCurl, quoted } from "./curl";

beforeAll(() => {
  vi.stubGlobal("location", new URL("https://ai.example.com/prefix/console#/quota"));
});

test("a read names its URL and the variable with the token", () => {
  expect(asCurl({ method: "GET", path: "/me/quota" })).toBe(
    "curl -sS 'https://ai.example.com/prefix/me/quota' -H \"Authorization: Bearer $TOKEN\"",
  );
});

test("parameters are part of the URL, and absent ones are not", () => {
  const params = { path: { charge_id: "a/b" }, query: { limit: 5, cursor: undefined, email: "a&b@x" } };
  expect(asCurl({ method: "DELETE", path: "/me/charges/{charge_id}", params })).toContain(
    "-X DELETE 'https://ai.example.com/prefix/me/charges/a%2Fb?limit=5&email=a%26b%40x'",
  );
});

test.each(["it's", "$(touch x) `id` \"$HOME\" \\ !!", "a\nb", "'; rm -rf ~; '", "ünï"])("a shell takes %j as one word", (text) => {
  const body = { text };
  const words = asCurl({ method: "POST", path: "/ai/query", body }).replace("curl", "printf '%s\\0'");
  const printed = execFileSync("sh", ["-c", words], { env: { TOKEN: "t" }, encoding: "utf8" }).split("\0");
  expect(printed).toContain(JSON.stringify(body));
  expect(printed).toContain("Authorization: Bearer t");
  expect(execFileSync("sh", ["-c", `printf %s ${quoted(text)}`], { encoding: "utf8" })).toBe(text);
});
