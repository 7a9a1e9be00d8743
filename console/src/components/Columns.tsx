import { Group, Paper, Text } from "@mantine/core";

interface Bar {
  name: string;
  value: number;
  /** The value as people read it. */
  text: string;
}

const HEIGHT = 140;
const WIDTH = 1_000;
const SHARE = 0.8;

/** A chart with a column for each of a row of moments. What it shows is also in the table beside it. */
export function Columns({ label, bars }: { label: string; bars: Bar[] }) {
  const greatest = Math.max(1, ...bars.map((bar) => bar.value));
  const step = WIDTH / bars.length;
  return (
    <Paper withBorder p="md" component="figure" m={0}>
      <Group justify="space-between" mb="xs">
        <Text component="figcaption" size="sm" fw={600}>
          {label}
        </Text>
        <Text size="sm">{bars.find((bar) => bar.value === greatest)?.text}</Text>
      </Group>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} width="100%" height={HEIGHT} preserveAspectRatio="none" role="img" aria-label={label}>
        {bars.map((bar, at) => {
          const height = (bar.value / greatest) * HEIGHT;
          return (
            <rect key={bar.name} x={at * step + (step * (1 - SHARE)) / 2} y={HEIGHT - height} width={step * SHARE} height={height} fill="var(--mantine-color-blue-filled)">
              <title>{`${bar.name}: ${bar.text}`}</title>
            </rect>
          );
        })}
      </svg>
      <Group justify="space-between" mt={4}>
        <Text size="xs">{bars[0]?.name}</Text>
        <Text size="xs">{bars.at(-1)?.name}</Text>
      </Group>
    </Paper>
  );
}
