-- A row is written or removed, never counted anew: nobody changes what a property's row says but its time.
CREATE FUNCTION dump_property_more() RETURNS trigger LANGUAGE plpgsql AS $counted$
BEGIN
    INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT p.tenant, 'properties.' || p.path, p.text, count(*) FROM added AS p
    GROUP BY p.tenant, p.path, p.text ORDER BY p.tenant, p.path, p.text
    ON CONFLICT (tenant, field, value) DO UPDATE SET dumps = dump_count.dumps + excluded.dumps;
    RETURN NULL;
END
$counted$;
CREATE FUNCTION dump_property_less() RETURNS trigger LANGUAGE plpgsql AS $counted$
BEGIN
    INSERT INTO dump_count (tenant, field, value, dumps)
    SELECT p.tenant, 'properties.' || p.path, p.text, -count(*) FROM removed AS p
    GROUP BY p.tenant, p.path, p.text ORDER BY p.tenant, p.path, p.text
    ON CONFLICT (tenant, field, value) DO UPDATE SET dumps = dump_count.dumps + excluded.dumps;
    DELETE FROM dump_count AS k USING (SELECT DISTINCT p.tenant, 'properties.' || p.path, p.text FROM removed AS p)
        AS c (tenant, field, value)
    WHERE (k.tenant, k.field, k.value) = (c.tenant, c.field, c.value) AND k.dumps = 0;
    RETURN NULL;
END
$counted$;
CREATE FUNCTION dump_property_moved() RETURNS trigger LANGUAGE plpgsql AS $moved$
BEGIN
    UPDATE dump_property SET time = NEW.time WHERE dump = NEW.id;
    RETURN NULL;
END
$moved$;
CREATE TRIGGER dump_property_insert AFTER INSERT ON dump_property
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION dump_property_more();
CREATE TRIGGER dump_property_delete AFTER DELETE ON dump_property
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION dump_property_less();
CREATE TRIGGER dump_property_time AFTER UPDATE OF time ON dump FOR EACH ROW
    WHEN (OLD.time IS DISTINCT FROM NEW.time) EXECUTE FUNCTION dump_property_moved();
