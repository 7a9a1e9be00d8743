import { Code, Group, Text, TextInput } from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { type Item, useList, useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { TenantSelect } from "../components/TenantSelect";
import { strings } from "../strings";

const words = strings.audit;
const PAUSE_MS = 300;

/** The filters are in the URL, so that a link shows the same. */
export function Audit() {
  const search = useSearch({ from: "/audit" });
  const navigate = useNavigate({ from: "/audit" });
  const me = useRead("/me");
  const [action, setAction] = useState(search.action ?? "");
  const [target, setTarget] = useState(search.target ?? "");
  const filter = useDebouncedCallback((next: { action?: string; target?: string }) => {
    void navigate({ search: (before) => ({ ...before, ...next }), replace: true });
  }, PAUSE_MS);
  function typeAction(text: string): void {
    setAction(text);
    filter({ action: text || undefined, target: target || undefined });
  }
  function typeTarget(text: string): void {
    setTarget(text);
    filter({ action: action || undefined, target: text || undefined });
  }
  const tenant = search.tenant === undefined ? undefined : Number(search.tenant);
  const acts = useList("/admin/audit", { query: { action: search.action, target: search.target, tenant_id: tenant } });
  return (
    <Page title={words.title} intro={words.intro} requests={[acts.request]}>
      <Group align="end">
        <TextInput label={words.filterAction} placeholder="quota.set" value={action} onChange={(event) => typeAction(event.currentTarget.value)} />
        <TextInput label={words.filterTarget} placeholder="user:17" value={target} onChange={(event) => typeTarget(event.currentTarget.value)} />
        {me.data?.role === "operator" && (
          <TenantSelect
            value={tenant}
            change={(chosen) => void navigate({ search: (before) => ({ ...before, tenant: chosen === undefined ? undefined : String(chosen) }) })}
          />
        )}
      </Group>
      <DataTable
        label={words.title}
        list={acts}
        rowKey={(act) => `${act.tenant_id}/${act.sequence}`}
        empty={words.empty}
        columns={[
          { head: words.at, cell: (act) => <Moment at={act.at} /> },
          { head: words.actor, cell: (act) => act.actor },
          { head: words.action, cell: (act) => act.action },
          { head: words.target, cell: (act) => <Target name={act.target} /> },
          { head: strings.common.reason, cell: (act) => act.reason ?? "–" },
          { head: words.change, cell: (act) => <Change act={act} /> },
          { head: words.from, cell: (act) => act.address },
        ]}
      />
    </Page>
  );
}

/** What an act was on: long names break anywhere, so that the columns beside are in sight. */
function Target({ name }: { name: string }) {
  return (
    <Text inherit miw={90} maw={220} style={{ overflowWrap: "anywhere" }}>
      {name}
    </Text>
  );
}

function Change({ act }: { act: Item<"/admin/audit"> }) {
  const parts = [act.before, act.after].map((part) => (part === null ? "–" : JSON.stringify(part)));
  return act.before === null && act.after === null ? "–" : <Code block miw={260} style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>{parts.join(" → ")}</Code>;
}
