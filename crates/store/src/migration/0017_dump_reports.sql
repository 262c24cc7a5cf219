-- What reports count by stands in the indexes that lead to the dumps: to read it there takes a tenth of what it takes to look
-- at each dump. PostgreSQL takes no more than 2,704 bytes into one entry, which is two words of the longest each, so what a
-- node called a signature is cut to what one is.
UPDATE dump SET signature = substr(signature, 1, 32) WHERE length(signature) > 32;
DROP INDEX dump_time;
CREATE INDEX dump_time ON dump (tenant, time, id, kind, cmd, signature, ticket, state, severity);
CREATE INDEX dump_place ON dump (tenant, time, id, node, platform);
DROP INDEX dump_cmd;
CREATE INDEX dump_cmd ON dump (tenant, cmd, time, id, kind, platform, signature);
