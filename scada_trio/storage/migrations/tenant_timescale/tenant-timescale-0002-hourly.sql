-- depends: tenant-timescale-0001-readings
-- transactional: false
-- Good readings with a finite number of each hour, and how many others there were. Late readings are taken in when
-- the policy runs next: it looks at changed hours only, however wide its window.

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

DO $$
BEGIN
    PERFORM add_continuous_aggregate_policy('scada_readings_hourly', start_offset => INTERVAL '90 days',
        end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '30 minutes', if_not_exists => true);
END
$$;
