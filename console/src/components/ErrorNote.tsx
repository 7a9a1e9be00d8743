import { Alert, Text } from "@mantine/core";
import { isApiError } from "../api/client";
import { strings } from "../strings";

/** Why something did not work, in the words of the server, and the id under which it is logged. */
export function ErrorNote({ error }: { error: unknown }) {
  if (!error) return null;
  const known = isApiError(error);
  return (
    <Alert color="red" variant="light" title={strings.errors.title} role="alert">
      <Text size="sm">{known ? error.message : strings.errors.network}</Text>
      {known && error.correlationId !== null && (
        <Text size="xs" mt={4}>
          {strings.errors.correlation(error.correlationId)}
        </Text>
      )}
    </Alert>
  );
}
