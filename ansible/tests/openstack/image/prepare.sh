#!/bin/sh
# Run while the image is made: the databases, keys and units, so that a host has its services some seconds after it booted.
set -eu
here=/opt/openstack
# What the distribution starts spins until there is a database, and knows no transport without a broker.
for unit in keystone neutron-api neutron-rpc-server heat-api heat-engine docker-registry; do
    ln -sf /dev/null /etc/systemd/system/$unit.service
    rm -f /etc/init.d/$unit /etc/rc?.d/[SK]??$unit
done
install -m 0644 $here/openstack-*.service /etc/systemd/system/
install -m 0644 $here/mariadb.cnf /etc/mysql/mariadb.conf.d/90-openstack.cnf
for service in keystone neutron heat; do
    install -m 0640 -g $service $here/$service.conf /etc/$service/$service.conf
done
# The same Keystone, whose tokens are soon over.
sed 's/^provider = fernet/&\nexpiration = 15/' /etc/keystone/keystone.conf >/etc/keystone/short.conf
chgrp keystone /etc/keystone/short.conf

install -d -o mysql /run/mysqld
mariadbd --user=mysql --skip-networking &
mariadb-admin --wait=60 ping
for name in keystone neutron heat; do
    mariadb -e "CREATE DATABASE $name CHARACTER SET utf8; CREATE USER $name@localhost IDENTIFIED BY 'x'; GRANT ALL ON $name.* TO $name@localhost"
done
keystone-manage fernet_setup --keystone-user keystone --keystone-group keystone
keystone-manage credential_setup --keystone-user keystone --keystone-group keystone
su -s /bin/sh keystone -c 'keystone-manage db_sync'
su -s /bin/sh neutron -c 'neutron-db-manage --config-file /etc/neutron/neutron.conf upgrade head' >/dev/null
su -s /bin/sh heat -c 'heat-manage db_sync'
mariadb-admin shutdown
wait $!
rm -rf /var/log/mysql/* /var/log/keystone/* /var/log/neutron/* /var/log/heat/*
