import { Group, Select, TextInput } from "@mantine/core";
import type { ReactNode } from "react";
import { strings } from "../strings";

export interface UsageSearch {
  by?: string;
  from?: string;
  to?: string;
  user?: string;
  tenant?: string;
}

interface UsageFiltersProps {
  groups: readonly string[];
  group: string;
  search: UsageSearch;
  change: (next: UsageSearch) => void;
  children?: ReactNode;
}

const words = strings.usage;

/** By what a report of usage is divided, and of which days it is. */
export function UsageFilters({ groups, group, search, change, children }: UsageFiltersProps) {
  return (
    <Group align="end">
      <Select label={words.by} data={groups.map((value) => ({ value, label: words.groupNames[value] ?? value }))} value={group} onChange={(by) => change({ ...search, by: by ?? undefined })} allowDeselect={false} />
      <TextInput type="date" label={words.from} value={search.from ?? ""} onChange={(event) => change({ ...search, from: event.currentTarget.value || undefined })} />
      <TextInput type="date" label={words.to} value={search.to ?? ""} onChange={(event) => change({ ...search, to: event.currentTarget.value || undefined })} />
      {children}
    </Group>
  );
}
