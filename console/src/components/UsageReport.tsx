import { Button, Group, Progress, Skeleton, Stack, Text } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import type { components } from "../api/client";
import type { ApiRequest } from "../api/curl";
import { download } from "../api/download";
import { count, percent } from "../lib/format";
import { strings } from "../strings";
import { Columns } from "./Columns";
import { type Column, DataTable } from "./DataTable";
import { ErrorNote } from "./ErrorNote";
import { Figures } from "./Figures";

type Report = components["schemas"]["UsageReportResponse"];
type Line = Report["data"][number];
const words = strings.usage;
/** What a report is divided by if its lines follow one another in time. */
const IN_TIME = ["day", "hour"];

/** The name of a line: an id that has a name is shown as that. */
function nameOf(line: Line): string {
  return line.label ?? line.value ?? strings.common.none;
}

interface UsageReportProps {
  title: string;
  report: Report | undefined;
  error: unknown;
  request: ApiRequest;
}

/** A report that may lack the last calls is read again after so long. */
export function untilComplete(report: Report | undefined): number | false {
  return report?.complete === false ? 3_000 : false;
}

/** A report of usage: the sums, and a line with a bar for each value. */
export function UsageReport({ title, report, error, request }: UsageReportProps) {
  const params = { ...request.params, query: { ...request.params?.query, format: "csv" } };
  const save = useMutation({ mutationFn: () => download({ ...request, params }, "usage.csv") });
  if (report === undefined) return error ? <ErrorNote error={error} /> : <Skeleton h={200} />;
  const { total } = report;
  const group = words.groupNames[report.group_by] ?? report.group_by;
  const columns: Column<Line>[] = [
    { head: group, cell: nameOf },
    { head: words.share, cell: (line) => <Progress size="lg" value={percent(line.cost, Math.max(1, total.cost))} aria-label={`${nameOf(line)}: ${count(line.cost)}`} /> },
    { head: words.calls, numeric: true, cell: (line) => count(line.calls) },
    { head: words.cached, numeric: true, cell: (line) => count(line.cached_calls) },
    { head: words.failed, numeric: true, cell: (line) => count(line.failed_calls) },
    { head: words.input, numeric: true, cell: (line) => count(line.input_tokens) },
    { head: words.output, numeric: true, cell: (line) => count(line.output_tokens) },
    { head: words.cost, numeric: true, cell: (line) => count(line.cost) },
    { head: words.usd, numeric: true, cell: (line) => line.cost_usd },
  ];
  const figures: [string, string][] = [
    [words.calls, count(total.calls)],
    [words.cost, count(total.cost)],
    [words.usd, total.cost_usd],
    [words.refunded, count(total.refunded)],
    [words.forgiven, count(total.forgiven)],
  ];
  return (
    <Stack>
      <Figures figures={figures} />
      <Group justify="space-between">
        <Text size="sm">{words.period(report.from, report.to, report.time_zone)}</Text>
        <Button variant="default" loading={save.isPending} onClick={() => save.mutate()}>
          {words.exportCsv}
        </Button>
      </Group>
      <ErrorNote error={error ?? save.error} />
      {!report.complete && <Text size="sm">{words.incomplete}</Text>}
      {report.truncated && <Text size="sm">{words.truncated}</Text>}
      {IN_TIME.includes(report.group_by) && report.data.length > 1 && (
        <Columns
          label={words.chart(group)}
          bars={report.data.map((line) => ({ name: nameOf(line), value: line.cost, text: words.chartValue(count(line.cost)) })).sort((a, b) => (a.name < b.name ? -1 : 1))}
        />
      )}
      <DataTable label={title} list={{ items: report.data, error: null }} rowKey={(line) => line.value ?? ""} empty={words.empty} columns={columns} />
    </Stack>
  );
}
