import { Select } from "@mantine/core";
import { useRead } from "../api/read";
import { strings } from "../strings";

const words = strings.groups;

/** Which of the caller's groups requests count for: shown to users who are in one. */
export function GroupSelect({ value, change }: { value: string | undefined; change: (group: string | undefined) => void }) {
  const groups = useRead("/me").data?.groups ?? [];
  if (groups.length === 0) return null;
  return (
    <Select
      label={words.label}
      description={words.hint}
      placeholder={groups.find((group) => group.default)?.name ?? strings.common.none}
      data={groups.map((group) => group.name)}
      value={value ?? null}
      onChange={(group) => change(group ?? undefined)}
      clearable
      maw={420}
    />
  );
}
