INSERT INTO headwater.migrations (name, checksum) VALUES ('{name}', '{checksum}');
