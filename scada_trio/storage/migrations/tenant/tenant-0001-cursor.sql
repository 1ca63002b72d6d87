-- The last batch of each buffer that was committed, and what became of its readings; moved in the batch's transaction.

CREATE TABLE IF NOT EXISTS scada_ingest_cursor (
    journal_id uuid PRIMARY KEY,
    last_seq bigint NOT NULL,
    inserted bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    replaced bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
