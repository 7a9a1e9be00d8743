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

/** The error in a decoded body: an object with `detail` and `code`; as OpenAI's API has it; or anything else. */
export function errorOf(status: number, body: unknown, correlationId: string | null): ApiError {
  const { error, ...own } = asObject(body);
  const problem = { detail: asObject(error).message, code: asObject(error).code, ...own };
  const detail = typeof problem.detail === "string" ? problem.detail : strings.errors.unknown(status);
  const code = typeof problem.code === "string" ? problem.code : "unknown";
  const id = typeof own.correlation_id === "string" ? own.correlation_id : correlationId;
  return new ApiError(status, code, detail, id);
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
