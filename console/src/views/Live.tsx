import { Alert, Badge, Paper, SimpleGrid, Skeleton, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { apiUrl } from "../api/base";
import { authorised } from "../api/client";
import { readError } from "../api/problem";
import { useList, useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { ErrorNote } from "../components/ErrorNote";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { count } from "../lib/format";
import { by, greatest, parseMetrics, type Reading, rate, total } from "../lib/metrics";
import { strings } from "../strings";

const words = strings.live;
const EVERY_MS = 3_000;
const CALLS = "gen_ai_server_request_duration_seconds_count";

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
    <Page title={words.title} intro={words.intro} requests={[health.request, { method: "GET", path: "/metrics" }, providers.request]}>
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
      {readings.now && <Figures now={readings.now} before={readings.before} />}
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
        ]}
      />
    </Page>
  );
}

function Problems({ problems }: { problems: { check: string; detail: string; status: string; since: string | null }[] }) {
  return problems.map((problem) => (
    <Alert key={problem.check} color="yellow" mt="xs" title={problem.check}>
      {problem.detail} {problem.since && <Moment at={problem.since} />}
    </Alert>
  ));
}

function Figures({ now, before }: { now: Reading; before: Reading | null }) {
  const calls = rate(before, now, CALLS);
  const refusals = rate(before, now, "tollkeeper_refusals_by_limit_total");
  const perSecond = (value: number | null) => (value === null ? "–" : value.toFixed(1));
  const figures: [string, string][] = [
    [words.callsPerSecond, perSecond(calls)],
    [words.refusalsPerSecond, perSecond(refusals)],
    [words.openHolds, count(total(now.samples, "tollkeeper_calls_in_flight"))],
    [words.oldestHold, words.seconds(greatest(now.samples, "tollkeeper_oldest_hold_seconds").toFixed(1))],
    [words.journal, count(total(now.samples, "tollkeeper_ledger_queue"))],
  ];
  const ends = by(now.samples, CALLS, "error_type");
  return (
    <>
      <SimpleGrid cols={{ base: 2, md: 5 }}>
        {figures.map(([name, value]) => (
          <Paper key={name} withBorder p="sm">
            <Text size="xl" fw={700}>
              {value}
            </Text>
            <Text size="sm">{name}</Text>
          </Paper>
        ))}
      </SimpleGrid>
      {before === null && <Text size="sm">{words.waiting}</Text>}
      {ends.length > 0 && (
        <Table aria-label={words.ends} maw={420}>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>{words.ends}</Table.Th>
              <Table.Th ta="right">{words.calls}</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {ends.map(([reason, found]) => (
              <Table.Tr key={reason}>
                <Table.Td>{reason || words.answered}</Table.Td>
                <Table.Td ta="right">{count(found)}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      )}
    </>
  );
}
