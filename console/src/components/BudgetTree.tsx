import { Button, Table, Text } from "@mantine/core";
import { useQueries } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { type Item, read, useList, useRead } from "../api/read";
import { strings } from "../strings";
import type { QuotaBalance } from "./QuotaBar";
import type { QuotaAct, QuotaOwner } from "./QuotaDialog";
import { QuotaList } from "./QuotaList";

type Owner = Item<"/admin/quotas">;
type Act = (act: QuotaAct) => void;
const words = strings.budgetTree;
const INDENT_PX = 24;

interface BudgetTreeProps {
  owners: Owner[];
  groups: Item<"/admin/groups">[];
  nameOf: (userId: number) => string;
  /** Whether the viewer may change the quota of the tenant itself. */
  mayChangeTenant: boolean;
  act: Act;
}

/** The quotas of a tenant, its groups, their users and the keys of these. A user is under their default group. */
export function BudgetTree({ owners, groups, nameOf, mayChangeTenant, act }: BudgetTreeProps) {
  const home = useDefaultGroups(groups);
  const users = owners.filter((owner) => owner.user_id !== null);
  const userRows = (group: number | undefined, depth: number) =>
    users
      .filter((owner) => home.get(owner.user_id ?? 0) === group)
      .map((owner) => <UserRows key={owner.user_id} owner={owner} name={nameOf(owner.user_id ?? 0)} depth={depth} act={act} />);
  return (
    <Table.ScrollContainer minWidth={560} scrollAreaProps={{ viewportProps: { tabIndex: 0, role: "region", "aria-label": words.tree } }}>
      <Table aria-label={words.tree} verticalSpacing="xs">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>{words.what}</Table.Th>
            <Table.Th>{strings.budgets.quotas}</Table.Th>
            <Table.Th>{strings.common.actions}</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {owners
            .filter((owner) => owner.user_id === null)
            .map((owner) => (
              <Row key="tenant" name={strings.budgets.ofTenant} depth={0} owner={{ tenant_id: owner.tenant_id }} quotas={owner.quotas} act={mayChangeTenant ? act : null} />
            ))}
          {groups.map((group) => (
            <GroupRows key={group.id} group={group} act={act}>
              {userRows(group.id, 2)}
            </GroupRows>
          ))}
          {userRows(undefined, 1)}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

/** The default group of each user who has one. */
function useDefaultGroups(groups: Item<"/admin/groups">[]): Map<number, number> {
  return useQueries({
    queries: groups.map(({ id }) => {
      const params = { path: { group_id: id }, query: { limit: 100 } };
      const path = "/admin/groups/{group_id}/members" as const;
      return { queryKey: [path, params], queryFn: ({ signal }: { signal: AbortSignal }) => read(path, params, signal) };
    }),
    combine: (found) => {
      const home = new Map<number, number>();
      found.forEach(({ data }, at) => {
        for (const member of data?.data ?? []) if (member.default) home.set(member.user_id, groups[at]?.id ?? 0);
      });
      return home;
    },
  });
}

function GroupRows({ group, act, children }: { group: Item<"/admin/groups">; act: Act; children: ReactNode }) {
  const found = useRead("/admin/quotas", { query: { group_id: group.id } });
  return (
    <>
      <Row name={words.group(group.name)} depth={1} owner={{ group_id: group.id }} quotas={found.data?.data[0]?.quotas} error={found.error} act={act} />
      {children}
    </>
  );
}

function UserRows({ owner, name, depth, act }: { owner: Owner; name: string; depth: number; act: Act }) {
  const [opened, setOpened] = useState(false);
  const keys = useList("/admin/keys", { query: { user_id: owner.user_id ?? undefined } }, { enabled: opened });
  const toggle = (
    <Button size="compact-sm" variant="subtle" aria-expanded={opened} onClick={() => setOpened(!opened)}>
      {opened ? words.hideKeys : words.showKeys}
    </Button>
  );
  return (
    <>
      <Row name={name} depth={depth} owner={{ user_id: owner.user_id }} quotas={owner.quotas} act={act} more={toggle} error={keys.error} />
      {opened && keys.items?.length === 0 && (
        <Table.Tr>
          <Table.Td colSpan={3} pl={(depth + 1) * INDENT_PX}>
            {words.noKeys}
          </Table.Td>
        </Table.Tr>
      )}
      {opened && keys.items?.map((key) => <KeyRow key={key.id} id={key.id} name={words.key(key.name, key.prefix)} depth={depth + 1} act={act} />)}
    </>
  );
}

function KeyRow({ id, name, depth, act }: { id: string; name: string; depth: number; act: Act }) {
  const found = useRead("/admin/quotas", { query: { key_id: id } });
  return <Row name={name} depth={depth} owner={{ key_id: id }} quotas={found.data?.data[0]?.quotas} error={found.error} act={act} />;
}

interface RowProps {
  name: string;
  depth: number;
  owner: QuotaOwner;
  quotas: QuotaBalance[] | undefined;
  error?: unknown;
  more?: ReactNode;
  /** Null where the viewer may not change the quotas. */
  act: Act | null;
}

function Row({ name, depth, owner, quotas, error, more, act }: RowProps) {
  return (
    <Table.Tr>
      <Table.Td pl={depth * INDENT_PX || undefined} style={{ overflowWrap: "anywhere", verticalAlign: "top" }}>
        <Text size="sm" fw={depth === 0 ? 700 : undefined}>
          {name}
        </Text>
        {more}
      </Table.Td>
      <Table.Td>
        <QuotaList owner={owner} quotas={quotas} error={error} act={act} />
      </Table.Td>
      <Table.Td style={{ verticalAlign: "top" }}>
        {act && (
          <Button size="compact-sm" onClick={() => act({ kind: "set", owner })}>
            {strings.budgets.set}
          </Button>
        )}
      </Table.Td>
    </Table.Tr>
  );
}
