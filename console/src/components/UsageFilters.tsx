import { Group, Select, TextInput } from "@mantine/core";
import { type ReactNode, useEffect, useState } from "react";
import { strings } from "../strings";

export interface UsageSearch {
  by?: string;
  from?: string;
  to?: string;
  tag?: string;
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
      <TagFilter value={search.tag ?? ""} change={(tag) => change({ ...search, tag: tag || undefined })} />
      {children}
    </Group>
  );
}

/** A tag, or the name of one; it applies when it is typed whole. */
function TagFilter({ value, change }: { value: string; change: (tag: string) => void }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  function apply(): void {
    if (text.trim() !== value) change(text.trim());
  }
  return (
    <TextInput
      label={words.groupNames.tag}
      placeholder={words.tagExample}
      value={text}
      onChange={(event) => setText(event.currentTarget.value)}
      onBlur={apply}
      onKeyDown={(event) => event.key === "Enter" && apply()}
    />
  );
}
