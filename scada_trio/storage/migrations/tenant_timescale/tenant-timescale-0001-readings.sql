-- Readings in a hypertable with chunks of a day. A table that exists is somebody else's and left as it is.
-- The unique index serves the queries and tells a repeated reading; the one on time alone that TimescaleDB would add
-- costs as much again at every insert and serves none of them. The comment tells our table from another application's:
-- its policies are ours to set (policies.py).

DO $$
BEGIN
    IF to_regclass('scada_readings') IS NULL THEN
        CREATE TABLE scada_readings (
            timestamp timestamptz NOT NULL,
            well_id uuid NOT NULL,
            tag_node_id text NOT NULL,
            value double precision NOT NULL,
            quality text NOT NULL DEFAULT 'Good',
            created_at timestamptz NOT NULL DEFAULT now()
        );
        PERFORM create_hypertable('scada_readings', 'timestamp',
            chunk_time_interval => INTERVAL '24 hours', create_default_indexes => false);
        CREATE UNIQUE INDEX scada_readings_series ON scada_readings (well_id, tag_node_id, timestamp DESC);
        ALTER TABLE scada_readings SET (timescaledb.compress,
            timescaledb.compress_segmentby = 'well_id, tag_node_id', timescaledb.compress_orderby = 'timestamp DESC');
        COMMENT ON TABLE scada_readings IS 'hypertable kept by scada-trio';
    END IF;
END
$$;
