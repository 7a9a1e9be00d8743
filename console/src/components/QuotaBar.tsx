import { Group, Paper, Progress, Text } from "@mantine/core";
import type { components } from "../api/client";
import { amount, percent, unitName } from "../lib/format";
import { strings } from "../strings";
import { Moment } from "./Moment";

export type QuotaBalance = components["schemas"]["QuotaBalance"];

/** One quota in its present window: used, held and left. */
export function QuotaBar({ quota }: { quota: QuotaBalance }) {
  const used = percent(quota.used, quota.limit);
  const held = Math.min(100 - used, quota.reserved ? percent(quota.reserved, quota.limit) : 0);
  const text = strings.quota.of(amount(quota.used, quota.unit), amount(quota.limit, quota.unit), unitName(quota.unit));
  return (
    <Paper withBorder p="md" data-testid="quota">
      <Group justify="space-between" mb={6}>
        <Text fw={600}>
          {quota.name} <Text span c="dimmed">{strings.quota.window(quota.window)}</Text>
        </Text>
        <Text size="sm">
          {strings.quota.resets}: {quota.resets_at ? <Moment at={quota.resets_at} /> : strings.quota.neverResets}
        </Text>
      </Group>
      <Progress.Root size="lg" aria-label={text}>
        <Progress.Section value={used} color={used > 90 ? "red" : "blue"} aria-label={`${strings.quota.used}: ${text}`} />
        <Progress.Section value={held} color="yellow" aria-label={`${strings.quota.held}: ${text}`} />
      </Progress.Root>
      <Group gap="lg" mt={6}>
        <Text size="sm">{text}</Text>
        <Text size="sm">
          {strings.quota.held}: {amount(quota.reserved, quota.unit)}
        </Text>
        <Text size="sm" fw={600}>
          {strings.quota.left}: <span data-testid="left">{amount(quota.remaining, quota.unit)}</span>
        </Text>
      </Group>
    </Paper>
  );
}
