-- depends: tenant-timescale-0002-hourly
-- From hourly rows: means weighted by count; the deviation from the hourly ones and the spread of the hourly means around the whole.

CREATE MATERIALIZED VIEW IF NOT EXISTS scada_readings_daily
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    time_bucket(INTERVAL '1 day', bucket) AS bucket,
    well_id,
    tag_node_id,
    sum(avg * count) / nullif(sum(count), 0) AS avg,
    min(min) AS min,
    max(max) AS max,
    sqrt(greatest(0, sum((count - 1) * coalesce(stddev, 0) ^ 2) FILTER (WHERE count > 0) + sum(count * avg ^ 2)
        - sum(count * avg) ^ 2 / nullif(sum(count), 0)) / nullif(sum(count) - 1, 0)) AS stddev,
    sum(count)::bigint AS count,
    sum(uncertain_count)::bigint AS uncertain_count,
    sum(bad_count)::bigint AS bad_count,
    sum(total_count)::bigint AS total_count
FROM scada_readings_hourly
GROUP BY 1, 2, 3
WITH NO DATA;

COMMENT ON VIEW scada_readings_daily IS 'continuous aggregate kept by scada-trio';
