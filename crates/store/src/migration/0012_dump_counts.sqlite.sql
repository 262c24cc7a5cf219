-- Once for each row; SQLite knows no other. What came to nothing goes.
CREATE TRIGGER dump_count_insert AFTER INSERT ON dump BEGIN
    INSERT INTO dump_count (tenant, field, value, dumps) SELECT NEW.tenant, f.field, f.value, 1 FROM (
        SELECT '' AS field, '' AS value
        UNION ALL SELECT 'kind', NEW.kind
        UNION ALL SELECT 'state', NEW.state
        UNION ALL SELECT 'is_truncated', cast(NEW.is_truncated AS text)
        UNION ALL SELECT 'cmd', NEW.cmd
        UNION ALL SELECT 'node', NEW.node
        UNION ALL SELECT 'platform', NEW.platform
        UNION ALL SELECT 'ticket', NEW.ticket
        UNION ALL SELECT 'signature', NEW.signature
        UNION ALL SELECT 'stack', cast(NEW.stack AS text)
        UNION ALL SELECT 'created_by', NEW.created_by
        UNION ALL SELECT 'class', NEW.class
        UNION ALL SELECT 'severity', NEW.severity
    ) AS f WHERE f.value IS NOT NULL
    ON CONFLICT (tenant, field, value) DO UPDATE SET dumps = dumps + 1;
END;
CREATE TRIGGER dump_count_delete AFTER DELETE ON dump BEGIN
    UPDATE dump_count SET dumps = dumps - 1 WHERE tenant = OLD.tenant AND (field, value) IN (
        SELECT '', ''
        UNION ALL SELECT 'kind', OLD.kind
        UNION ALL SELECT 'state', OLD.state
        UNION ALL SELECT 'is_truncated', cast(OLD.is_truncated AS text)
        UNION ALL SELECT 'cmd', OLD.cmd
        UNION ALL SELECT 'node', OLD.node
        UNION ALL SELECT 'platform', OLD.platform
        UNION ALL SELECT 'ticket', OLD.ticket
        UNION ALL SELECT 'signature', OLD.signature
        UNION ALL SELECT 'stack', cast(OLD.stack AS text)
        UNION ALL SELECT 'created_by', OLD.created_by
        UNION ALL SELECT 'class', OLD.class
        UNION ALL SELECT 'severity', OLD.severity
    );
    DELETE FROM dump_count WHERE dumps = 0 AND tenant = OLD.tenant AND (field, value) IN (
        SELECT '', ''
        UNION ALL SELECT 'kind', OLD.kind
        UNION ALL SELECT 'state', OLD.state
        UNION ALL SELECT 'is_truncated', cast(OLD.is_truncated AS text)
        UNION ALL SELECT 'cmd', OLD.cmd
        UNION ALL SELECT 'node', OLD.node
        UNION ALL SELECT 'platform', OLD.platform
        UNION ALL SELECT 'ticket', OLD.ticket
        UNION ALL SELECT 'signature', OLD.signature
        UNION ALL SELECT 'stack', cast(OLD.stack AS text)
        UNION ALL SELECT 'created_by', OLD.created_by
        UNION ALL SELECT 'class', OLD.class
        UNION ALL SELECT 'severity', OLD.severity
    );
END;
CREATE TRIGGER dump_count_update AFTER UPDATE OF kind, state, is_truncated, cmd, node, platform, ticket, signature, stack, created_by, class,
    severity ON dump BEGIN
    INSERT INTO dump_count (tenant, field, value, dumps) SELECT NEW.tenant, f.field, f.became, 1 FROM (
        SELECT 'kind' AS field, OLD.kind AS was, NEW.kind AS became
        UNION ALL SELECT 'state', OLD.state, NEW.state
        UNION ALL SELECT 'is_truncated', cast(OLD.is_truncated AS text), cast(NEW.is_truncated AS text)
        UNION ALL SELECT 'cmd', OLD.cmd, NEW.cmd
        UNION ALL SELECT 'node', OLD.node, NEW.node
        UNION ALL SELECT 'platform', OLD.platform, NEW.platform
        UNION ALL SELECT 'ticket', OLD.ticket, NEW.ticket
        UNION ALL SELECT 'signature', OLD.signature, NEW.signature
        UNION ALL SELECT 'stack', cast(OLD.stack AS text), cast(NEW.stack AS text)
        UNION ALL SELECT 'created_by', OLD.created_by, NEW.created_by
        UNION ALL SELECT 'class', OLD.class, NEW.class
        UNION ALL SELECT 'severity', OLD.severity, NEW.severity
    ) AS f WHERE f.became IS NOT NULL AND f.was IS NOT f.became
    ON CONFLICT (tenant, field, value) DO UPDATE SET dumps = dumps + 1;
    UPDATE dump_count SET dumps = dumps - 1 WHERE tenant = OLD.tenant AND (field, value) IN (SELECT f.field, f.was FROM (
        SELECT 'kind' AS field, OLD.kind AS was, NEW.kind AS became
        UNION ALL SELECT 'state', OLD.state, NEW.state
        UNION ALL SELECT 'is_truncated', cast(OLD.is_truncated AS text), cast(NEW.is_truncated AS text)
        UNION ALL SELECT 'cmd', OLD.cmd, NEW.cmd
        UNION ALL SELECT 'node', OLD.node, NEW.node
        UNION ALL SELECT 'platform', OLD.platform, NEW.platform
        UNION ALL SELECT 'ticket', OLD.ticket, NEW.ticket
        UNION ALL SELECT 'signature', OLD.signature, NEW.signature
        UNION ALL SELECT 'stack', cast(OLD.stack AS text), cast(NEW.stack AS text)
        UNION ALL SELECT 'created_by', OLD.created_by, NEW.created_by
        UNION ALL SELECT 'class', OLD.class, NEW.class
        UNION ALL SELECT 'severity', OLD.severity, NEW.severity
    ) AS f WHERE f.was IS NOT f.became);
    DELETE FROM dump_count WHERE dumps = 0 AND tenant = OLD.tenant AND (field, value) IN (SELECT f.field, f.was FROM (
        SELECT 'kind' AS field, OLD.kind AS was, NEW.kind AS became
        UNION ALL SELECT 'state', OLD.state, NEW.state
        UNION ALL SELECT 'is_truncated', cast(OLD.is_truncated AS text), cast(NEW.is_truncated AS text)
        UNION ALL SELECT 'cmd', OLD.cmd, NEW.cmd
        UNION ALL SELECT 'node', OLD.node, NEW.node
        UNION ALL SELECT 'platform', OLD.platform, NEW.platform
        UNION ALL SELECT 'ticket', OLD.ticket, NEW.ticket
        UNION ALL SELECT 'signature', OLD.signature, NEW.signature
        UNION ALL SELECT 'stack', cast(OLD.stack AS text), cast(NEW.stack AS text)
        UNION ALL SELECT 'created_by', OLD.created_by, NEW.created_by
        UNION ALL SELECT 'class', OLD.class, NEW.class
        UNION ALL SELECT 'severity', OLD.severity, NEW.severity
    ) AS f WHERE f.was IS NOT f.became);
END;
