-- What dumps are asked by goes by indexes that hold what else is asked and counted of them, so that the rows need not be
-- fetched to pass over them. No more than two of a dump's words fit an index: PostgreSQL takes 2,704 bytes.
DROP INDEX dump_cmd;
DROP INDEX dump_node;
DROP INDEX dump_platform;
DROP INDEX dump_time;
DROP INDEX dump_kind;
CREATE INDEX dump_cmd ON dump (tenant, cmd, time, id, kind, platform);
CREATE INDEX dump_node ON dump (tenant, node, time, id, kind, cmd);
CREATE INDEX dump_platform ON dump (tenant, platform, time, id, kind, cmd);
CREATE INDEX dump_time ON dump (tenant, time, id, kind, cmd);
CREATE INDEX dump_kind ON dump (tenant, kind, time, id, node, platform);
