-- depends: tenant-native-0001-readings
-- How a daily partition is made; days are UTC.

CREATE OR REPLACE FUNCTION scada_make_partition(day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    name text := 'scada_readings_p' || to_char(day, 'YYYYMMDD');
    lower timestamptz := day::timestamp AT TIME ZONE 'UTC';
    upper timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Writers wait here, before they choose a partition: one that had chosen the default partition already would be
    -- refused there once its day is taken out of it. Readers go on until ATTACH wants the default partition.
    LOCK TABLE ONLY scada_readings IN SHARE ROW EXCLUSIVE MODE;
    IF to_regclass(name) IS NOT NULL THEN
        RETURN false;  -- by somebody for whom we waited
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE scada_readings INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
    EXECUTE format(
        'WITH moved AS (DELETE FROM scada_readings_default WHERE timestamp >= %L AND timestamp < %L RETURNING *)
         INSERT INTO %I SELECT * FROM moved', lower, upper, name);
    EXECUTE format('ALTER TABLE scada_readings ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, lower, upper);
    RETURN true;
END
$$;

DO $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF to_regclass('scada_readings_default') IS NOT NULL THEN
        PERFORM scada_make_partition(today + n) FROM generate_series(-1, 3) AS n;
    END IF;
END
$$;
