import { strings } from "../strings";

/** An error of the API (RFC 9457), with the id under which the server has logged it. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly correlationId: string | null,
  ) {
    super(detail);
  }

  static signedOut(): ApiError {
    return new ApiError(401, "signed_out", strings.errors.signedOut, null);
  }
}

/** The error in a response, whatever its body is. */
export async function readError(response: Response): Promise<ApiError> {
  const text = await response.text();
  const sent = response.headers.get("X-Correlation-ID");
  return errorOf(response.status, parse(text), sent);
}

/** The error in a decoded body: an object with `detail` and `code`, or anything else. */
export function errorOf(status: number, body: unknown, correlationId: string | null): ApiError {
  const problem = typeof body === "object" && body !== null ? (body as Record<string, unknown>) : {};
  const detail = typeof problem.detail === "string" ? problem.detail : strings.errors.unknown(status);
  const code = typeof problem.code === "string" ? problem.code : "unknown";
  const id = typeof problem.correlation_id === "string" ? problem.correlation_id : correlationId;
  return new ApiError(status, code, detail, id);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
