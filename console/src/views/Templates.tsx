import { Button, Group, Stack, Text, TextInput, Title } from "@mantine/core";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { api, type components, newKey, result } from "../api/client";
import { useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { Page } from "../components/Page";
import type { QuotaBalance } from "../components/QuotaBar";
import { type QuotaAct, QuotaDialog } from "../components/QuotaDialog";
import { TenantSelect } from "../components/TenantSelect";
import { amount, unitName } from "../lib/format";
import { strings } from "../strings";

type SetQuota = components["schemas"]["SetQuotaRequest"];
type Each = keyof typeof words.of;
interface Mode {
  each: Each;
  quota: QuotaBalance;
}
const words = strings.templates;

/** The quotas that each user, API key or conversation of a tenant has without one being made for it. */
export function Templates() {
  const search = useSearch({ from: "/templates" });
  const navigate = useNavigate({ from: "/templates" });
  const me = useRead("/me");
  const tenant = search.tenant === undefined ? undefined : Number(search.tenant);
  const lists = {
    user: useRead("/admin/quotas", { query: { for_each: "user", tenant_id: tenant } }),
    key: useRead("/admin/quotas", { query: { for_each: "key", tenant_id: tenant } }),
    conversation: useRead("/admin/quotas", { query: { for_each: "conversation", tenant_id: tenant } }),
  };
  const [act, setAct] = useState<QuotaAct | null>(null);
  const [mode, setMode] = useState<Mode | null>(null);
  const body = { for_each: "user", tenant_id: tenant, window: "day", limit: 100_000, reason: "Fair use" };
  return (
    <Page title={words.title} intro={words.intro} requests={[...Object.values(lists).map((list) => list.request), { method: "POST", path: "/admin/quotas", body }]}>
      {me.data?.role === "operator" && (
        <Group>
          <TenantSelect value={tenant} change={(chosen) => void navigate({ search: chosen === undefined ? {} : { tenant: String(chosen) } })} />
        </Group>
      )}
      {(Object.keys(words.of) as Each[]).map((each) => (
        <Section
          key={each}
          each={each}
          quotas={lists[each].data?.data[0]?.quotas}
          error={lists[each].error}
          set={(quota) => setAct({ kind: "set", owner: { for_each: each, tenant_id: tenant }, quota })}
          change={(quota) => setMode({ each, quota })}
          remove={(quota) => setAct({ kind: "remove", owner: { for_each: each, tenant_id: tenant }, quota })}
        />
      ))}
      {act && <QuotaDialog key={JSON.stringify(act)} act={act} close={() => setAct(null)} />}
      {mode && <ModeDialog mode={mode} tenant={tenant} close={() => setMode(null)} />}
    </Page>
  );
}

interface SectionProps {
  each: Each;
  quotas: QuotaBalance[] | undefined;
  error: unknown;
  set: (quota?: QuotaBalance) => void;
  change: (quota: QuotaBalance) => void;
  remove: (quota: QuotaBalance) => void;
}

function Section({ each, quotas, error, set, change, remove }: SectionProps) {
  return (
    <Stack gap="xs" data-testid={`template-${each}`}>
      <Group justify="space-between">
        <Title order={2} size="h4">
          {words.of[each]}
        </Title>
        <Button variant="default" onClick={() => set()}>
          {strings.budgets.set}
        </Button>
      </Group>
      <DataTable
        label={words.of[each]}
        list={{ items: quotas, error }}
        rowKey={(quota) => quota.name}
        empty={words.empty[each]}
        emptyCommand={words.emptyCommands[each]}
        columns={[
          { head: strings.budgets.limit, cell: (quota) => `${amount(quota.limit, quota.unit)} ${unitName(quota.unit)} ${strings.quota.window(quota.window)}` },
          { head: words.whenSpent, cell: (quota) => (quota.fallback_model ? strings.quota.fallback(quota.fallback_model) : words.modes[quota.when_spent]) },
          {
            head: strings.common.actions,
            cell: (quota) => (
              <Group gap="xs" wrap="nowrap">
                <Button size="compact-sm" variant="default" onClick={() => set(quota)}>
                  {strings.budgets.set}
                </Button>
                <Button size="compact-sm" variant="default" onClick={() => change(quota)}>
                  {quota.when_spent === "report_only" ? words.block : words.report}
                </Button>
                <Button size="compact-sm" variant="default" onClick={() => remove(quota)}>
                  {strings.budgets.remove}
                </Button>
              </Group>
            ),
          },
        ]}
      />
    </Stack>
  );
}

/** Has a template refuse nothing, or refuse again. */
function ModeDialog({ mode: { each, quota }, tenant, close }: { mode: Mode; tenant: number | undefined; close: () => void }) {
  const [reason, setReason] = useState("");
  const isOff = quota.when_spent === "report_only";
  const title = isOff ? words.block : words.report;

  function submit(): Promise<unknown> {
    const { unit, window } = quota as Pick<SetQuota, "unit" | "window">;
    const body: SetQuota = { for_each: each, tenant_id: tenant, unit, window, limit: quota.limit, when_spent: isOff ? "block" : "report_only", reason };
    return result(api.POST("/admin/quotas", { body, params: { header: { "Idempotency-Key": newKey() } } }));
  }

  return (
    <Dialog title={title} opened close={close} submitLabel={title} submit={submit}>
      <Text>{isOff ? words.blockText : words.reportText}</Text>
      <TextInput label={strings.common.reason} description={strings.common.reasonHint} value={reason} onChange={(event) => setReason(event.currentTarget.value)} required data-autofocus />
    </Dialog>
  );
}
