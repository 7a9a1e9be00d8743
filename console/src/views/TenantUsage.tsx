import { Select } from "@mantine/core";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useList, useRead } from "../api/read";
import { Page } from "../components/Page";
import { TenantSelect } from "../components/TenantSelect";
import { UsageFilters } from "../components/UsageFilters";
import { UsageReport, untilComplete } from "../components/UsageReport";
import { strings } from "../strings";

const words = strings.usage;
const GROUPS = ["user", "day", "hour", "model", "provider", "key", "surface", "group", "tag"] as const;

/** What the users of a tenant have spent. The filters are in the URL, so that a link shows the same. */
export function TenantUsage() {
  const search = useSearch({ from: "/tenant-usage" });
  const navigate = useNavigate({ from: "/tenant-usage" });
  const me = useRead("/me");
  const group = GROUPS.find((name) => name === search.by) ?? "user";
  const tenant = search.tenant === undefined ? undefined : Number(search.tenant);
  const user = search.user === undefined ? undefined : Number(search.user);
  const query = { group_by: group, from: search.from, to: search.to, tag: search.tag, tenant_id: tenant, user_id: user };
  const usage = useRead("/admin/usage", { query }, { every: untilComplete });
  const people = useList("/admin/users", { query: { tenant_id: tenant, limit: 100 } });
  return (
    <Page title={words.tenantTitle} intro={words.tenantIntro} requests={[usage.request]}>
      <UsageFilters groups={GROUPS} group={group} search={search} change={(next) => void navigate({ search: next })}>
        <Select
          label={words.user}
          data={people.items?.map((person) => ({ value: String(person.id), label: person.email })) ?? []}
          value={search.user ?? null}
          onChange={(chosen) => void navigate({ search: { ...search, user: chosen ?? undefined } })}
          searchable
          clearable
        />
        {me.data?.role === "operator" && (
          <TenantSelect
            value={tenant}
            change={(chosen) => void navigate({ search: { ...search, user: undefined, tenant: chosen === undefined ? undefined : String(chosen) } })}
          />
        )}
      </UsageFilters>
      <UsageReport title={words.tenantTitle} report={usage.data} error={usage.error} request={usage.request} />
    </Page>
  );
}
