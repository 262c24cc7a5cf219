CREATE TRIGGER dump_property_time AFTER UPDATE OF time ON dump WHEN OLD.time <> NEW.time BEGIN
    UPDATE dump_property SET time = NEW.time WHERE dump = NEW.id;
END;
CREATE TRIGGER dump_property_insert AFTER INSERT ON dump_property BEGIN
    INSERT INTO dump_count (tenant, field, value, dumps) VALUES (NEW.tenant, 'properties.' || NEW.path, NEW.text, 1)
    ON CONFLICT (tenant, field, value) DO UPDATE SET dumps = dumps + 1;
END;
CREATE TRIGGER dump_property_delete AFTER DELETE ON dump_property BEGIN
    UPDATE dump_count SET dumps = dumps - 1
    WHERE tenant = OLD.tenant AND field = 'properties.' || OLD.path AND value = OLD.text;
    DELETE FROM dump_count
    WHERE tenant = OLD.tenant AND field = 'properties.' || OLD.path AND value = OLD.text AND dumps = 0;
END;
