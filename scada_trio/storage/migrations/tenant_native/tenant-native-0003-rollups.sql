-- depends: tenant-native-0002-partitions
-- The rollups as ordinary views, with the names and columns of TimescaleDB's continuous aggregates: Good readings with a
-- finite number, and how many others there were. Ask for a range of buckets; the whole of it reads every reading.

DO $$
BEGIN
    IF to_regclass('scada_readings_hourly') IS NULL THEN
        CREATE VIEW scada_readings_hourly AS
        SELECT
            date_trunc('hour', timestamp, 'UTC') AS bucket,
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
        GROUP BY 1, 2, 3;
        COMMENT ON VIEW scada_readings_hourly IS 'view kept by scada-trio';
    END IF;
END
$$;

DO $$
BEGIN
    IF to_regclass('scada_readings_daily') IS NULL THEN
        CREATE VIEW scada_readings_daily AS
        SELECT
            date_trunc('day', timestamp, 'UTC') AS bucket,
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
        GROUP BY 1, 2, 3;
        COMMENT ON VIEW scada_readings_daily IS 'view kept by scada-trio';
    END IF;
END
$$;

DO $$
BEGIN
    IF to_regclass('scada_readings_monthly') IS NULL THEN
        CREATE VIEW scada_readings_monthly AS
        SELECT
            date_trunc('month', timestamp, 'UTC') AS bucket,
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
        GROUP BY 1, 2, 3;
        COMMENT ON VIEW scada_readings_monthly IS 'view kept by scada-trio';
    END IF;
END
$$;
