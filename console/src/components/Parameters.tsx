import { NumberInput, Paper, Select, Stack, Switch, Textarea } from "@mantine/core";
import { type Options, toolsIn } from "../lib/call";
import { strings } from "../strings";
import { GroupSelect } from "./GroupSelect";
import { TagFields } from "./TagFields";

const words = strings.playground;

interface ParametersProps {
  models: { id: string; default: boolean }[];
  options: Options;
  change: (options: Options) => void;
}

/** How the playground calls the model. */
export function Parameters({ models, options, change }: ParametersProps) {
  return (
    <Paper withBorder p="md">
      <Stack gap="xs">
        <Select
          label={words.model}
          data={models.map((model) => model.id)}
          placeholder={models.find((model) => model.default)?.id}
          value={options.model ?? null}
          onChange={(model) => change({ ...options, model: model ?? undefined })}
          searchable
          clearable
          limit={100}
        />
        <GroupSelect value={options.group} change={(group) => change({ ...options, group })} />
        <TagFields values={options.tags ?? {}} change={(tags) => change({ ...options, tags })} />
        <Textarea
          label={words.system}
          value={options.system_prompt ?? ""}
          onChange={(event) => change({ ...options, system_prompt: event.currentTarget.value || undefined })}
          autosize
          minRows={2}
          maxRows={6}
        />
        <NumberInput
          label={words.maxTokens}
          min={1}
          max={1_000_000}
          allowDecimal={false}
          value={options.max_tokens ?? ""}
          onChange={(value) => change({ ...options, max_tokens: value === "" ? undefined : Number(value) })}
        />
        <NumberInput
          label={words.temperature}
          min={0}
          max={2}
          step={0.1}
          value={options.temperature ?? ""}
          onChange={(value) => change({ ...options, temperature: value === "" ? undefined : Number(value) })}
        />
        <Switch
          label={words.retrieve}
          description={words.retrieveHint}
          checked={options.retrieve ?? false}
          onChange={(event) => change({ ...options, retrieve: event.currentTarget.checked || undefined })}
        />
        <Textarea
          label={words.tools}
          description={words.toolsHint}
          placeholder={words.toolsExample}
          value={options.tools ?? ""}
          onChange={(event) => change({ ...options, tools: event.currentTarget.value || undefined })}
          error={areTools(options.tools) ? undefined : words.toolsWrong}
          styles={{ input: { fontFamily: "monospace" } }}
          autosize
          minRows={2}
          maxRows={12}
        />
      </Stack>
    </Paper>
  );
}

export function areTools(text: string | undefined): boolean {
  try {
    toolsIn(text);
    return true;
  } catch {
    return false;
  }
}
