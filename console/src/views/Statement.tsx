import { Button, Group, Skeleton, Text, TextInput, Title } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { download } from "../api/download";
import { useOwnTenant } from "../api/ownTenant";
import { type Data, useRead } from "../api/read";
import { type Column, DataTable } from "../components/DataTable";
import { ErrorNote } from "../components/ErrorNote";
import { Figures } from "../components/Figures";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { TenantSelect } from "../components/TenantSelect";
import { amount, count } from "../lib/format";
import { strings } from "../strings";

type StatementData = Data<"/admin/statements/{tenant_id}/{month}">;
const words = strings.statement;

/** The statement of a month, which prints without the frame around it. */
export function Statement() {
  const search = useSearch({ from: "/statement" });
  const navigate = useNavigate({ from: "/statement" });
  const me = useRead("/me");
  const own = useOwnTenant();
  const month = search.month ?? new Date().toISOString().slice(0, 7);
  const tenant = search.tenant === undefined ? own : Number(search.tenant);
  const params = { path: { tenant_id: tenant ?? 0, month } };
  const statement = useRead("/admin/statements/{tenant_id}/{month}", params, { enabled: tenant !== undefined });
  const csv = { ...statement.request, params: { ...params, query: { format: "csv" } } };
  const save = useMutation({ mutationFn: () => download(csv, `statement-${month}.csv`) });
  return (
    <Page
      title={words.title}
      intro={words.intro}
      requests={[statement.request, csv]}
      actions={
        <>
          <Button onClick={() => window.print()}>{words.print}</Button>
          <Button variant="default" loading={save.isPending} onClick={() => save.mutate()}>
            {words.save}
          </Button>
        </>
      }
    >
      <Group align="end" className="no-print">
        <TextInput type="month" label={words.month} value={month} onChange={(event) => void navigate({ search: { ...search, month: event.currentTarget.value || undefined } })} />
        {me.data?.role === "operator" && (
          <TenantSelect value={tenant} change={(chosen) => void navigate({ search: { ...search, tenant: chosen === undefined ? undefined : String(chosen) } })} />
        )}
      </Group>
      <ErrorNote error={statement.error ?? save.error} />
      {statement.isPending && <Skeleton h={200} />}
      {statement.data && <Lines statement={statement.data} />}
    </Page>
  );
}

function Lines({ statement }: { statement: StatementData }) {
  const { total } = statement;
  const rows = statement.spent.map((line, at) => ({ ...line, at }));
  return (
    <>
      <Title order={2} size="h3">
        {words.ofTenant(statement.tenant, statement.month)}
      </Title>
      <Text size="sm">{strings.usage.period(statement.from, statement.to, statement.time_zone)}</Text>
      <Text size="sm">
        {statement.closed_at === null ? (
          words.open
        ) : (
          <>
            {words.closed} <Moment at={statement.closed_at} />
          </>
        )}
      </Text>
      <Figures
        figures={[
          [strings.usage.calls, count(total.calls)],
          [strings.usage.cost, count(total.cost)],
          [strings.usage.usd, total.cost_usd],
          [strings.usage.refunded, count(total.refunded)],
          [strings.usage.forgiven, count(total.forgiven)],
        ]}
      />
      <Title order={3} size="h4">
        {words.balances}
      </Title>
      <DataTable
        label={words.balances}
        list={{ items: statement.balances, error: null }}
        rowKey={(balance) => `${balance.quota} ${balance.unit}`}
        empty={words.noQuotas}
        columns={[
          { head: words.quota, cell: (balance) => balance.quota },
          { head: words.opening, numeric: true, cell: (balance) => amount(balance.opening, balance.unit) },
          { head: words.granted, numeric: true, cell: (balance) => amount(balance.granted, balance.unit) },
          { head: words.spent, numeric: true, cell: (balance) => amount(balance.spent, balance.unit) },
          { head: words.corrections, numeric: true, cell: (balance) => amount(balance.corrections, balance.unit) },
          { head: words.closing, numeric: true, cell: (balance) => amount(balance.closing, balance.unit) },
        ]}
      />
      <Title order={3} size="h4">
        {words.lines}
      </Title>
      <DataTable label={words.lines} list={{ items: rows, error: null }} rowKey={(line) => line.at} empty={words.noCalls} columns={LINES} />
      {statement.tags.length > 0 && (
        <>
          <Title order={3} size="h4">
            {words.tags}
          </Title>
          <Text size="sm">{words.tagsHint}</Text>
          <DataTable label={words.tags} list={{ items: statement.tags, error: null }} rowKey={(line) => JSON.stringify([line.tag, line.tag_value])} empty={strings.common.none} columns={TAG_LINES} />
        </>
      )}
      {statement.corrections.length > 0 && (
        <>
          <Title order={3} size="h4">
            {words.correctionsTitle}
          </Title>
          <DataTable
            label={words.correctionsTitle}
            list={{ items: statement.corrections.map((line, at) => ({ ...line, at })), error: null }}
            rowKey={(line) => line.at}
            empty={strings.common.none}
            columns={[{ head: words.month, cell: (line) => line.month }, ...LINES]}
          />
        </>
      )}
    </>
  );
}

type Line = StatementData["spent"][number] & { at: number };
type TagLine = StatementData["tags"][number];
const SUMS: Column<StatementData["total"]>[] = [
  { head: strings.usage.calls, numeric: true, cell: (sums) => count(sums.calls) },
  { head: strings.usage.input, numeric: true, cell: (sums) => count(sums.input_tokens) },
  { head: strings.usage.output, numeric: true, cell: (sums) => count(sums.output_tokens) },
  { head: strings.usage.cost, numeric: true, cell: (sums) => count(sums.cost) },
  { head: strings.usage.usd, numeric: true, cell: (sums) => sums.cost_usd },
];
const LINES: Column<Line>[] = [
  { head: words.group, cell: (line) => line.group_name ?? strings.common.none },
  { head: strings.charges.model, cell: (line) => line.model },
  { head: strings.charge.provider, cell: (line) => line.provider },
  ...SUMS,
];
const TAG_LINES: Column<TagLine>[] = [
  { head: words.tag, cell: (line) => line.tag },
  { head: words.tagValue, cell: (line) => line.tag_value ?? words.otherValues },
  ...SUMS,
];
