-- Once for each row; SQLite knows no other. What came to nothing goes.
CREATE TRIGGER dump_count_insert AFTER INSERT ON dump BEGIN
    INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT NEW.tenant, f.column1, f.column2, 1 FROM (VALUES
        ('', ''),
        ('kind', NEW.kind), ('state', NEW.state), ('is_truncated', cast(NEW.is_truncated AS text)), ('cmd', NEW.cmd),
        ('node', NEW.node), ('platform', NEW.platform), ('ticket', NEW.ticket), ('signature', NEW.signature),
        ('stack', cast(NEW.stack AS text)), ('created_by', NEW.created_by)
    ) AS f WHERE f.column2 IS NOT NULL
    ON CONFLICT (tenant, field, value) DO UPDATE SET dumps = dumps + 1;
END;
CREATE TRIGGER dump_count_delete AFTER DELETE ON dump BEGIN
    UPDATE dump_count SET dumps = dumps - 1 WHERE (tenant, field, value) IN (SELECT OLD.tenant, f.column1, f.column2 FROM (VALUES
        ('', ''),
        ('kind', OLD.kind), ('state', OLD.state), ('is_truncated', cast(OLD.is_truncated AS text)), ('cmd', OLD.cmd),
        ('node', OLD.node), ('platform', OLD.platform), ('ticket', OLD.ticket), ('signature', OLD.signature),
        ('stack', cast(OLD.stack AS text)), ('created_by', OLD.created_by)
    ) AS f);
    DELETE FROM dump_count WHERE dumps = 0 AND (tenant, field, value) IN (SELECT OLD.tenant, f.column1, f.column2 FROM (VALUES
        ('', ''),
        ('kind', OLD.kind), ('state', OLD.state), ('is_truncated', cast(OLD.is_truncated AS text)), ('cmd', OLD.cmd),
        ('node', OLD.node), ('platform', OLD.platform), ('ticket', OLD.ticket), ('signature', OLD.signature),
        ('stack', cast(OLD.stack AS text)), ('created_by', OLD.created_by)
    ) AS f);
END;
CREATE TRIGGER dump_count_update AFTER UPDATE OF kind, state, is_truncated, cmd, node, platform, ticket, signature, stack, created_by ON dump BEGIN
    INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT NEW.tenant, f.column1, f.column3, 1 FROM (VALUES
        ('kind', OLD.kind, NEW.kind),
        ('state', OLD.state, NEW.state),
        ('is_truncated', cast(OLD.is_truncated AS text), cast(NEW.is_truncated AS text)),
        ('cmd', OLD.cmd, NEW.cmd),
        ('node', OLD.node, NEW.node),
        ('platform', OLD.platform, NEW.platform),
        ('ticket', OLD.ticket, NEW.ticket),
        ('signature', OLD.signature, NEW.signature),
        ('stack', cast(OLD.stack AS text), cast(NEW.stack AS text)),
        ('created_by', OLD.created_by, NEW.created_by)
    ) AS f WHERE f.column3 IS NOT NULL AND f.column2 IS NOT f.column3
    ON CONFLICT (tenant, field, value) DO UPDATE SET dumps = dumps + 1;
    UPDATE dump_count SET dumps = dumps - 1 WHERE (tenant, field, value) IN (SELECT OLD.tenant, f.column1, f.column2 FROM (VALUES
        ('kind', OLD.kind, NEW.kind),
        ('state', OLD.state, NEW.state),
        ('is_truncated', cast(OLD.is_truncated AS text), cast(NEW.is_truncated AS text)),
        ('cmd', OLD.cmd, NEW.cmd),
        ('node', OLD.node, NEW.node),
        ('platform', OLD.platform, NEW.platform),
        ('ticket', OLD.ticket, NEW.ticket),
        ('signature', OLD.signature, NEW.signature),
        ('stack', cast(OLD.stack AS text), cast(NEW.stack AS text)),
        ('created_by', OLD.created_by, NEW.created_by)
    ) AS f WHERE f.column2 IS NOT f.column3);
    DELETE FROM dump_count WHERE dumps = 0 AND (tenant, field, value) IN (SELECT OLD.tenant, f.column1, f.column2 FROM (VALUES
        ('kind', OLD.kind, NEW.kind),
        ('state', OLD.state, NEW.state),
        ('is_truncated', cast(OLD.is_truncated AS text), cast(NEW.is_truncated AS text)),
        ('cmd', OLD.cmd, NEW.cmd),
        ('node', OLD.node, NEW.node),
        ('platform', OLD.platform, NEW.platform),
        ('ticket', OLD.ticket, NEW.ticket),
        ('signature', OLD.signature, NEW.signature),
        ('stack', cast(OLD.stack AS text), cast(NEW.stack AS text)),
        ('created_by', OLD.created_by, NEW.created_by)
    ) AS f WHERE f.column2 IS NOT f.column3);
END;
