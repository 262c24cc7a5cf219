-- How many dumps of a tenant have which value in which column, and under the empty name how many there are. Triggers keep
-- it in the transaction that writes the dump, whoever writes it. A number stands as its text.
CREATE TABLE dump_count (
    tenant {text} NOT NULL,
    field {text} NOT NULL,
    value {text} NOT NULL,
    dumps bigint NOT NULL,
    PRIMARY KEY (tenant, field, value)
){clustered};
INSERT INTO dump_count (tenant, field, value, dumps) SELECT tenant, '', '', count(*) FROM dump GROUP BY tenant;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'kind', kind, count(*) FROM dump GROUP BY tenant, kind;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'state', state, count(*) FROM dump GROUP BY tenant, state;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'is_truncated', cast(is_truncated AS text), count(*) FROM dump GROUP BY tenant, is_truncated;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'cmd', cmd, count(*) FROM dump WHERE cmd IS NOT NULL GROUP BY tenant, cmd;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'node', node, count(*) FROM dump WHERE node IS NOT NULL GROUP BY tenant, node;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'platform', platform, count(*) FROM dump WHERE platform IS NOT NULL GROUP BY tenant, platform;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'ticket', ticket, count(*) FROM dump WHERE ticket IS NOT NULL GROUP BY tenant, ticket;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'signature', signature, count(*) FROM dump WHERE signature IS NOT NULL GROUP BY tenant, signature;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'stack', cast(stack AS text), count(*) FROM dump WHERE stack IS NOT NULL GROUP BY tenant, stack;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'created_by', created_by, count(*) FROM dump GROUP BY tenant, created_by;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'class', class, count(*) FROM dump WHERE class IS NOT NULL GROUP BY tenant, class;
INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT tenant, 'severity', severity, count(*) FROM dump WHERE severity IS NOT NULL GROUP BY tenant, severity;
