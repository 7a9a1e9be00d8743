import { Select } from "@mantine/core";
import { useTenants } from "../api/read";
import { strings } from "../strings";

/** For operators: which tenant a view is about. By default their own, or all. */
export function TenantSelect({ value, change }: { value: number | undefined; change: (tenant: number | undefined) => void }) {
  const tenants = useTenants();
  return (
    <Select
      label={strings.people.tenant}
      data={tenants.items?.map((tenant) => ({ value: String(tenant.id), label: `${tenant.name} (${tenant.id})` })) ?? []}
      value={value === undefined ? null : String(value)}
      onChange={(chosen) => change(chosen === null ? undefined : Number(chosen))}
      searchable
      clearable
    />
  );
}
