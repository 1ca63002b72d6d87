-- Who changed the configuration, and what it was before; calls that were denied. Rows are added and never changed.
-- Tables that 0001 made tell of every change by a trigger, whoever makes it, in the same transaction. The tables of
-- another application are left as they are: what the service changes there, it writes down itself.

CREATE TABLE IF NOT EXISTS scada_audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,            -- who it is said to be: URI:, DNS: or CN: of a certificate, os:user, database:user
    address text NOT NULL,
    database_user text NOT NULL DEFAULT session_user,
    action text NOT NULL,
    tenant_id text,
    entity text,
    entity_id text,
    before jsonb,
    after jsonb,
    outcome text NOT NULL,          -- done, refused, denied
    detail text NOT NULL DEFAULT '',
    count integer NOT NULL DEFAULT 1
);
COMMENT ON TABLE scada_audit_log IS 'Changes of the configuration and denied calls; kept by scada-trio';
CREATE INDEX IF NOT EXISTS scada_audit_log_at ON scada_audit_log (at);
REVOKE ALL ON scada_audit_log FROM PUBLIC;

CREATE OR REPLACE FUNCTION scada_audit_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'scada_audit_log: rows are added and never changed' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE OR REPLACE TRIGGER scada_audit_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON scada_audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION scada_audit_keep();

-- What is known of a row, and of a secret no more than that there is one.
CREATE OR REPLACE FUNCTION scada_audit_fields(fields jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_object_agg(key, CASE
        WHEN value = 'null' THEN value
        WHEN key IN ('password', 'database_url') THEN to_jsonb('(set)'::text)
        WHEN key = 'endpoint_url' THEN to_jsonb(regexp_replace(value #>> '{}', '//[^/]*@', '//'))
        ELSE value END)
    FROM jsonb_each(fields)
    WHERE key IN ('id', 'tenant_id', 'name', 'database_url', 'status', 'deleted_at',
        'endpoint_url', 'security_mode', 'security_policy', 'username', 'password', 'is_active',
        'allow_plaintext_password', 'publishing_interval_ms', 'sampling_interval_ms', 'queue_size', 'discard_oldest',
        'connection_id', 'well_id', 'tag_name', 'opc_node_id', 'data_type', 'unit', 'scaling_factor',
        'deadband', 'deadband_percent')
$$;

-- One row of the log for one row of a table; nothing where nothing changed that the service knows.
CREATE OR REPLACE FUNCTION scada_audit_row(relation text, before jsonb, after jsonb, operation text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    old_fields jsonb := scada_audit_fields(before);
    new_fields jsonb := scada_audit_fields(after);
    secret text;
BEGIN
    FOREACH secret IN ARRAY ARRAY['password', 'database_url'] LOOP
        IF old_fields ->> secret = '(set)' AND new_fields ->> secret = '(set)' AND before -> secret <> after -> secret THEN
            new_fields := jsonb_set(new_fields, ARRAY[secret], to_jsonb('(changed)'::text));
        END IF;
    END LOOP;
    IF old_fields IS NOT DISTINCT FROM new_fields THEN
        RETURN;
    END IF;
    INSERT INTO scada_audit_log (actor, address, action, tenant_id, entity, entity_id, before, after, outcome)
    VALUES (
        coalesce(nullif(current_setting('scada.actor', true), ''), 'database:' || session_user),
        coalesce(nullif(current_setting('scada.address', true), ''), host(inet_client_addr()), ''),
        coalesce(nullif(current_setting('scada.action', true), ''), operation),
        CASE WHEN relation = 'tenants' THEN coalesce(after, before) ->> 'id' ELSE coalesce(after, before) ->> 'tenant_id' END,
        relation,
        coalesce(after, before) ->> 'id',
        old_fields,
        new_fields,
        'done'
    );
END
$$;
REVOKE EXECUTE ON FUNCTION scada_audit_row(text, jsonb, jsonb, text) FROM PUBLIC;

-- With the rights of its owner: who may change a table need not be able to write the log in any other way.
CREATE OR REPLACE FUNCTION scada_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM scada_audit_row(
        TG_TABLE_NAME,
        CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
        CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END,
        lower(TG_OP)
    );
    RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION scada_audit() FROM PUBLIC;

DO $$
DECLARE
    relation text;
BEGIN
    -- pg_temp last, or a temporary table of that name would take the log's place
    EXECUTE format('ALTER FUNCTION scada_audit() SET search_path = %I, pg_temp', current_schema);
    FOREACH relation IN ARRAY ARRAY['tenants', 'scada_connections', 'tag_mappings'] LOOP
        IF EXISTS (
            SELECT FROM pg_trigger WHERE tgrelid = to_regclass(relation) AND tgname = 'scada_config_changed'
        ) THEN
            EXECUTE format(
                'CREATE OR REPLACE TRIGGER scada_audit AFTER INSERT OR UPDATE OR DELETE ON %I
                FOR EACH ROW EXECUTE FUNCTION scada_audit()', relation);
        END IF;
    END LOOP;
END
$$;
