/** What becomes of a quota if it is spent as fast as it was so far in its window. */

export interface WindowFacts {
  window: string;
  limit: number;
  used: number;
  remaining: number;
  resets_at: string | null;
}

/** `spentAt`: when nothing is left, in milliseconds; null if the window ends before. Then so much is used: `atReset`. */
export interface Forecast {
  spentAt: number | null;
  atReset: number;
}

const LENGTH_MS: Record<string, number> = { minute: 60_000, hour: 3_600_000, day: 86_400_000, week: 604_800_000 };
/** Before this share of a window has passed, its pace says nothing. */
const KNOWN_FROM = 0.02;

function startOf(window: string, end: number): number | null {
  if (window === "month") return new Date(end).setUTCMonth(new Date(end).getUTCMonth() - 1);
  const length = LENGTH_MS[window];
  return length === undefined ? null : end - length;
}

/** Null where nothing can be known: nothing was used, nothing is left, or the window has no end or has just begun. */
export function forecastOf(quota: WindowFacts, now: number): Forecast | null {
  if (quota.resets_at === null || quota.used <= 0 || quota.remaining <= 0) return null;
  const end = new Date(quota.resets_at).getTime();
  const start = startOf(quota.window, end);
  if (start === null || now >= end || now - start < KNOWN_FROM * (end - start)) return null;
  const pace = quota.used / (now - start);
  const spentAt = now + quota.remaining / pace;
  return { spentAt: spentAt < end ? spentAt : null, atReset: Math.round(quota.used + pace * (end - now)) };
}
