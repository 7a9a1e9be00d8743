import { Button, CloseButton, FileButton, Group, Image, Text } from "@mantine/core";
import { useState } from "react";
import { strings } from "../strings";

const words = strings.playground;
const MEDIA_TYPES = "image/png,image/jpeg,image/webp,image/gif";
const MAX_IMAGES = 4;
const MAX_BYTES = 2 * 1024 * 1024;

/** The images of a question, as data URLs, with a button that adds one. */
export function Images({ images, change }: { images: string[]; change: (images: string[]) => void }) {
  const [refusal, setRefusal] = useState("");

  async function add(file: File | null): Promise<void> {
    if (file === null) return;
    setRefusal(file.size > MAX_BYTES ? words.imageTooLarge(file.name) : "");
    if (file.size <= MAX_BYTES) change([...images, await dataUrl(file)]);
  }
  return (
    <Group gap="xs">
      {images.map((url, at) => (
        <Group key={at} gap={4} wrap="nowrap">
          <Image src={url} alt={words.image(at + 1)} h={48} w="auto" />
          <CloseButton size="sm" aria-label={words.removeImage(at + 1)} onClick={() => change(images.filter((_, one) => one !== at))} />
        </Group>
      ))}
      <FileButton accept={MEDIA_TYPES} onChange={(file) => void add(file)} inputProps={{ "aria-label": words.addImage }}>
        {(props) => (
          <Button {...props} variant="default" size="xs" disabled={images.length >= MAX_IMAGES}>
            {words.addImage}
          </Button>
        )}
      </FileButton>
      {refusal && (
        <Text size="sm" c="red" role="alert">
          {refusal}
        </Text>
      )}
    </Group>
  );
}

function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error ?? new Error());
    reader.readAsDataURL(file);
  });
}
