-- What should run: tenants, their connections, and the tags of those.
-- Another application may own these tables and have more columns: a table that exists is left as it is, and only the
-- tables made here tell the service about changes by themselves.

CREATE OR REPLACE FUNCTION scada_config_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('scada_config', '');
    RETURN NULL;
END
$$;

DO $$
BEGIN
    IF to_regclass('tenants') IS NULL THEN
        CREATE TABLE tenants (
            id uuid PRIMARY KEY,
            name text NOT NULL,
            database_url text NOT NULL,
            status text NOT NULL DEFAULT 'ACTIVE',
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            deleted_at timestamptz
        );
        CREATE TRIGGER scada_config_changed AFTER INSERT OR UPDATE OR DELETE ON tenants
            FOR EACH STATEMENT EXECUTE FUNCTION scada_config_changed();
    END IF;

    IF to_regclass('scada_connections') IS NULL THEN
        CREATE TABLE scada_connections (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            name text NOT NULL,
            endpoint_url text NOT NULL,
            security_mode text NOT NULL DEFAULT 'None',
            security_policy text NOT NULL DEFAULT 'None',
            username text,
            password text,
            is_active boolean NOT NULL DEFAULT true,
            allow_plaintext_password boolean NOT NULL DEFAULT false,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE TRIGGER scada_config_changed AFTER INSERT OR UPDATE OR DELETE ON scada_connections
            FOR EACH STATEMENT EXECUTE FUNCTION scada_config_changed();
    END IF;

    IF to_regclass('tag_mappings') IS NULL THEN
        CREATE TABLE tag_mappings (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            connection_id uuid NOT NULL,
            well_id uuid NOT NULL,
            tag_name text NOT NULL,
            opc_node_id text NOT NULL,
            data_type text NOT NULL DEFAULT '',
            unit text,
            scaling_factor double precision NOT NULL DEFAULT 1,
            deadband double precision,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            deleted_at timestamptz
        );
        CREATE INDEX tag_mappings_connection ON tag_mappings (connection_id);
        CREATE TRIGGER scada_config_changed AFTER INSERT OR UPDATE OR DELETE ON tag_mappings
            FOR EACH STATEMENT EXECUTE FUNCTION scada_config_changed();
    END IF;
END
$$;
