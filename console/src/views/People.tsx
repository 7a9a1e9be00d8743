import { Button, Group, Modal, Select, Stack, Text, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, type components, newKey, result } from "../api/client";
import { useList, useRead } from "../api/read";
import { CopyText } from "../components/CopyText";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { ErrorNote } from "../components/ErrorNote";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { RouterAnchor } from "../components/RouterAnchor";
import { TenantSelect } from "../components/TenantSelect";
import { strings } from "../strings";

type Invite = components["schemas"]["InviteRequest"];
type User = components["schemas"]["UserResponse"];
const words = strings.people;
const PAUSE_MS = 300;

export function People() {
  const me = useRead("/me");
  const isOperator = me.data?.role === "operator";
  const [tenant, setTenant] = useState<number | undefined>();
  const [email, setEmail] = useState("");
  const [filter] = useDebouncedValue(email.trim() || undefined, PAUSE_MS);
  const users = useList("/admin/users", { query: { email: filter, tenant_id: tenant } });
  const [inviting, setInviting] = useState(false);
  const [link, setLink] = useState<string | null>(null);
  return (
    <Page
      title={words.title}
      intro={words.intro}
      requests={[users.request, { method: "POST", path: "/admin/invitations", body: { email: "ada@example.com", role: "member" } }]}
      actions={<Button onClick={() => setInviting(true)}>{words.invite}</Button>}
    >
      <Group align="end">
        <TextInput label={words.filter} value={email} onChange={(event) => setEmail(event.currentTarget.value)} />
        {isOperator && <TenantSelect value={tenant} change={setTenant} />}
      </Group>
      <DataTable
        label={words.title}
        list={users}
        rowKey={(user) => user.id}
        empty={words.empty}
        columns={[
          { head: strings.common.id, cell: (user) => user.id },
          { head: words.email, cell: (user) => user.email },
          { head: words.role, cell: (user) => words.roleNames[user.role] ?? user.role },
          { head: words.kind, cell: (user) => user.kind },
          { head: strings.common.status, cell: (user) => (user.erased ? words.erased : user.disabled ? words.disabled : words.active) },
          { head: strings.common.created, cell: (user) => <Moment at={user.created_at} /> },
          {
            head: strings.nav.budgets,
            cell: (user) => (
              <RouterAnchor to="/budgets" search={{ user: String(user.id) }}>
                {strings.nav.budgets}
              </RouterAnchor>
            ),
          },
          { head: strings.common.actions, cell: (user) => <Switch user={user} /> },
        ]}
      />
      <InviteDialog opened={inviting} close={() => setInviting(false)} tenant={tenant} isOperator={isOperator} invited={setLink} />
      <Modal opened={link !== null} onClose={() => setLink(null)} title={words.invited} closeButtonProps={{ "aria-label": strings.common.close }}>
        <Stack>
          <Text size="sm">{words.invitedText}</Text>
          <CopyText label={words.invited} value={link ?? ""} />
        </Stack>
      </Modal>
    </Page>
  );
}

function Switch({ user }: { user: User }) {
  const queries = useQueryClient();
  const change = useMutation({
    mutationFn: () =>
      result(api.PATCH("/admin/users/{user_id}", { params: { path: { user_id: user.id } }, body: { disabled: !user.disabled } })),
    onSuccess: () => queries.invalidateQueries(),
  });
  if (user.erased) return null;
  return (
    <>
      <Button size="compact-sm" variant="default" loading={change.isPending} onClick={() => change.mutate()}>
        {user.disabled ? words.enable : words.disable}
      </Button>
      <ErrorNote error={change.error} />
    </>
  );
}

interface InviteProps {
  opened: boolean;
  close: () => void;
  tenant: number | undefined;
  isOperator: boolean;
  invited: (link: string) => void;
}

function InviteDialog({ opened, close, tenant, isOperator, invited }: InviteProps) {
  const [email, setEmail] = useState("");
  const [role, setRole] = useState<string | null>("member");
  const roles = ["member", "tenant_admin", ...(isOperator ? ["operator"] : [])];

  async function invite(): Promise<void> {
    const body: Invite = { email, role: role as Invite["role"], tenant_id: tenant };
    const params = { header: { "Idempotency-Key": newKey() } };
    invited((await result(api.POST("/admin/invitations", { body, params }))).url);
    setEmail("");
  }

  return (
    <Dialog title={words.invite} opened={opened} close={close} submitLabel={words.invite} submit={invite}>
      <TextInput label={words.email} type="email" value={email} onChange={(event) => setEmail(event.currentTarget.value)} required data-autofocus />
      <Select
        label={words.role}
        data={roles.map((value) => ({ value, label: words.roleNames[value] ?? value }))}
        value={role}
        onChange={setRole}
        allowDeselect={false}
      />
    </Dialog>
  );
}
