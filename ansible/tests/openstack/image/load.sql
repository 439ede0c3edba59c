-- 2,000 ports on the network load, as the API leaves them in the database; it takes 0.15 s for each.
-- MAC addresses are fa:16:3f:00:00:01 and on, names load1 and on, host compute-load.
SELECT id, project_id INTO @network, @project FROM networks WHERE name = 'load';
SELECT id INTO @subnet FROM subnets WHERE name = 'load';
START TRANSACTION;
INSERT INTO standardattributes (resource_type, created_at, updated_at, description, revision_number)
    SELECT 'ports', UTC_TIMESTAMP(), UTC_TIMESTAMP(), CONCAT('load', seq), 1 FROM seq_1_to_2000;
INSERT INTO ports SELECT @project, UUID(), a.description, @network, CONCAT('fa:16:3f:00:', LOWER(INSERT(LPAD(HEX(seq), 4, '0'), 3, 0, ':'))), 1, 'DOWN',
    UUID(), 'compute:nova', a.id, 'immediate' FROM seq_1_to_2000 JOIN standardattributes a ON a.description = CONCAT('load', seq);
INSERT INTO ml2_port_bindings SELECT id, 'compute-load', 'unbound', 'normal', '', '', 'ACTIVE' FROM ports WHERE network_id = @network;
INSERT INTO portsecuritybindings SELECT id, 1 FROM ports WHERE network_id = @network;
INSERT INTO ipallocations SELECT id, CONCAT('10.64.', 1 + (SUBSTR(name, 5) DIV 250), '.', 1 + (SUBSTR(name, 5) MOD 250)), @subnet, @network
    FROM ports WHERE network_id = @network;
COMMIT;
