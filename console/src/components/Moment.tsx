import { Text } from "@mantine/core";
import { useEffect, useState } from "react";
import { ago, exactly } from "../lib/format";

const TICK_MS = 20_000;

/** A relative time on one line, with the exact one on hover. */
export function Moment({ at }: { at: string }) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), TICK_MS);
    return () => clearInterval(timer);
  }, []);
  return (
    <Text component="time" inherit dateTime={at} title={exactly(at)} style={{ whiteSpace: "nowrap" }}>
      {ago(at, now)}
    </Text>
  );
}
