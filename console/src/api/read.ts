/** Reading from the API in views: each read knows the request that it made, so that a view can show it as curl. */

import { keepPreviousData, useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { useEffect } from "react";
import { api, result } from "./client";
import type { paths } from "./schema";
import type { ApiRequest } from "./curl";

type Readable = { [P in keyof paths]: paths[P] extends { get: { responses: { 200: unknown } } } ? P : never }[keyof paths];
type Operation<P extends Readable> = paths[P] extends { get: infer O } ? O : never;
type Params<P extends Readable> =
  Operation<P> extends { parameters: infer A }
    ? { query?: A extends { query?: infer Q } ? Q : never; path?: A extends { path: infer V } ? V : never; header?: Record<string, string> }
    : never;
export type Data<P extends Readable> =
  Operation<P> extends { responses: { 200: { content: { "application/json": infer D } } } } ? D : never;

interface ReadOptions<D = unknown> {
  /** How often to read again, in milliseconds; it may depend on what was read last. */
  every?: number | false | ((data: D | undefined) => number | false);
  enabled?: boolean;
}

// The paths are generic here, which the client's types cannot follow; callers are checked against the document above.
type AnyGet = (path: string, init: { params?: unknown; signal: AbortSignal }) => Promise<never>;

export function read<P extends Readable>(path: P, params: Params<P> | undefined, signal: AbortSignal): Promise<Data<P>> {
  return result((api.GET as unknown as AnyGet)(path, { params, signal }));
}

/** One object or one page. */
export function useRead<P extends Readable>(path: P, params?: Params<P>, options: ReadOptions<Data<P>> = {}) {
  const { every = false } = options;
  const query = useQuery({
    queryKey: [path, params ?? null],
    queryFn: ({ signal }) => read(path, params, signal),
    refetchInterval: typeof every === "function" ? ({ state }) => every(state.data as Data<P> | undefined) : every,
    enabled: options.enabled ?? true,
  });
  return { ...query, request: requestOf(path, params) };
}

type Page = { data: unknown[]; next_cursor: string | null };
type Listed = { [P in Readable]: Data<P> extends Page ? P : never }[Readable];
export type Item<P extends Listed> = Data<P> extends { data: (infer T)[] } ? T : never;

interface ListOptions<T> {
  enabled?: boolean;
  /** How often to read the pages again, in milliseconds; it may depend on what was read last. */
  every?: (items: T[] | undefined) => number | false;
}

/** A list, page after page: `more` reads the next one. */
export function useList<P extends Listed>(path: P, params?: Params<P>, options: ListOptions<Item<P>> = {}) {
  const query = useInfiniteQuery({
    queryKey: [path, params ?? null, "list"],
    initialPageParam: undefined as string | undefined,
    queryFn: ({ signal, pageParam }) => {
      const paged = { ...params, query: { ...(params?.query as object | undefined), ...(pageParam ? { cursor: pageParam } : {}) } };
      return read(path, paged as unknown as Params<P>, signal) as Promise<Page>;
    },
    getNextPageParam: (page) => page.next_cursor ?? undefined,
    placeholderData: keepPreviousData,
    refetchInterval: ({ state }) => options.every?.(state.data?.pages.flatMap((page) => page.data) as Item<P>[] | undefined) ?? false,
    enabled: options.enabled ?? true,
  });
  return {
    items: query.data?.pages.flatMap((page) => page.data) as Item<P>[] | undefined,
    error: query.error,
    isPending: query.isPending,
    more: query.hasNextPage ? () => void query.fetchNextPage() : null,
    isReadingMore: query.isFetchingNextPage,
    request: requestOf(path, params),
  };
}

/** All tenants, page after page, up to a thousand: for a choice of one of them. */
export function useTenants() {
  const tenants = useList("/admin/tenants", { query: { limit: 100 } });
  const { items, more, isReadingMore } = tenants;
  useEffect(() => {
    if (more && !isReadingMore && (items?.length ?? 0) < 1_000) more();
  }, [items, more, isReadingMore]);
  return tenants;
}

function requestOf(path: string, params: unknown): ApiRequest {
  const { header, ...rest } = (params ?? {}) as ApiRequest["params"] & { header?: Record<string, string> };
  return { method: "GET", path, params: rest, headers: header };
}
