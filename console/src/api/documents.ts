/** Uploads of documents, whose body is the document itself. */

import { authorised, newKey } from "./client";
import type { components } from "./client";
import { type ApiRequest, urlOf } from "./curl";
import { readError } from "./problem";

export type Document = components["schemas"]["DocumentResponse"];
export type Visibility = Document["visibility"];

const MEDIA_TYPES: Record<string, string> = {
  txt: "text/plain",
  md: "text/markdown",
  html: "text/html",
  pdf: "application/pdf",
  docx: "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
};
/** What can be uploaded, for a file input. */
export const ACCEPTED = Object.keys(MEDIA_TYPES).map((ending) => `.${ending}`).join(",");

/** The media type of a file by how its name ends; what is unknown, the server refuses. */
export function mediaTypeOf(name: string): string {
  return MEDIA_TYPES[name.split(".").at(-1)?.toLowerCase() ?? ""] ?? "application/octet-stream";
}

/** The request of an upload, without the document. */
export function uploadRequest(name: string, visibility: Visibility): ApiRequest {
  return { method: "POST", path: "/ai/documents", params: { query: { name, visibility } }, headers: { "Content-Type": mediaTypeOf(name) } };
}

/** Throws ApiError. */
export async function upload(file: File, visibility: Visibility): Promise<Document> {
  const request = uploadRequest(file.name, visibility);
  const headers = { ...request.headers, "Idempotency-Key": newKey() };
  const response = await authorised(new Request(urlOf(request), { method: "POST", headers, body: await file.arrayBuffer() }));
  if (!response.ok) throw await readError(response);
  return (await response.json()) as Document;
}
