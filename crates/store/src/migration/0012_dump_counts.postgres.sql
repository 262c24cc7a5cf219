-- Once for each statement, not for each row. Rows are counted in the order of their keys, so that two servers that count the
-- same do not wait for each other in a circle. What came to nothing goes.
CREATE FUNCTION dump_count_more() RETURNS trigger LANGUAGE plpgsql AS $counted$
BEGIN
    INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT c.tenant, c.field, c.value, sum(c.n) FROM (
        SELECT d.tenant, f.field, f.value, 1 FROM added AS d CROSS JOIN LATERAL (VALUES
                ('', ''),
                ('kind', d.kind), ('state', d.state), ('is_truncated', cast(d.is_truncated AS text)), ('cmd', d.cmd),
                ('node', d.node), ('platform', d.platform), ('ticket', d.ticket), ('signature', d.signature),
                ('stack', cast(d.stack AS text)), ('created_by', d.created_by),
                ('class', d.class), ('severity', d.severity)
        ) AS f (field, value)
    ) AS c (tenant, field, value, n) WHERE c.value IS NOT NULL
    GROUP BY c.tenant, c.field, c.value HAVING sum(c.n) <> 0 ORDER BY c.tenant, c.field, c.value
    ON CONFLICT (tenant, field, value) DO UPDATE SET dumps = dump_count.dumps + excluded.dumps;
    RETURN NULL;
END
$counted$;
CREATE FUNCTION dump_count_less() RETURNS trigger LANGUAGE plpgsql AS $counted$
BEGIN
    INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT c.tenant, c.field, c.value, sum(c.n) FROM (
        SELECT d.tenant, f.field, f.value, -1 FROM removed AS d CROSS JOIN LATERAL (VALUES
                ('', ''),
                ('kind', d.kind), ('state', d.state), ('is_truncated', cast(d.is_truncated AS text)), ('cmd', d.cmd),
                ('node', d.node), ('platform', d.platform), ('ticket', d.ticket), ('signature', d.signature),
                ('stack', cast(d.stack AS text)), ('created_by', d.created_by),
                ('class', d.class), ('severity', d.severity)
        ) AS f (field, value)
    ) AS c (tenant, field, value, n) WHERE c.value IS NOT NULL
    GROUP BY c.tenant, c.field, c.value HAVING sum(c.n) <> 0 ORDER BY c.tenant, c.field, c.value
    ON CONFLICT (tenant, field, value) DO UPDATE SET dumps = dump_count.dumps + excluded.dumps;
    DELETE FROM dump_count AS k USING (
        SELECT DISTINCT d.tenant, f.field, f.value FROM removed AS d CROSS JOIN LATERAL (VALUES
            ('', ''),
            ('kind', d.kind), ('state', d.state), ('is_truncated', cast(d.is_truncated AS text)), ('cmd', d.cmd),
            ('node', d.node), ('platform', d.platform), ('ticket', d.ticket), ('signature', d.signature),
            ('stack', cast(d.stack AS text)), ('created_by', d.created_by),
                ('class', d.class), ('severity', d.severity)
        ) AS f (field, value)
    ) AS c WHERE (k.tenant, k.field, k.value) = (c.tenant, c.field, c.value) AND k.dumps = 0;
    RETURN NULL;
END
$counted$;
CREATE FUNCTION dump_count_other() RETURNS trigger LANGUAGE plpgsql AS $counted$
BEGIN
    INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT c.tenant, c.field, c.value, sum(c.n) FROM (
        SELECT d.tenant, f.field, f.value, 1 FROM added AS d CROSS JOIN LATERAL (VALUES
                ('kind', d.kind), ('state', d.state), ('is_truncated', cast(d.is_truncated AS text)), ('cmd', d.cmd),
                ('node', d.node), ('platform', d.platform), ('ticket', d.ticket), ('signature', d.signature),
                ('stack', cast(d.stack AS text)), ('created_by', d.created_by),
                ('class', d.class), ('severity', d.severity)
        ) AS f (field, value)
        UNION ALL
        SELECT d.tenant, f.field, f.value, -1 FROM removed AS d CROSS JOIN LATERAL (VALUES
                ('kind', d.kind), ('state', d.state), ('is_truncated', cast(d.is_truncated AS text)), ('cmd', d.cmd),
                ('node', d.node), ('platform', d.platform), ('ticket', d.ticket), ('signature', d.signature),
                ('stack', cast(d.stack AS text)), ('created_by', d.created_by),
                ('class', d.class), ('severity', d.severity)
        ) AS f (field, value)
    ) AS c (tenant, field, value, n) WHERE c.value IS NOT NULL
    GROUP BY c.tenant, c.field, c.value HAVING sum(c.n) <> 0 ORDER BY c.tenant, c.field, c.value
    ON CONFLICT (tenant, field, value) DO UPDATE SET dumps = dump_count.dumps + excluded.dumps;
    DELETE FROM dump_count AS k USING (
        SELECT DISTINCT d.tenant, f.field, f.value FROM removed AS d CROSS JOIN LATERAL (VALUES
            ('kind', d.kind), ('state', d.state), ('is_truncated', cast(d.is_truncated AS text)), ('cmd', d.cmd),
            ('node', d.node), ('platform', d.platform), ('ticket', d.ticket), ('signature', d.signature),
            ('stack', cast(d.stack AS text)), ('created_by', d.created_by),
                ('class', d.class), ('severity', d.severity)
        ) AS f (field, value)
    ) AS c WHERE (k.tenant, k.field, k.value) = (c.tenant, c.field, c.value) AND k.dumps = 0;
    RETURN NULL;
END
$counted$;
CREATE TRIGGER dump_count_insert AFTER INSERT ON dump
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION dump_count_more();
CREATE TRIGGER dump_count_delete AFTER DELETE ON dump
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION dump_count_less();
CREATE TRIGGER dump_count_update AFTER UPDATE ON dump
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION dump_count_other();
-- Its rows are written far more often than they are added to; this keeps their new versions beside the old.
ALTER TABLE dump_count SET (fillfactor = 70);
