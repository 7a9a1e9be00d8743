import { Grid, Group, Paper, Progress, Stack, Table, Text, Title } from "@mantine/core";
import type { ReactNode } from "react";
import { type ChargeFacts, isOpen, partsOf } from "../lib/charge";
import { count, percent } from "../lib/format";
import { strings } from "../strings";
import { Moment } from "./Moment";

const words = strings.charge;

/** Why a call cost what it cost: what was held, what was reported, and what was paid of the hold. */
export function ChargePicture({ charge }: { charge: ChargeFacts }) {
  return (
    <Stack>
      <Grid>
        <Step title={words.hold} text={words.holdText}>
          <Figure value={count(charge.held)} name={words.heldTokens} testId="held" />
          <Figure value={count(charge.granted_output)} name={words.grantedOutput} />
        </Step>
        <Step title={words.report} text={words.reportText}>
          {charge.input_tokens === null ? (
            <Text>{isOpen(charge) ? words.notYet : words.nothing}</Text>
          ) : (
            <>
              <Figure value={count(charge.input_tokens)} name={words.input} />
              {charge.cached_input_tokens ? <Figure value={count(charge.cached_input_tokens)} name={words.cached} /> : null}
              <Figure value={count(charge.output_tokens ?? 0)} name={words.output} />
            </>
          )}
        </Step>
        <Step title={words.settle} text={words.settleText}>
          {isOpen(charge) ? (
            <Text>{words.notYet}</Text>
          ) : (
            <>
              <Figure value={count(charge.cost)} name={words.paid} testId="cost" />
              {charge.cost_usd !== null && <Figure value={`$${charge.cost_usd}`} name="" />}
            </>
          )}
        </Step>
      </Grid>
      {!isOpen(charge) && <Division charge={charge} />}
      <Facts charge={charge} />
    </Stack>
  );
}

function Step({ title, text, children }: { title: string; text: string; children: ReactNode }) {
  return (
    <Grid.Col span={{ base: 12, sm: 4 }}>
      <Paper withBorder p="md" h="100%">
        <Title order={2} size="h4">
          {title}
        </Title>
        <Text size="sm" c="dimmed" mb="sm">
          {text}
        </Text>
        <Group gap="lg">{children}</Group>
      </Paper>
    </Grid.Col>
  );
}

function Figure({ value, name, testId }: { value: string; name: string; testId?: string }) {
  return (
    <div>
      <Text size="xl" fw={700} data-testid={testId}>
        {value}
      </Text>
      <Text size="sm">{name}</Text>
    </div>
  );
}

/** The hold as a bar, divided into what became of it. */
function Division({ charge }: { charge: ChargeFacts }) {
  const parts = partsOf(charge);
  const whole = charge.held + parts.overrun;
  const sections = [
    { name: words.paid, value: parts.paid, color: "blue" },
    { name: words.overrun, value: parts.overrun, color: "red" },
    { name: words.forgiven, value: parts.forgiven, color: "yellow" },
    { name: words.released, value: parts.released, color: "gray" },
  ].filter((section) => section.value > 0);
  if (whole === 0) return null;
  return (
    <div>
      <Progress.Root size={28} aria-label={words.picture(count(charge.held), count(charge.cost))}>
        {sections.map(({ name, value, color }) => (
          <Progress.Section key={name} value={percent(value, whole)} color={color} aria-label={`${name}: ${count(value)}`} />
        ))}
      </Progress.Root>
      <Group gap="lg" mt={6}>
        {sections.map(({ name, value }) => (
          <Text key={name} size="sm">
            {name}: {count(value)}
          </Text>
        ))}
      </Group>
    </div>
  );
}

function Facts({ charge }: { charge: ChargeFacts }) {
  const rows: [string, ReactNode][] = [
    [words.reason, charge.reason],
    ...(charge.error === null ? [] : ([[words.error, charge.error]] as [string, ReactNode][])),
    [strings.charges.model, charge.model],
    [words.provider, charge.provider],
    [strings.charges.endpoint, charge.surface],
    [strings.charges.state, charge.state],
    [words.basis, charge.basis ?? "–"],
    [words.opened, <Moment key="opened" at={charge.created_at} />],
    [words.closed, charge.closed_at === null ? words.notYet : <Moment key="closed" at={charge.closed_at} />],
    [strings.common.id, charge.id],
  ];
  return (
    <Table withRowBorders={false} aria-label={words.title}>
      <Table.Tbody>
        {rows.map(([name, value]) => (
          <Table.Tr key={name}>
            <Table.Th scope="row" w={130} style={{ verticalAlign: "top" }}>
              {name}
            </Table.Th>
            <Table.Td style={{ overflowWrap: "anywhere" }}>{value}</Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}
