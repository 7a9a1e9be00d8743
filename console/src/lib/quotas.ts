/** A quota as `/me/quota` shows it. */
type Quota = { name: string; unit: string; window: string };

/** The windows of the caller's own token quotas: an administrator can grant more in these. */
export function ownTokenWindows(quotas: readonly Quota[]): string[] {
  const own = quotas.filter((quota) => quota.unit === "tokens" && quota.name.startsWith("user-"));
  return [...new Set(own.map((quota) => quota.window))];
}
