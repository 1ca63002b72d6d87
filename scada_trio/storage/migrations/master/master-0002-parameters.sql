-- The parameters of subscriptions and their items, in the tables that are ours: those that 0001 made have its trigger and
-- what else only it gives them. Another application's tables are left as they are; the service reads columns of these
-- names, of whatever type, where they exist.

DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_trigger t JOIN pg_attribute a ON a.attrelid = t.tgrelid
        WHERE t.tgrelid = to_regclass('scada_connections') AND t.tgname = 'scada_config_changed'
            AND a.attname = 'allow_plaintext_password' AND NOT a.attisdropped
    ) THEN
        ALTER TABLE scada_connections
            ADD COLUMN IF NOT EXISTS publishing_interval_ms double precision,
            ADD COLUMN IF NOT EXISTS sampling_interval_ms double precision,
            ADD COLUMN IF NOT EXISTS queue_size integer,
            ADD COLUMN IF NOT EXISTS discard_oldest boolean;
    END IF;

    IF EXISTS (
        SELECT FROM pg_trigger t JOIN pg_index i ON i.indrelid = t.tgrelid
        WHERE t.tgrelid = to_regclass('tag_mappings') AND t.tgname = 'scada_config_changed'
            AND i.indexrelid = to_regclass('tag_mappings_connection')
    ) THEN
        ALTER TABLE tag_mappings
            ADD COLUMN IF NOT EXISTS deadband_percent double precision,
            ADD COLUMN IF NOT EXISTS sampling_interval_ms double precision,
            ADD COLUMN IF NOT EXISTS queue_size integer,
            ADD COLUMN IF NOT EXISTS discard_oldest boolean;
    END IF;
END
$$;
