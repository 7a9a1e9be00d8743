/** Files that the API makes. */

import { authorised } from "./client";
import { type ApiRequest, urlOf } from "./curl";
import { readError } from "./problem";

/** Read a file, and have the browser save it under this name. Throws ApiError. */
export async function download(request: ApiRequest, name: string): Promise<void> {
  const response = await authorised(new Request(urlOf(request)));
  if (!response.ok) throw await readError(response);
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}
