/** The text format of Prometheus, as far as a page needs it
 * (https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format). */

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES: Record<string, string> = { n: "\n" };

export function parseMetrics(text: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (found === null) continue;
    const labels: Record<string, string> = {};
    for (const [, name = "", value = ""] of (found[2] ?? "").matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, character: string) => ESCAPES[character] ?? character);
    }
    samples.push({ name: found[1] ?? "", labels, value: Number(found[3]) });
  }
  return samples;
}

/** The sum of a metric over all its labels; 0 if there is none. */
export function total(samples: Sample[], name: string): number {
  return samples.filter((sample) => sample.name === name).reduce((sum, sample) => sum + sample.value, 0);
}

/** The greatest value of a metric over all its labels; 0 if there is none. */
export function greatest(samples: Sample[], name: string): number {
  return Math.max(0, ...samples.filter((sample) => sample.name === name).map((sample) => sample.value));
}

/** The sums of a metric by the value of one label, the greatest first; those of 0 are left out. */
export function by(samples: Sample[], name: string, label: string): [string, number][] {
  const sums = new Map<string, number>();
  for (const sample of samples) {
    if (sample.name !== name) continue;
    const key = sample.labels[label] ?? "";
    sums.set(key, (sums.get(key) ?? 0) + sample.value);
  }
  return [...sums].filter(([, sum]) => sum > 0).sort((a, b) => b[1] - a[1]);
}

export interface Reading {
  at: number;
  samples: Sample[];
}

/** How fast a counter rises between two readings, per second. Null if that is not known; a restart begins anew. */
export function rate(before: Reading | null, now: Reading, name: string): number | null {
  if (before === null || now.at <= before.at) return null;
  const rise = total(now.samples, name) - total(before.samples, name);
  return rise < 0 ? null : (rise * 1_000) / (now.at - before.at);
}
