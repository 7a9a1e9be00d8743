import { Modal, NavLink, ScrollArea, Text, TextInput } from "@mantine/core";
import { type KeyboardEvent, useId, useState } from "react";
import { matching } from "../lib/palette";
import { strings } from "../strings";

/** Something that the palette does: it goes to a view, or acts. */
export interface Command {
  name: string;
  section: string;
  run: () => void;
}

const words = strings.palette;

/** A list of all views and acts of the user's role, which is searched by typing. */
export function Palette({ commands, close }: { commands: Command[]; close: () => void }) {
  const [query, setQuery] = useState("");
  const [chosen, setChosen] = useState(0);
  const id = useId();
  const found = matching(commands, query);

  function run(command: Command | undefined): void {
    close();
    command?.run();
  }
  function onKey(event: KeyboardEvent): void {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step !== undefined && found.length > 0) setChosen((chosen + step + found.length) % found.length);
    else if (event.key === "Enter") run(found[chosen]);
    else return;
    event.preventDefault();
  }
  return (
    <Modal opened onClose={close} title={words.title} closeButtonProps={{ "aria-label": strings.common.close }}>
      <TextInput
        label={words.label}
        value={query}
        onChange={(event) => {
          setQuery(event.currentTarget.value);
          setChosen(0);
        }}
        onKeyDown={onKey}
        role="combobox"
        aria-expanded
        aria-controls={id}
        aria-activedescendant={found[chosen] && `${id}-${chosen}`}
        data-autofocus
      />
      <ScrollArea.Autosize mah={320} mt="xs" viewportProps={{ tabIndex: 0 }}>
        <div id={id} role="listbox" aria-label={words.title}>
          {found.map((command, at) => (
            <NavLink
              key={`${command.section} ${command.name}`}
              id={`${id}-${at}`}
              component="div"
              role="option"
              aria-selected={at === chosen}
              active={at === chosen}
              variant="filled"
              label={command.name}
              rightSection={<Text size="xs">{command.section}</Text>}
              onClick={() => run(command)}
            />
          ))}
        </div>
        {found.length === 0 && <Text size="sm">{words.empty}</Text>}
      </ScrollArea.Autosize>
    </Modal>
  );
}
