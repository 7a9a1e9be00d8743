import { Button, Code, Group, Popover, Stack, Text, Title } from "@mantine/core";
import { useClipboard } from "@mantine/hooks";
import { type ReactNode, useEffect } from "react";
import { type ApiRequest, asCurl } from "../api/curl";
import { strings } from "../strings";

interface PageProps {
  title: string;
  intro?: string;
  /** What the view has requested: shown as curl. */
  requests: ApiRequest[];
  actions?: ReactNode;
  children: ReactNode;
}

/** A view: its heading, what it is about, and its requests as commands. */
export function Page({ title, intro, requests, actions, children }: PageProps) {
  useEffect(() => {
    document.title = `${title} · ${strings.product}`;
  }, [title]);
  return (
    <Stack gap="md">
      <Group justify="space-between" align="start">
        <Title order={1} size="h2">
          {title}
        </Title>
        <Group gap="xs" className="no-print">
          {actions}
          <CopyAsCurl requests={requests} />
        </Group>
      </Group>
      {intro && <Text c="dimmed">{intro}</Text>}
      {children}
    </Stack>
  );
}

function CopyAsCurl({ requests }: { requests: ApiRequest[] }) {
  const clipboard = useClipboard();
  const text = requests.map(asCurl).join("\n");
  return (
    <Popover width={460} position="bottom-end" withArrow shadow="md">
      <Popover.Target>
        <Button variant="default" onClick={() => clipboard.copy(text)}>
          {clipboard.copied ? strings.common.copied : strings.common.copyAsCurl}
        </Button>
      </Popover.Target>
      <Popover.Dropdown maw="95vw">
        <Code block data-testid="curl" tabIndex={0}>
          {text}
        </Code>
        <Text size="xs" mt="xs">
          {strings.common.curlHint}
        </Text>
      </Popover.Dropdown>
    </Popover>
  );
}
