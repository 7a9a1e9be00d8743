/** Numbers, money and times as people read them. */

const number = new Intl.NumberFormat("en");
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400_000],
  ["hour", 3_600_000],
  ["minute", 60_000],
  ["second", 1_000],
];

export function count(value: number): string {
  return number.format(value);
}

/** A size in the greatest unit of which it is at least one. */
export function bytes(size: number): string {
  const units = ["B", "KiB", "MiB", "GiB"];
  const at = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, size)) / 10));
  return `${new Intl.NumberFormat("en", { maximumFractionDigits: 1 }).format(size / 2 ** (10 * at))} ${units[at]}`;
}

/** An amount of a quota in its unit. Micro-USD become USD. */
export function amount(value: number, unit: string): string {
  if (unit === "micro_usd") return `$${(value / 1_000_000).toFixed(value % 10_000 ? 6 : 2)}`;
  return count(value);
}

export function unitName(unit: string): string {
  return { tokens: "tokens", micro_usd: "USD", requests: "requests", concurrency: "calls in flight" }[unit] ?? unit;
}

/** "3 minutes ago", "in 2 hours". */
export function ago(moment: string, now: number): string {
  const difference = new Date(moment).getTime() - now;
  for (const [unit, size] of UNITS) {
    if (Math.abs(difference) >= size) return relative.format(Math.trunc(difference / size), unit);
  }
  return "now";
}

/** The exact time, in the time zone of this browser, with its name. */
export function exactly(moment: string): string {
  return new Date(moment).toLocaleString("en", { dateStyle: "medium", timeStyle: "long" });
}

/** How much of a limit is gone, from 0 to 100. A limit of nothing is gone. */
export function percent(part: number, limit: number): number {
  if (limit <= 0) return part > 0 || limit === 0 ? 100 : 0;
  return Math.min(100, Math.max(0, (100 * part) / limit));
}
