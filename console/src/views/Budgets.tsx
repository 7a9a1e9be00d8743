import { Button, Center, Group, Select, Skeleton } from "@mantine/core";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { useOwnTenant } from "../api/ownTenant";
import { useList, useRead } from "../api/read";
import { BudgetTree } from "../components/BudgetTree";
import { ErrorNote } from "../components/ErrorNote";
import { Page } from "../components/Page";
import { type QuotaAct, QuotaDialog } from "../components/QuotaDialog";
import { TenantSelect } from "../components/TenantSelect";
import { strings } from "../strings";

const words = strings.budgets;

/** The quotas of a tenant as a tree, or those of one user. */
export function Budgets() {
  const search = useSearch({ from: "/budgets" });
  const navigate = useNavigate({ from: "/budgets" });
  const me = useRead("/me");
  const own = useOwnTenant();
  const isOperator = me.data?.role === "operator";
  const user = search.user === undefined ? undefined : Number(search.user);
  const tenant = search.tenant === undefined ? own : Number(search.tenant);
  const isReady = tenant !== undefined;
  const owners = useList("/admin/quotas", { query: user === undefined ? { tenant_id: tenant } : { user_id: user } }, { enabled: isReady });
  const groups = useList("/admin/groups", { query: { tenant_id: tenant, limit: 100 } }, { enabled: isReady && user === undefined });
  const people = useList("/admin/users", { query: { tenant_id: tenant, limit: 100 } }, { enabled: isReady });
  const emails = new Map(people.items?.map((person) => [person.id, person.email]));
  const [act, setAct] = useState<QuotaAct | null>(null);
  const body = { user_id: user ?? 17, window: "day", limit: 50_000, reason: "A new project" };

  return (
    <Page title={words.title} intro={words.intro} requests={[owners.request, groups.request, { method: "POST", path: "/admin/quotas", body }]}>
      <Group align="end">
        {isOperator && (
          <TenantSelect value={tenant} change={(chosen) => void navigate({ search: chosen === undefined ? {} : { tenant: String(chosen) } })} />
        )}
        <Select
          label={words.owner}
          data={people.items?.map((person) => ({ value: String(person.id), label: person.email })) ?? []}
          value={user === undefined ? null : String(user)}
          onChange={(chosen) => void navigate({ search: { ...search, user: chosen ?? undefined } })}
          searchable
          clearable
        />
      </Group>
      <ErrorNote error={owners.error ?? groups.error} />
      {owners.items === undefined ? (
        owners.error === null && <Skeleton h={200} />
      ) : (
        <BudgetTree
          owners={owners.items}
          groups={user === undefined ? (groups.items ?? []) : []}
          nameOf={(id) => emails.get(id) ?? words.user(id)}
          mayChangeTenant={isOperator}
          act={setAct}
        />
      )}
      {owners.more && (
        <Center>
          <Button variant="default" onClick={owners.more} loading={owners.isReadingMore}>
            {strings.common.more}
          </Button>
        </Center>
      )}
      {act && <QuotaDialog key={JSON.stringify(act)} act={act} close={() => setAct(null)} />}
    </Page>
  );
}
