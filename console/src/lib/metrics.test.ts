import { expect, test } from "vitest";
import { by, greatest, parseMetrics, rate, total } from "./metrics";

const TEXT = `# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{model="a \\"b\\" \\\\ {x}",outcome="ok"} 3.0
calls_total{model="c",outcome="refused"} 1.0 1700000000
calls_total{model="d",outcome="ok"} 2.0
holds 7
oldest{node="1"} 2.5
oldest{node="2"} 1e+01
nothing_total{reason="x"} 0.0
`;
const samples = parseMetrics(TEXT);

test("samples have labels of any text", () => {
  expect(samples[0]).toEqual({ name: "calls_total", labels: { model: 'a "b" \\ {x}', outcome: "ok" }, value: 3 });
  expect(samples).toHaveLength(7);
});

test("sums are over all labels, or by one", () => {
  expect(total(samples, "calls_total")).toBe(6);
  expect(greatest(samples, "oldest")).toBe(10);
  expect(by(samples, "calls_total", "outcome")).toEqual([["ok", 5], ["refused", 1]]);
  expect(by(samples, "nothing_total", "reason")).toEqual([]);
});

test("a rate needs two readings, and a restart begins anew", () => {
  const before = { at: 1_000, samples: parseMetrics("calls_total 10") };
  expect(rate(before, { at: 3_000, samples: parseMetrics("calls_total 16") }, "calls_total")).toBe(3);
  expect(rate(null, before, "calls_total")).toBeNull();
  expect(rate(before, { at: 3_000, samples: parseMetrics("calls_total 2") }, "calls_total")).toBeNull();
});
