/** What people type, as the API wants it. */

/** The names in a list separated by commas; undefined if there are none. */
export function namesIn(text: string): string[] | undefined {
  const names = text.split(",").map((name) => name.trim()).filter(Boolean);
  return names.length ? names : undefined;
}

/** A moment so many days after `now`, in ISO 8601. */
export function daysFromNow(days: number, now: number): string {
  return new Date(now + days * 86_400_000).toISOString();
}
