import { Button, Checkbox, Group, Select, Stack, Text, TextInput, Title } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { api, newKey, result } from "../api/client";
import { type Item, useList, useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { ErrorNote } from "../components/ErrorNote";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { RouterAnchor } from "../components/RouterAnchor";
import { TenantSelect } from "../components/TenantSelect";
import { strings } from "../strings";

type UserGroup = Item<"/admin/groups">;
const words = strings.userGroups;

/** Groups of a tenant, and the members of the one that the URL names. */
export function Groups() {
  const search = useSearch({ from: "/groups" });
  const navigate = useNavigate({ from: "/groups" });
  const me = useRead("/me");
  const tenant = search.tenant === undefined ? undefined : Number(search.tenant);
  const groups = useList("/admin/groups", { query: { tenant_id: tenant } });
  const shown = groups.items?.find((group) => String(group.id) === search.group);
  const [creating, setCreating] = useState(false);
  const [closing, setClosing] = useState<UserGroup | null>(null);
  return (
    <Page
      title={words.title}
      intro={words.intro}
      requests={[groups.request, { method: "POST", path: "/admin/groups", body: { name: "research" } }]}
      actions={<Button onClick={() => setCreating(true)}>{words.create}</Button>}
    >
      {me.data?.role === "operator" && (
        <Group>
          <TenantSelect value={tenant} change={(chosen) => void navigate({ search: chosen === undefined ? {} : { tenant: String(chosen) } })} />
        </Group>
      )}
      <DataTable
        label={words.title}
        list={groups}
        rowKey={(group) => group.id}
        empty={words.empty}
        emptyCommand={words.emptyCommand}
        columns={[
          { head: strings.common.id, cell: (group) => group.id },
          { head: words.name, cell: (group) => group.name },
          { head: strings.common.created, cell: (group) => <Moment at={group.created_at} /> },
          {
            head: words.members,
            cell: (group) => (
              <RouterAnchor to="/groups" search={{ ...search, group: String(group.id) }}>
                {words.members}
              </RouterAnchor>
            ),
          },
          {
            head: strings.common.actions,
            cell: (group) => (
              <Button size="compact-sm" variant="default" onClick={() => setClosing(group)}>
                {words.close}
              </Button>
            ),
          },
        ]}
      />
      {shown && <Members key={shown.id} group={shown} />}
      <CreateGroup opened={creating} close={() => setCreating(false)} tenant={tenant} />
      <Dialog
        title={words.closeTitle}
        opened={closing !== null}
        close={() => setClosing(null)}
        submitLabel={words.close}
        danger
        submit={() => result(api.DELETE("/admin/groups/{group_id}", { params: { path: { group_id: closing?.id ?? 0 } } }))}
      >
        <Text>{words.closeText(closing?.name ?? "")}</Text>
      </Dialog>
    </Page>
  );
}

function CreateGroup({ opened, close, tenant }: { opened: boolean; close: () => void; tenant: number | undefined }) {
  const [name, setName] = useState("");

  async function create(): Promise<void> {
    await result(api.POST("/admin/groups", { body: { name, tenant_id: tenant }, params: { header: { "Idempotency-Key": newKey() } } }));
    setName("");
  }

  return (
    <Dialog title={words.create} opened={opened} close={close} submitLabel={words.create} submit={create}>
      <TextInput label={words.name} description={words.nameHint} value={name} onChange={(event) => setName(event.currentTarget.value)} required data-autofocus />
    </Dialog>
  );
}

function Members({ group }: { group: UserGroup }) {
  const members = useList("/admin/groups/{group_id}/members", { path: { group_id: group.id } });
  const people = useList("/admin/users", { query: { tenant_id: group.tenant_id, limit: 100 } });
  const emails = new Map(people.items?.map((person) => [person.id, person.email]));
  const [adding, setAdding] = useState(false);
  return (
    <Stack gap="xs">
      <Group justify="space-between">
        <Title order={2} size="h4">
          {words.membersOf(group.name)}
        </Title>
        <Button variant="default" onClick={() => setAdding(true)}>
          {words.add}
        </Button>
      </Group>
      <DataTable
        label={words.membersOf(group.name)}
        list={members}
        rowKey={(member) => member.user_id}
        empty={words.noMembers}
        columns={[
          { head: words.user, cell: (member) => emails.get(member.user_id) ?? strings.budgets.user(member.user_id) },
          { head: words.byDefault, cell: (member) => (member.default ? strings.common.yes : strings.common.no) },
          { head: strings.common.actions, cell: (member) => <MemberActs groupId={group.id} userId={member.user_id} isDefault={member.default} /> },
        ]}
      />
      <AddMember group={group} opened={adding} close={() => setAdding(false)} people={people.items ?? []} />
    </Stack>
  );
}

function putMember(groupId: number, userId: number, isDefault: boolean): Promise<unknown> {
  const path = { group_id: groupId, user_id: userId };
  return result(api.PUT("/admin/groups/{group_id}/members/{user_id}", { params: { path }, body: { default: isDefault } }));
}

function MemberActs({ groupId, userId, isDefault }: { groupId: number; userId: number; isDefault: boolean }) {
  const queries = useQueryClient();
  const onSuccess = () => queries.invalidateQueries();
  const path = { group_id: groupId, user_id: userId };
  const prefer = useMutation({ mutationFn: () => putMember(groupId, userId, true), onSuccess });
  const remove = useMutation({
    mutationFn: () => result(api.DELETE("/admin/groups/{group_id}/members/{user_id}", { params: { path } })),
    onSuccess,
  });
  return (
    <>
      <Group gap="xs" wrap="nowrap">
        {!isDefault && (
          <Button size="compact-sm" variant="default" loading={prefer.isPending} onClick={() => prefer.mutate()}>
            {words.makeDefault}
          </Button>
        )}
        <Button size="compact-sm" variant="default" loading={remove.isPending} onClick={() => remove.mutate()}>
          {words.remove}
        </Button>
      </Group>
      <ErrorNote error={prefer.error ?? remove.error} />
    </>
  );
}

interface AddMemberProps {
  group: UserGroup;
  opened: boolean;
  close: () => void;
  people: Item<"/admin/users">[];
}

function AddMember({ group, opened, close, people }: AddMemberProps) {
  const [user, setUser] = useState<string | null>(null);
  const [isDefault, setIsDefault] = useState(true);
  return (
    <Dialog title={words.add} opened={opened} close={close} submitLabel={words.add} submit={() => putMember(group.id, Number(user), isDefault)}>
      <Select
        label={words.user}
        data={people.map((person) => ({ value: String(person.id), label: person.email }))}
        value={user}
        onChange={setUser}
        searchable
        required
        data-autofocus
      />
      <Checkbox label={words.byDefault} description={words.byDefaultHint} checked={isDefault} onChange={(event) => setIsDefault(event.currentTarget.checked)} />
    </Dialog>
  );
}
