-- Readings in daily partitions, kept by the service, and a default partition so that no reading is refused for its
-- time. A table that exists is somebody else's and left as it is, partitioned or not.

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
        ) PARTITION BY RANGE (timestamp);
        CREATE TABLE scada_readings_default PARTITION OF scada_readings DEFAULT;
        CREATE INDEX scada_readings_default_time ON scada_readings_default (timestamp);
        CREATE UNIQUE INDEX scada_readings_series ON scada_readings (well_id, tag_node_id, timestamp DESC);
        COMMENT ON TABLE scada_readings IS 'daily partitions kept by scada-trio';
    END IF;
END
$$;
