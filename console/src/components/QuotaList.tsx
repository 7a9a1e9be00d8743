import { Button, Group, Skeleton, Stack, Text } from "@mantine/core";
import { strings } from "../strings";
import { ErrorNote } from "./ErrorNote";
import { QuotaBar, type QuotaBalance } from "./QuotaBar";
import type { QuotaAct, QuotaOwner } from "./QuotaDialog";

const words = strings.budgets;

interface QuotaListProps {
  owner: QuotaOwner;
  /** Undefined until they are read. */
  quotas: QuotaBalance[] | undefined;
  error?: unknown;
  /** Null where the viewer may not change the quotas. */
  act: ((act: QuotaAct) => void) | null;
}

/** The quotas of an owner, each with what an administrator can do with it. */
export function QuotaList({ owner, quotas, error, act }: QuotaListProps) {
  return (
    <>
      <ErrorNote error={error} />
      <Stack gap="xs">
        {quotas === undefined && !error && <Skeleton h={60} />}
        {quotas?.length === 0 && <Text size="sm">{words.none}</Text>}
        {quotas?.map((quota) => (
          <Stack key={`${quota.unit} ${quota.window}`} gap={4}>
            <QuotaBar quota={quota} />
            {act && (
              <Group>
                <Button size="compact-sm" variant="default" onClick={() => act({ kind: "grant", owner, quota })}>
                  {words.grant}
                </Button>
                <Button size="compact-sm" variant="default" onClick={() => act({ kind: "set", owner, quota })}>
                  {words.set}
                </Button>
                <Button size="compact-sm" variant="default" onClick={() => act({ kind: "remove", owner, quota })}>
                  {words.remove}
                </Button>
              </Group>
            )}
          </Stack>
        ))}
      </Stack>
    </>
  );
}
