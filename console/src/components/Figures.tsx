import { Paper, SimpleGrid, Text } from "@mantine/core";

/** A row of figures, each with its name. */
export function Figures({ figures }: { figures: [name: string, value: string][] }) {
  return (
    <SimpleGrid cols={{ base: 2, md: 5 }}>
      {figures.map(([name, value]) => (
        <Paper key={name} withBorder p="sm">
          <Text size="xl" fw={700}>
            {value}
          </Text>
          <Text size="sm">{name}</Text>
        </Paper>
      ))}
    </SimpleGrid>
  );
}
