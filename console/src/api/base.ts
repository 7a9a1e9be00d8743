/** The page is at `…/console`, and the API beside it. */
export function apiUrl(path: string): string {
  return new URL(path.slice(1), new URL(".", location.href)).href;
}
