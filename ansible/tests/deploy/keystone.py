"""A real Keystone on a host of the lab."""

import lab

lab.KINDS["bookworm-keystone"] = ("bookworm", ["keystone", "mariadb-server", "python3-pymysql"])

PASSWORD = "adm:in %s"  # of the user admin
# As its bootstrap leaves it: one administrator, one region. The distribution's own unit spins until there is a database.
SETUP = r"""
set -e
systemctl kill -s KILL keystone
systemctl mask --now keystone
mysql -e "CREATE DATABASE keystone CHARACTER SET utf8; CREATE USER keystone@localhost IDENTIFIED BY 'x'; GRANT ALL ON keystone.* TO keystone@localhost"
cat >/etc/keystone/keystone.conf <<EOF
[database]
connection = mysql+pymysql://keystone:x@localhost/keystone?unix_socket=/run/mysqld/mysqld.sock
[token]
provider = fernet
[cache]
enabled = false
EOF
su -s /bin/sh keystone -c 'keystone-manage db_sync'
keystone-manage fernet_setup --keystone-user keystone --keystone-group keystone
keystone-manage credential_setup --keystone-user keystone --keystone-group keystone
url=http://ADDRESS:5000
keystone-manage bootstrap --bootstrap-password 'PASSWORD' --bootstrap-region-id RegionOne \
    --bootstrap-admin-url http://ADDRESS:1 --bootstrap-internal-url $url/v3 --bootstrap-public-url $url/v3/
systemd-run --quiet --unit keystone-test --uid keystone --gid keystone keystone-wsgi-public --host ADDRESS --port 5000
"""


def start(host):
    """Its URL, without the version; it answers some seconds later."""
    host.run(SETUP.replace("ADDRESS", host.address).replace("PASSWORD", PASSWORD), timeout=240)
    return "http://%s:5000" % host.address
