-- depends: tenant-0003-maintenance
-- With HEARTBEAT_INTERVAL_MS, a row a series each interval: the last reading again, and whether its device was there.
-- A table of its own, so that a repeated value is never taken for a reading.

CREATE TABLE IF NOT EXISTS scada_heartbeats (
    beat_at timestamptz NOT NULL,
    well_id uuid NOT NULL,
    tag_node_id text NOT NULL,
    connection_id uuid NOT NULL,
    connected boolean NOT NULL,
    heard_at timestamptz,
    reading_at timestamptz NOT NULL,
    value double precision NOT NULL,
    quality text NOT NULL,
    PRIMARY KEY (well_id, tag_node_id, beat_at)
);
CREATE INDEX IF NOT EXISTS scada_heartbeats_beat_at ON scada_heartbeats (beat_at);
