/** A request of the console as a command for a shell. */

import { apiUrl } from "./base";

export interface ApiRequest {
  method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** With parameters in braces, as in the OpenAPI document. */
  path: string;
  params?: { path?: Record<string, unknown>; query?: Record<string, unknown> };
  /** Beside Authorization and Content-Type. */
  headers?: Record<string, string>;
  body?: unknown;
}

/** The request as curl sends it, with the access token from the variable TOKEN. */
export function asCurl(request: ApiRequest): string {
  const words = ["curl", "-sS"];
  if (request.method !== "GET") words.push("-X", request.method);
  words.push(quoted(urlOf(request)), "-H", '"Authorization: Bearer $TOKEN"');
  for (const [name, value] of Object.entries(request.headers ?? {})) words.push("-H", quoted(`${name}: ${value}`));
  if (request.body !== undefined) {
    words.push("-H", quoted("Content-Type: application/json"), "-d", quoted(JSON.stringify(request.body)));
  }
  return words.join(" ");
}

export function urlOf({ path, params }: ApiRequest): string {
  const filled = path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(String(params?.path?.[name])));
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params?.query ?? {})) {
    if (value !== undefined && value !== null) query.set(name, String(value));
  }
  return apiUrl(filled) + (query.size ? `?${query}` : "");
}

/** One word of a POSIX shell: everything within single quotes is itself. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
