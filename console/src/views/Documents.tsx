import { Button, FileButton, Group, Progress, Select, Text } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, result } from "../api/client";
import { asCurl } from "../api/curl";
import { ACCEPTED, type Document, upload, uploadRequest, type Visibility } from "../api/documents";
import { useList } from "../api/read";
import { type Column, DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { ErrorNote } from "../components/ErrorNote";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { bytes, count } from "../lib/format";
import { strings } from "../strings";

const words = strings.documents;
const EVERY_MS = 1_500;

/** The documents from which answers can be given. */
export function Documents() {
  const documents = useList("/ai/documents", undefined, { every: (items) => (items?.some(isUnderWay) ? EVERY_MS : false) });
  const [deleting, setDeleting] = useState<Document | null>(null);
  const columns: Column<Document>[] = [
    { head: words.name, cell: (row) => row.name },
    { head: strings.common.status, cell: (row) => <Status document={row} /> },
    { head: words.visibility, cell: (row) => words.visibilityNames[row.visibility] },
    { head: words.size, numeric: true, cell: (row) => bytes(row.bytes) },
    { head: words.chunks, numeric: true, cell: (row) => (row.chunks === null ? "–" : count(row.chunks)) },
    { head: strings.common.created, cell: (row) => <Moment at={row.created_at} /> },
    {
      head: strings.common.actions,
      cell: (row) =>
        row.is_mine ? (
          <Button size="compact-sm" variant="default" onClick={() => setDeleting(row)}>
            {words.delete}
          </Button>
        ) : (
          words.ofAnother
        ),
    },
  ];
  return (
    <Page title={words.title} intro={words.intro} requests={[documents.request, uploadRequest(words.example, "private")]}>
      <Upload />
      <DataTable
        label={words.title}
        list={documents}
        rowKey={(row) => row.document_id}
        empty={words.empty}
        emptyCommand={`${asCurl(uploadRequest(words.example, "private"))} --data-binary @${words.example}`}
        columns={columns}
      />
      <Dialog
        title={words.deleteTitle}
        opened={deleting !== null}
        close={() => setDeleting(null)}
        submitLabel={words.delete}
        danger
        submit={() => result(api.DELETE("/ai/documents/{document_id}", { params: { path: { document_id: deleting?.document_id ?? "" } } }))}
      >
        <Text style={{ overflowWrap: "anywhere" }}>{words.deleteText(deleting?.name ?? "")}</Text>
      </Dialog>
    </Page>
  );
}

function isUnderWay(document: Document): boolean {
  return document.status === "pending" || document.status === "processing";
}

function Status({ document }: { document: Document }) {
  const name = words.statusNames[document.status];
  return (
    <>
      <Text size="sm">{name}</Text>
      {isUnderWay(document) && <Progress value={document.progress * 100} aria-label={`${document.name}: ${name}`} animated />}
      {document.error && <Text size="xs">{document.error.detail}</Text>}
    </>
  );
}

function Upload() {
  const queries = useQueryClient();
  const [visibility, setVisibility] = useState<Visibility>("private");
  const send = useMutation({ mutationFn: (file: File) => upload(file, visibility), onSuccess: () => queries.invalidateQueries() });
  return (
    <>
      <Group align="end">
        <Select
          label={words.visibility}
          data={(["private", "tenant"] as const).map((value) => ({ value, label: words.visibilityNames[value] }))}
          value={visibility}
          onChange={(chosen) => setVisibility(chosen === "tenant" ? "tenant" : "private")}
          allowDeselect={false}
        />
        <FileButton accept={ACCEPTED} onChange={(file) => file && send.mutate(file)} inputProps={{ "aria-label": words.upload }}>
          {(props) => (
            <Button {...props} loading={send.isPending}>
              {words.upload}
            </Button>
          )}
        </FileButton>
      </Group>
      <ErrorNote error={send.error} />
    </>
  );
}
