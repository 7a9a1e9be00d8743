/** Requests to the API, with types from its OpenAPI document. */

import createClient from "openapi-fetch";
import { apiUrl } from "./base";
import { ApiError, errorOf, readError } from "./problem";
import type { paths } from "./schema";
import { accessToken, refresh } from "./session";
import { confirmPassword } from "./stepUp";

export type { components, paths } from "./schema";

/** Send a request with an access token. A token that is refused is replaced once; where an act needs a fresh login, the
 * user is asked for the password, once. */
export async function authorised(request: Request): Promise<Response> {
  const first = await send(request.clone());
  if (first.status === 401 && (await refresh())) return send(request.clone());
  if (first.status !== 403) return first;
  const error = await readError(first.clone());
  if (error.code === "step_up_required" && (await confirmPassword())) return send(request.clone());
  return first;
}

async function send(request: Request): Promise<Response> {
  request.headers.set("Authorization", `Bearer ${await accessToken()}`);
  return fetch(request);
}

export const api = createClient<paths>({ baseUrl: apiUrl("/").replace(/\/$/, ""), fetch: authorised });

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** What a request has returned. Throws ApiError. */
export async function result<T>(pending: Promise<Answer<T>>): Promise<T> {
  const { data, error, response } = await pending;
  if (!response.ok) throw errorOf(response.status, error, response.headers.get("X-Correlation-ID"));
  return data as T;
}

/** A new value of Idempotency-Key. `crypto.randomUUID` exists on secure origins only. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function isApiError(error: unknown): error is ApiError {
  return error instanceof ApiError;
}
