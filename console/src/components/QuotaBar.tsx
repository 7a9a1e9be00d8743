import { Group, Paper, Progress, Text } from "@mantine/core";
import type { components } from "../api/client";
import { forecastOf } from "../lib/forecast";
import { ago, amount, exactly, percent, unitName } from "../lib/format";
import { strings } from "../strings";
import { Moment } from "./Moment";

export type QuotaBalance = components["schemas"]["QuotaBalance"];

const words = strings.quota;

/** One quota in its present window: used, held and left, when it resets, and how far it lasts. */
export function QuotaBar({ quota }: { quota: QuotaBalance }) {
  const used = percent(quota.used, quota.limit);
  const held = Math.min(100 - used, quota.reserved ? percent(quota.reserved, quota.limit) : 0);
  const text = words.of(amount(quota.used, quota.unit), amount(quota.limit, quota.unit), unitName(quota.unit));
  return (
    <Paper withBorder p="md" data-testid="quota">
      <Group justify="space-between" mb={6}>
        <Text fw={600} style={{ overflowWrap: "anywhere" }}>
          {quota.name} <Text span c="dimmed">{words.window(quota.window)}</Text>
        </Text>
        <Text size="sm">
          {words.resets} {quota.resets_at ? <Moment at={quota.resets_at} /> : words.neverResets}
          {quota.resets_at && words.exactly(exactly(quota.resets_at))}
        </Text>
      </Group>
      <Progress.Root size="lg" aria-label={text}>
        <Progress.Section value={used} color={used > 90 ? "red" : "blue"} aria-label={`${words.used}: ${text}`} />
        <Progress.Section value={held} color="yellow" aria-label={`${words.held}: ${text}`} />
      </Progress.Root>
      <Group gap="lg" mt={6}>
        <Text size="sm">{text}</Text>
        <Text size="sm">
          {words.held}: {amount(quota.reserved, quota.unit)}
        </Text>
        <Text size="sm" fw={600}>
          {words.left}: <span data-testid="left">{amount(quota.remaining, quota.unit)}</span>
        </Text>
      </Group>
      <Outlook quota={quota} />
    </Paper>
  );
}

/** How far the quota lasts, and what happens when it is spent. */
function Outlook({ quota }: { quota: QuotaBalance }) {
  const now = Date.now();
  const forecast = forecastOf(quota, now);
  const notes = [
    forecast && (forecast.spentAt === null ? words.lasts(amount(forecast.atReset, quota.unit)) : words.spentIn(ago(new Date(forecast.spentAt).toISOString(), now))),
    quota.when_spent === "report_only" && words.reportOnly,
    quota.fallback_model && words.fallback(quota.fallback_model),
    quota.rolled_over > 0 && words.rolledOver(amount(quota.rolled_over, quota.unit)),
  ].filter(Boolean);
  return notes.length === 0 ? null : (
    <Text size="sm" c="dimmed" mt={4}>
      {notes.join(" ")}
    </Text>
  );
}
