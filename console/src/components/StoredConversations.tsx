import { Anchor, Button, Group, Paper, Stack, Switch, Text, TextInput, Title } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { api, type components, result } from "../api/client";
import { useList } from "../api/read";
import { isName, newName } from "../lib/stored";
import { strings } from "../strings";
import { Dialog } from "./Dialog";
import { ErrorNote } from "./ErrorNote";
import { Moment } from "./Moment";

type Conversation = components["schemas"]["SessionWithMessagesResponse"];
const words = strings.conversations;

interface StoredConversationsProps {
  /** The name of the conversation that goes on; undefined if it is not stored. */
  name: string | undefined;
  /** Whether a conversation has begun, or is being answered: then it stays what it is. */
  hasBegun: boolean;
  running: boolean;
  rename: (name: string | undefined) => void;
  open: (conversation: Conversation) => void;
  forget: (name: string) => void;
}

/** The conversations that the server stores for the caller: one is opened, a new one begins, one is deleted. */
export function StoredConversations({ name, hasBegun, running, rename, open, forget }: StoredConversationsProps) {
  const list = useList("/ai/sessions", { query: { limit: 10 } });
  const [deleted, setDeleted] = useState<string | null>(null);
  const reading = useMutation({
    mutationFn: (id: string) => result(api.GET("/ai/sessions/{session_id}", { params: { path: { session_id: id } } })),
    onSuccess: open,
  });
  return (
    <Paper withBorder p="md">
      <Stack gap="xs">
        <Title order={2} size="h4">
          {words.title}
        </Title>
        <Switch
          label={words.store}
          description={hasBegun ? words.begun : words.storeHint}
          checked={name !== undefined}
          disabled={hasBegun}
          onChange={(event) => rename(event.currentTarget.checked ? newName(new Date()) : undefined)}
        />
        {name !== undefined && (
          <TextInput
            label={words.name}
            value={name}
            onChange={(event) => rename(event.currentTarget.value)}
            error={isName(name) ? undefined : words.wrongName}
            disabled={hasBegun}
          />
        )}
        <ErrorNote error={list.error ?? reading.error} />
        {list.items?.length === 0 && <Text size="sm">{words.empty}</Text>}
        {list.items?.map(({ id, turns, updated_at: at }) => (
          <Group key={id} gap="xs" justify="space-between" wrap="nowrap" data-testid="stored">
            <div style={{ minWidth: 0 }}>
              <Anchor component="button" type="button" size="sm" ta="left" disabled={running} onClick={() => reading.mutate(id)} style={{ overflowWrap: "anywhere" }} aria-current={id === name ? "true" : undefined}>
                {id}
              </Anchor>
              <Text size="xs">
                {words.messages(turns)}, <Moment at={at} />
              </Text>
            </div>
            <Button size="compact-sm" variant="default" disabled={running} aria-label={words.deleteNamed(id)} onClick={() => setDeleted(id)}>
              {words.delete}
            </Button>
          </Group>
        ))}
        {list.more && (
          <Button size="xs" variant="default" onClick={list.more} loading={list.isReadingMore}>
            {strings.common.more}
          </Button>
        )}
      </Stack>
      {deleted !== null && <DeleteDialog name={deleted} close={() => setDeleted(null)} forget={forget} />}
    </Paper>
  );
}

function DeleteDialog({ name, close, forget }: { name: string; close: () => void; forget: (name: string) => void }) {
  async function submit(): Promise<void> {
    await result(api.DELETE("/ai/sessions/{session_id}", { params: { path: { session_id: name } } }));
    forget(name);
  }
  return (
    <Dialog title={words.deleteTitle} opened close={close} submitLabel={words.delete} danger submit={submit}>
      <Text style={{ overflowWrap: "anywhere" }}>{words.deleteText(name)}</Text>
    </Dialog>
  );
}
