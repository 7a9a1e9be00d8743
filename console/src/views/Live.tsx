import { Alert, Badge, Code, Group, Paper, Skeleton, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { apiUrl } from "../api/base";
import { authorised } from "../api/client";
import { readError } from "../api/problem";
import { useList, useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { ErrorNote } from "../components/ErrorNote";
import { EventTail } from "../components/EventTail";
import { Figures } from "../components/Figures";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { count } from "../lib/format";
import { by, greatest, parseMetrics, type Reading, rate, total } from "../lib/metrics";
import { strings } from "../strings";

const words = strings.live;
const more = strings.events;
const EVERY_MS = 3_000;
const CALLS = "gen_ai_server_request_duration_seconds_count";
const REFUSALS = "tollkeeper_refusals_by_limit_total";

const EVENTS = { method: "GET", path: "/admin/events", params: { query: { follow: true } } } as const;

async function readMetrics(signal: AbortSignal): Promise<Reading> {
  const response = await authorised(new Request(apiUrl("/metrics"), { signal }));
  if (!response.ok) throw await readError(response);
  return { at: Date.now(), samples: parseMetrics(await response.text()) };
}

/** The newest reading of the metrics, and the one before it. */
function useReadings() {
  const metrics = useQuery({ queryKey: ["/metrics"], queryFn: ({ signal }) => readMetrics(signal), refetchInterval: EVERY_MS });
  const [pair, setPair] = useState<{ now: Reading | null; before: Reading | null }>({ now: null, before: null });
  const { data } = metrics;
  useEffect(() => {
    if (data) setPair(({ now }) => (now?.at === data.at ? { now, before: null } : { now: data, before: now }));
  }, [data]);
  return { ...pair, error: metrics.error };
}

export function Live() {
  const health = useRead("/health", undefined, { every: EVERY_MS });
  const providers = useList("/admin/providers");
  const readings = useReadings();
  const { data } = health;
  return (
    <Page title={words.title} intro={words.intro} requests={[health.request, { method: "GET", path: "/metrics" }, providers.request, EVENTS]}>
      <ErrorNote error={health.error} />
      {data ? (
        <Paper withBorder p="md">
          <Title order={2} size="h4" mb="xs">
            {words.health} <Badge variant="default">{data.status}</Badge>
          </Title>
          <Text size="sm">
            {words.version}: {data.version}
          </Text>
          {data.problems?.length ? <Problems problems={data.problems} /> : <Text size="sm">{words.noProblems}</Text>}
        </Paper>
      ) : (
        <Skeleton h={90} />
      )}
      <ErrorNote error={readings.error} />
      {readings.now && <Readings now={readings.now} before={readings.before} />}
      <Title order={2} size="h4">
        {words.providers}
      </Title>
      <DataTable
        label={words.providers}
        list={providers}
        rowKey={(provider) => provider.name}
        empty={strings.common.none}
        columns={[
          { head: strings.models.provider, cell: (provider) => provider.name },
          { head: strings.common.status, cell: (provider) => (provider.on ? strings.models.on : strings.models.off) },
          { head: more.breakers, cell: (provider) => breakerOf(provider.name, readings.now) },
        ]}
      />
      <EventTail />
      <Text size="sm">
        {more.doctor} <Code>{more.doctorCommand}</Code>
      </Text>
    </Page>
  );
}

function breakerOf(provider: string, reading: Reading | null): string {
  const open = reading?.samples.filter(({ name, labels }) => name === "tollkeeper_breaker_open" && Object.values(labels).includes(provider)) ?? [];
  if (open.length === 0) return "–";
  return open.some(({ value }) => value > 0) ? more.breakerOpen : more.breakerClosed;
}

function Problems({ problems }: { problems: { check: string; detail: string; status: string; since: string | null }[] }) {
  return problems.map((problem) => (
    <Alert key={problem.check} color="yellow" mt="xs" title={problem.check}>
      {problem.detail} {problem.since && <Moment at={problem.since} />}
    </Alert>
  ));
}

function Readings({ now, before }: { now: Reading; before: Reading | null }) {
  const { samples } = now;
  const perSecond = (name: string) => rate(before, now, name)?.toFixed(1) ?? "–";
  return (
    <>
      <Figures
        figures={[
          [words.callsPerSecond, perSecond(CALLS)],
          [words.refusalsPerSecond, perSecond(REFUSALS)],
          [words.openHolds, count(total(samples, "tollkeeper_calls_in_flight"))],
          [words.oldestHold, words.seconds(greatest(samples, "tollkeeper_oldest_hold_seconds").toFixed(1))],
          [words.journal, count(total(samples, "tollkeeper_ledger_queue"))],
          [more.jobs, count(total(samples, "tollkeeper_jobs_running"))],
          [more.webhooks, count(total(samples, "tollkeeper_webhooks_pending"))],
          [more.documents, count(total(samples, "tollkeeper_searches_total"))],
          [more.sockets, count(total(samples, "tollkeeper_websockets"))],
          [more.connections, count(total(samples, "tollkeeper_connections"))],
        ]}
      />
      {before === null && <Text size="sm">{words.waiting}</Text>}
      <Group align="start">
        <Sums title={words.ends} head={words.calls} sums={by(samples, CALLS, "error_type")} />
        <Sums title={more.refusals} head={more.limit} sums={by(samples, REFUSALS, "limit")} />
      </Group>
    </>
  );
}

function Sums({ title, head, sums }: { title: string; head: string; sums: [string, number][] }) {
  if (sums.length === 0) return null;
  return (
    <Table aria-label={title} w={420} maw="100%">
      <Table.Thead>
        <Table.Tr>
          <Table.Th>{title}</Table.Th>
          <Table.Th ta="right">{head}</Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {sums.map(([name, found]) => (
          <Table.Tr key={name}>
            <Table.Td>{name || words.answered}</Table.Td>
            <Table.Td ta="right">{count(found)}</Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}
