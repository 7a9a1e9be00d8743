/** The login of this page. The access token is in memory only; the refresh token is in a cookie that no script reads. */

import { useSyncExternalStore } from "react";
import { apiUrl } from "./base";
import { ApiError, readError } from "./problem";

/** Before an access token ends by so much, it is replaced. */
const MARGIN_MS = 30_000;

type Status = "starting" | "signed-out" | "signed-in";
interface Tokens {
  access_token: string;
  expires_in: number;
}

let status: Status = "starting";
let token = "";
let endsAt = 0;
let refreshing: Promise<boolean> | null = null;
const listeners = new Set<() => void>();

function change(next: Status, tokens?: Tokens): void {
  status = next;
  token = tokens?.access_token ?? "";
  endsAt = tokens ? Date.now() + tokens.expires_in * 1000 : 0;
  for (const listener of listeners) listener();
}

export function useSessionStatus(): Status {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => status,
  );
}

function post(path: string, body: unknown): Promise<Response> {
  return fetch(apiUrl(path), {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Tollkeeper-Console": "1" },
    body: JSON.stringify(body),
  });
}

/** Log in with a password and, where the account has a second factor, a code. Throws ApiError. */
export async function logIn(username: string, password: string, totp?: string): Promise<void> {
  const response = await post("/auth/login", { username, password, cookie: true, ...(totp ? { totp } : {}) });
  if (!response.ok) throw await readError(response);
  change("signed-in", (await response.json()) as Tokens);
}

/** Exchange the cookie for a new access token. False if there is no valid cookie, after which the login has ended. */
export function refresh(): Promise<boolean> {
  refreshing ??= exchange().finally(() => {
    refreshing = null;
  });
  return refreshing;
}

async function exchange(): Promise<boolean> {
  const response = await post("/auth/refresh", {});
  if (response.ok) {
    change("signed-in", (await response.json()) as Tokens);
    return true;
  }
  if (response.status === 401 || response.status === 403) {
    change("signed-out");
    return false;
  }
  throw await readError(response);
}

/** An access token that is valid now. Throws ApiError where the login has ended. */
export async function accessToken(): Promise<string> {
  if (Date.now() > endsAt - MARGIN_MS && !(await refresh())) throw ApiError.signedOut();
  return token;
}

/** Take the tokens of a response that began a new session: the change of a password. */
export function adopt(tokens: Tokens): void {
  change("signed-in", tokens);
}

/** End this session, or all sessions of the user. */
export async function logOut(everywhere: boolean): Promise<void> {
  const response = await post("/auth/logout", { all: everywhere });
  if (!response.ok && response.status !== 401) throw await readError(response);
  change("signed-out");
}

/** The identity provider of a domain of e-mail addresses, or null. Where that is not known, the sign-in goes on without. */
export async function findProvider(domain: string): Promise<string | null> {
  const response = await fetch(apiUrl(`/auth/oidc?domain=${encodeURIComponent(domain)}`));
  return response.ok ? ((await response.json()) as { provider: string | null }).provider : null;
}

/** Where a login by this provider begins. It ends at the console. `fresh`: the person has to prove anew who they are. */
export function signOnUrl(provider: string, fresh = false): string {
  return apiUrl(`/auth/oidc/${encodeURIComponent(provider)}/start?console=true${fresh ? "&fresh=true" : ""}`);
}
