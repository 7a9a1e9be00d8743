/** Single sign-on, as far as the page takes part in it. */

/** The domain of an e-mail address that is complete, in lower case; else undefined. */
export function domainOf(email: string): string | undefined {
  return /^[^@\s]+@([^@\s]+\.[^@\s.]{2,})$/.exec(email.trim())?.[1]?.toLowerCase();
}

/** The correlation id of a single sign-on that was refused, from the query of the URL to which the browser was sent. */
export function refusedIn(query: string): string | null {
  const id = new URLSearchParams(query).get("refused");
  return id !== null && /^[\w.:-]{1,128}$/.test(id) ? id : null;
}
