import { Button, Center, Code, Paper, Skeleton, Stack, Table, Text } from "@mantine/core";
import type { ReactNode } from "react";
import { strings } from "../strings";
import { ErrorNote } from "./ErrorNote";

const ON_ONE_LINE = { whiteSpace: "nowrap" } as const;

export interface Column<T> {
  head: string;
  cell: (row: T) => ReactNode;
  numeric?: boolean;
}

interface List<T> {
  items: T[] | undefined;
  error: unknown;
  more?: (() => void) | null;
  isReadingMore?: boolean;
}

interface DataTableProps<T> {
  label: string;
  list: List<T>;
  columns: Column<T>[];
  rowKey: (row: T) => string | number;
  empty: string;
  emptyCommand?: string;
}

/** A list of the API as a table, with a button for the next page. */
export function DataTable<T>({ label, list, columns, rowKey, empty, emptyCommand }: DataTableProps<T>) {
  if (list.items === undefined) return list.error ? <ErrorNote error={list.error} /> : <Skeleton h={160} />;
  if (list.items.length === 0) return <Empty text={empty} command={emptyCommand} />;
  return (
    <Stack gap="xs">
      <ErrorNote error={list.error} />
      <Table.ScrollContainer minWidth={600} scrollAreaProps={{ viewportProps: { tabIndex: 0, role: "region", "aria-label": label } }}>
        <Table aria-label={label} striped highlightOnHover verticalSpacing="xs">
          <Table.Thead>
            <Table.Tr>
              {columns.map((column) => (
                <Table.Th key={column.head} ta={column.numeric ? "right" : undefined}>
                  {column.head}
                </Table.Th>
              ))}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {list.items.map((row) => (
              <Table.Tr key={rowKey(row)}>
                {columns.map((column) => (
                  <Table.Td key={column.head} ta={column.numeric ? "right" : undefined} style={column.numeric ? ON_ONE_LINE : undefined}>
                    {column.cell(row)}
                  </Table.Td>
                ))}
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      {list.more && (
        <Center>
          <Button variant="default" onClick={list.more} loading={list.isReadingMore}>
            {strings.common.more}
          </Button>
        </Center>
      )}
    </Stack>
  );
}

/** What to do where there is nothing yet. */
export function Empty({ text, command }: { text: string; command?: string }) {
  return (
    <Paper withBorder p="xl">
      <Stack align="center" gap="xs">
        <Text>{text}</Text>
        {command && (
          <Code block maw="100%" style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>
            {command}
          </Code>
        )}
      </Stack>
    </Paper>
  );
}
