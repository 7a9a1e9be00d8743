import { Anchor, type AnchorProps } from "@mantine/core";
import { createLink } from "@tanstack/react-router";
import type { ReactNode, Ref } from "react";

/** A link to another view. It is underlined: colour alone is not visible to every reader. */
export const RouterAnchor = createLink((props: AnchorProps & { children?: ReactNode; ref?: Ref<HTMLAnchorElement> }) => (
  <Anchor underline="always" {...props} />
));
