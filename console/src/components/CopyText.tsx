import { Button, Group, TextInput } from "@mantine/core";
import { useClipboard } from "@mantine/hooks";
import { strings } from "../strings";

/** A secret or a link that is shown once, with a button that copies it. */
export function CopyText({ label, value }: { label: string; value: string }) {
  const clipboard = useClipboard();
  return (
    <Group align="end" wrap="nowrap">
      <TextInput label={label} value={value} readOnly flex={1} onFocus={(event) => event.currentTarget.select()} />
      <Button variant="light" onClick={() => clipboard.copy(value)}>
        {clipboard.copied ? strings.common.copied : strings.common.copy}
      </Button>
    </Group>
  );
}
