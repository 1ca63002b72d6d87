-- depends: tenant-timescale-0001-readings
-- Good readings with a finite number of each hour, and how many others there were.

CREATE MATERIALIZED VIEW IF NOT EXISTS scada_readings_hourly
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    time_bucket(INTERVAL '1 hour', timestamp) AS bucket,
    well_id,
    tag_node_id,
    avg(value) FILTER (WHERE quality = 'Good' AND abs(value) < 'Infinity') AS avg,
    min(value) FILTER (WHERE quality = 'Good' AND abs(value) < 'Infinity') AS min,
    max(value) FILTER (WHERE quality = 'Good' AND abs(value) < 'Infinity') AS max,
    stddev(value) FILTER (WHERE quality = 'Good' AND abs(value) < 'Infinity') AS stddev,
    count(*) FILTER (WHERE quality = 'Good' AND abs(value) < 'Infinity') AS count,
    count(*) FILTER (WHERE quality = 'Uncertain') AS uncertain_count,
    count(*) FILTER (WHERE quality = 'Bad') AS bad_count,
    count(*) AS total_count
FROM scada_readings
GROUP BY 1, 2, 3
WITH NO DATA;

COMMENT ON VIEW scada_readings_hourly IS 'continuous aggregate kept by scada-trio';
