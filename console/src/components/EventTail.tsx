import { Badge, Button, Group, Text, Title } from "@mantine/core";
import { useState } from "react";
import { type CallEvent, useEventTail } from "../api/events";
import { count } from "../lib/format";
import { strings } from "../strings";
import { DataTable } from "./DataTable";
import { ErrorNote } from "./ErrorNote";
import { Moment } from "./Moment";
import { RouterAnchor } from "./RouterAnchor";

const words = strings.events;
const STATES = { connecting: words.connecting, following: words.following, lost: words.lost };

/** Each call that ends, the newest first. */
export function EventTail() {
  const [active, setActive] = useState(true);
  const tail = useEventTail(active);
  return (
    <>
      <Group justify="space-between">
        <Title order={2} size="h4">
          {words.title}{" "}
          <Badge variant="default" data-testid="tail">
            {STATES[tail.state]}
          </Badge>
        </Title>
        <Button variant="default" onClick={() => setActive(!active)}>
          {active ? words.pause : words.follow}
        </Button>
      </Group>
      <Text size="sm" c="dimmed">
        {words.thisNode}
      </Text>
      <ErrorNote error={tail.error} />
      {tail.dropped > 0 && <Text size="sm">{words.dropped(tail.dropped)}</Text>}
      <DataTable
        label={words.title}
        list={{ items: tail.events, error: null }}
        rowKey={(event) => event.event_id}
        empty={words.waiting}
        columns={[
          { head: words.when, cell: (event) => <Moment at={event.time} /> },
          { head: words.tenant, numeric: true, cell: (event) => event.data.tenant.id },
          { head: words.user, numeric: true, cell: (event) => event.data.user.id },
          { head: words.surface, cell: (event) => event.data.surface },
          { head: words.model, cell: (event) => event.data.model.id ?? "–" },
          { head: words.outcome, cell: outcomeOf },
          { head: words.cost, numeric: true, cell: costOf },
          { head: words.seconds, numeric: true, cell: (event) => event.data.durations.total.toFixed(2) },
        ]}
      />
    </>
  );
}

function outcomeOf({ data }: CallEvent): string {
  return [data.status, data.error?.code, data.error?.refused_by].filter(Boolean).join(": ");
}

function costOf({ data }: CallEvent) {
  if (data.charge === null) return "–";
  return (
    <RouterAnchor to="/ledger/$chargeId" params={{ chargeId: data.charge.id }}>
      {count(data.charge.cost_tokens)}
    </RouterAnchor>
  );
}
