import { TextInput } from "@mantine/core";
import { isTagValue } from "../api/attribution";
import { useRead } from "../api/read";
import { strings } from "../strings";

const words = strings.callTags;

interface TagFieldsProps {
  values: Record<string, string>;
  change: (values: Record<string, string>) => void;
}

/** The tags of requests: a field for each one that the tenant declares. */
export function TagFields({ values, change }: TagFieldsProps) {
  const declared = useRead("/me").data?.tags ?? [];
  return declared.map(({ name, required }) => (
    <TextInput
      key={name}
      label={words.label(name)}
      description={required ? words.required : words.hint}
      value={values[name] ?? ""}
      onChange={(event) => change({ ...values, [name]: event.currentTarget.value })}
      error={isTagValue(values[name] ?? "") ? undefined : words.wrong}
      required={required}
      maw={420}
    />
  ));
}
