/** The entries that match what was typed: those whose name begins so first, then those that contain it anywhere. */
export function matching<T extends { name: string; section: string }>(entries: T[], query: string): T[] {
  const wanted = query.trim().toLowerCase();
  const rank = ({ name, section }: T) => {
    if (name.toLowerCase().startsWith(wanted)) return 0;
    return `${name} ${section}`.toLowerCase().includes(wanted) ? 1 : 2;
  };
  return entries.filter((entry) => rank(entry) < 2).sort((a, b) => rank(a) - rank(b));
}
