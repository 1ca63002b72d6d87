-- depends: tenant-0001-cursor
-- What is not in scada_readings and why: ranges that were lost, and readings that the database refused, whole, so that
-- they can be written again once the reason is gone. Neither is ever deleted but by an operator.

CREATE TABLE IF NOT EXISTS scada_loss (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    connection_id uuid,
    reason text NOT NULL,
    from_time timestamptz NOT NULL,
    to_time timestamptz NOT NULL,
    reading_count bigint,
    detail text NOT NULL DEFAULT '',
    journal_id uuid,
    loss_no bigint,
    UNIQUE (journal_id, loss_no)
);
CREATE INDEX IF NOT EXISTS scada_loss_connection ON scada_loss (connection_id, id DESC);

-- time_us is the time as it came, also where no timestamp can be that far away and ``timestamp`` is infinite.
-- node_id_escaped: the node id cannot be stored as it is, what stands here is made readable.
CREATE TABLE IF NOT EXISTS scada_quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    quarantined_at timestamptz NOT NULL DEFAULT now(),
    timestamp timestamptz NOT NULL,
    time_us bigint NOT NULL,
    well_id uuid NOT NULL,
    tag_node_id text NOT NULL,
    node_id_escaped boolean NOT NULL DEFAULT false,
    value double precision NOT NULL,
    quality text NOT NULL,
    sqlstate text NOT NULL,
    reason text NOT NULL,
    journal_id uuid NOT NULL,
    batch_seq bigint NOT NULL
);

ALTER TABLE scada_ingest_cursor ADD COLUMN IF NOT EXISTS quarantined bigint NOT NULL DEFAULT 0;
