import { Group, Progress, Select, TextInput } from "@mantine/core";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { type Data, useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Page } from "../components/Page";
import { TenantSelect } from "../components/TenantSelect";
import { count } from "../lib/format";
import { strings } from "../strings";

type Score = Data<"/admin/scores">["data"][number];
const words = strings.scores;
const GROUPS = ["model", "judge", "day", "origin"] as const;

/** What the judge thought of the answers, and what that cost. The filters are in the URL. */
export function Scores() {
  const search = useSearch({ from: "/scores" });
  const navigate = useNavigate({ from: "/scores" });
  const me = useRead("/me");
  const group = GROUPS.find((name) => name === search.by) ?? "model";
  const tenant = search.tenant === undefined ? undefined : Number(search.tenant);
  const scores = useRead("/admin/scores", { query: { group_by: group, from: search.from, to: search.to, tenant_id: tenant } });
  const change = (next: Partial<typeof search>) => void navigate({ search: { ...search, ...next } });
  return (
    <Page title={words.title} intro={words.intro} requests={[scores.request]}>
      <Group align="end">
        <Select label={strings.usage.by} data={GROUPS.map((value) => ({ value, label: words.groups[value] ?? value }))} value={group} onChange={(by) => change({ by: by ?? undefined })} allowDeselect={false} />
        <TextInput type="date" label={strings.usage.from} value={search.from ?? ""} onChange={(event) => change({ from: event.currentTarget.value || undefined })} />
        <TextInput type="date" label={words.to} value={search.to ?? ""} onChange={(event) => change({ to: event.currentTarget.value || undefined })} />
        {me.data?.role === "operator" && <TenantSelect value={tenant} change={(chosen) => change({ tenant: chosen === undefined ? undefined : String(chosen) })} />}
      </Group>
      <DataTable
        label={words.title}
        list={{ items: scores.data?.data, error: scores.error }}
        rowKey={(score) => score.group}
        empty={words.empty}
        emptyCommand={words.emptyCommand}
        columns={[
          { head: words.groups[group] ?? group, cell: (score) => score.group },
          { head: words.mean, cell: (score) => <Mean score={score} /> },
          { head: words.answers, numeric: true, cell: (score) => count(score.answers) },
          { head: words.scored, numeric: true, cell: (score) => count(score.scored) },
          { head: strings.usage.cost, numeric: true, cell: (score) => count(score.cost) },
          { head: words.perPoint, numeric: true, cell: (score) => score.cost_per_point?.toFixed(1) ?? "–" },
          { head: words.judgeCost, numeric: true, cell: (score) => count(score.judge_cost) },
          {
            head: words.notScored,
            cell: (score) =>
              Object.entries(score.not_scored)
                .map(([reason, found]) => `${reason}: ${count(found)}`)
                .join(", ") || "–",
          },
        ]}
      />
    </Page>
  );
}

function Mean({ score }: { score: Score }) {
  if (score.mean_score === null) return "–";
  const text = score.mean_score.toFixed(1);
  return (
    <Group gap="xs" wrap="nowrap">
      {text}
      <Progress flex={1} miw={60} value={score.mean_score} aria-label={`${score.group}: ${text}`} />
    </Group>
  );
}
