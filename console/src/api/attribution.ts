/** The group that a request counts for, as its header. Without one, the user's default group. */
export function groupHeader(group: string | undefined): Record<string, string> {
  return group ? { "X-Tollkeeper-Group": group } : {};
}
