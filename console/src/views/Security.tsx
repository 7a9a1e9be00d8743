import { Alert, Anchor, Button, Code, Group, Paper, PasswordInput, Stack, Text, TextInput, Title } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { api, result } from "../api/client";
import { useRead } from "../api/read";
import { adopt, logOut } from "../api/session";
import { CopyText } from "../components/CopyText";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { ErrorNote } from "../components/ErrorNote";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { strings } from "../strings";

const words = strings.security;

export function Security() {
  const sessions = useRead("/auth/sessions");
  const queries = useQueryClient();
  const [leaving, setLeaving] = useState(false);
  const end = useMutation({
    mutationFn: (id: string) => result(api.DELETE("/auth/sessions/{session_id}", { params: { path: { session_id: id } } })),
    onSuccess: () => queries.invalidateQueries(),
  });
  return (
    <Page
      title={words.title}
      requests={[sessions.request, { method: "POST", path: "/auth/logout", body: { all: true } }]}
      actions={
        <Button color="red" onClick={() => setLeaving(true)}>
          {words.everywhere}
        </Button>
      }
    >
      <Title order={2} size="h4">
        {words.sessions}
      </Title>
      <Text c="dimmed">{words.sessionsIntro}</Text>
      <ErrorNote error={end.error} />
      <DataTable
        label={words.sessions}
        list={{ items: sessions.data?.data, error: sessions.error }}
        rowKey={(session) => session.id}
        empty={strings.common.none}
        columns={[
          { head: words.lastUsed, cell: (session) => <Moment at={session.last_used_at} /> },
          { head: words.address, cell: (session) => session.address },
          { head: words.program, cell: (session) => session.user_agent },
          { head: words.method, cell: (session) => session.method },
          { head: strings.common.created, cell: (session) => <Moment at={session.created_at} /> },
          {
            head: strings.common.actions,
            cell: (session) =>
              session.current ? (
                words.thisOne
              ) : (
                <Button size="compact-sm" variant="default" onClick={() => end.mutate(session.id)}>
                  {words.end}
                </Button>
              ),
          },
        ]}
      />
      <Group align="start" grow preventGrowOverflow={false}>
        <ChangePassword />
        <SecondFactor />
      </Group>
      <Dialog title={words.everywhere} opened={leaving} close={() => setLeaving(false)} submitLabel={words.everywhere} danger submit={() => logOut(true)}>
        <Text>{words.everywhereText}</Text>
      </Dialog>
    </Page>
  );
}

function Section({ title, children }: { title: string; children: ReactNode }) {
  return (
    <Paper withBorder p="md" miw={280}>
      <Stack>
        <Title order={2} size="h4">
          {title}
        </Title>
        {children}
      </Stack>
    </Paper>
  );
}

function ChangePassword() {
  const [current, setCurrent] = useState("");
  const [next, setNext] = useState("");
  const change = useMutation({
    mutationFn: () => result(api.POST("/auth/password", { body: { current_password: current, new_password: next, cookie: true } })),
    onSuccess: (tokens) => {
      adopt(tokens);
      setCurrent("");
      setNext("");
    },
  });
  return (
    <Section title={words.password}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          change.mutate();
        }}
      >
        <Stack>
          <PasswordInput label={words.current} value={current} onChange={(event) => setCurrent(event.currentTarget.value)} autoComplete="current-password" required />
          <PasswordInput label={words.next} description={words.nextHint} value={next} onChange={(event) => setNext(event.currentTarget.value)} autoComplete="new-password" minLength={12} required />
          <ErrorNote error={change.error} />
          {change.isSuccess && <Alert color="green">{words.changed}</Alert>}
          <Button type="submit" loading={change.isPending}>
            {words.change}
          </Button>
        </Stack>
      </form>
    </Section>
  );
}

function SecondFactor() {
  const me = useRead("/me");
  const queries = useQueryClient();
  const readAgain = () => queries.invalidateQueries();
  const [code, setCode] = useState("");
  const enrol = useMutation({ mutationFn: () => result(api.POST("/auth/totp", {})) });
  const confirm = useMutation({ mutationFn: () => result(api.POST("/auth/totp/confirm", { body: { code } })), onSuccess: readAgain });
  const remove = useMutation({
    mutationFn: () => result(api.DELETE("/auth/totp", { body: { code } })),
    onSuccess: () => {
      enrol.reset();
      confirm.reset();
      return readAgain();
    },
  });
  const isOn = me.data?.second_factor ?? false;
  const act = isOn ? remove : enrol.data ? confirm : enrol;
  return (
    <Section title={words.totp}>
      <Text size="sm">{isOn ? words.isOn : words.totpIntro}</Text>
      {confirm.data && <RecoveryCodes codes={confirm.data.recovery_codes} />}
      {enrol.data && !isOn && <Enrolment secret={enrol.data.secret} uri={enrol.data.uri} />}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          act.mutate();
          setCode("");
        }}
      >
        <Stack>
          {act !== enrol && <TextInput label={words.code} value={code} onChange={(event) => setCode(event.currentTarget.value)} autoComplete="one-time-code" required />}
          <ErrorNote error={act.error} />
          {remove.isSuccess && !isOn && <Alert color="green">{words.removed}</Alert>}
          <Group>
            <Button type="submit" variant={isOn ? "default" : "filled"} loading={act.isPending}>
              {isOn ? words.remove : enrol.data ? words.confirm : words.enrol}
            </Button>
          </Group>
        </Stack>
      </form>
    </Section>
  );
}

function Enrolment({ secret, uri }: { secret: string; uri: string }) {
  return (
    <>
      <Text size="sm">{words.secret}</Text>
      <CopyText label={words.totp} value={secret} />
      <Anchor href={uri} size="sm" underline="always">
        {words.open}
      </Anchor>
    </>
  );
}

function RecoveryCodes({ codes }: { codes: string[] }) {
  return (
    <>
      <Text fw={600}>{words.recovery}</Text>
      <Text size="sm">{words.recoveryText}</Text>
      <Code block data-testid="recovery">
        {codes.join("\n")}
      </Code>
    </>
  );
}
