/** What requests count for besides their user. */

/** A group, by default the user's; and tags, the names with their values. An empty value is no tag. */
export interface Attribution {
  group?: string;
  tags?: Record<string, string>;
}

const VALUE = /^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63}$/;

/** Whether the API takes the value of a tag; or it is empty. */
export function isTagValue(value: string): boolean {
  return value === "" || VALUE.test(value);
}

export function areTags(tags: Attribution["tags"]): boolean {
  return Object.values(tags ?? {}).every(isTagValue);
}

/** The headers of requests that count so. */
export function attributionHeaders({ group, tags }: Attribution): Record<string, string> {
  const named = Object.entries(tags ?? {}).filter(([, value]) => value !== "");
  return {
    ...(group ? { "X-Tollkeeper-Group": group } : {}),
    ...(named.length ? { "X-Tollkeeper-Tags": named.map(([name, value]) => `${name}=${value}`).join(",") } : {}),
  };
}
