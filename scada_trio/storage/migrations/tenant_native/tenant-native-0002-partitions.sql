-- depends: tenant-native-0001-readings
-- Functions that keep the daily partitions; days are UTC. They do nothing to a table that has no scada_readings_default.

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
    EXECUTE format('CREATE TABLE %I (LIKE scada_readings INCLUDING DEFAULTS)', name);
    EXECUTE format(
        'WITH moved AS (DELETE FROM scada_readings_default WHERE timestamp >= %L AND timestamp < %L RETURNING *)
         INSERT INTO %I SELECT * FROM moved', lower, upper, name);
    EXECUTE format('ALTER TABLE scada_readings ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, lower, upper);
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION scada_drop_partitions(before timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    old record;
    dropped integer := 0;
BEGIN
    FOR old IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'scada_readings'::regclass AND c.relname ~ '^scada_readings_p[0-9]{8}$'
            AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC' <= before
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', old.relname);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM scada_readings_default WHERE timestamp < before;
    RETURN dropped;
END
$$;

CREATE OR REPLACE FUNCTION scada_maintain_partitions(
    ahead_days integer DEFAULT 3, keep interval DEFAULT INTERVAL '2 years', OUT made integer, OUT dropped integer
) LANGUAGE plpgsql AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    day date;
BEGIN
    made := 0;
    dropped := 0;
    IF to_regclass('scada_readings_default') IS NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('scada_maintain_partitions'));
    FOR day IN
        SELECT today + n FROM generate_series(-1, ahead_days) AS n
        UNION
        -- days whose readings came before their partition did, as in a backfill
        SELECT (timestamp AT TIME ZONE 'UTC')::date FROM scada_readings_default
        WHERE timestamp >= now() - keep AND timestamp < now() + make_interval(days => ahead_days)
        ORDER BY 1
    LOOP
        IF scada_make_partition(day) THEN
            made := made + 1;
        END IF;
    END LOOP;
    dropped := scada_drop_partitions(now() - keep);
END
$$;

DO $$
BEGIN
    PERFORM scada_maintain_partitions();
END
$$;
