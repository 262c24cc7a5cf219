-- When the dump was made stands beside each of its properties: what has a property is found in the order of times, and two
-- properties are held against each other, without a look at the dumps themselves. Triggers follow the dump.
ALTER TABLE dump_property ADD COLUMN time bigint NOT NULL DEFAULT 0;
UPDATE dump_property SET time = coalesce((SELECT d.time FROM dump AS d WHERE d.id = dump_property.dump), 0);
DROP INDEX dump_property_text;
DROP INDEX dump_property_number;
CREATE INDEX dump_property_text ON dump_property (tenant, path, text, time, dump, kind);
CREATE INDEX dump_property_number ON dump_property (tenant, path, number, time, dump) WHERE number IS NOT NULL;

-- Properties are counted like columns, under their path behind `properties.`, which no column's name has. Counted are the
-- rows: a list that holds one text twice counts twice.
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'properties.' || path, text, count(*) FROM dump_property GROUP BY tenant, path, text;

-- A process or a content has few dumps.
CREATE INDEX dump_pid ON dump (tenant, pid, time, id) WHERE pid IS NOT NULL;
CREATE INDEX dump_digest ON dump (tenant, digest);
