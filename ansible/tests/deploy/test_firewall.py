"""skydive_iptables_rules on hosts with iptables, nftables, firewalld and ufw that let nothing in but SSH: traffic is the proof."""

import re
import socket
import unittest

import lab

lab.KINDS.update({
    "bookworm-iptables": ("bookworm", ["iptables", "iptables-persistent"]),
    "bookworm-nftables": ("bookworm", ["nftables"]),
    "bookworm-firewalld": ("bookworm", ["firewalld", "netbase"]),
    "bookworm-ufw": ("bookworm", ["ufw"]),
})
# What an administrator set up before. iptables has rules for IPv4 only, and a table behind the one that filters.
RULES = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -j REJECT --reject-with icmp-port-unreachable
COMMIT
*mangle
:INPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 9999 -j MARK --set-xmark 0x1/0xffffffff
COMMIT
"""
# Two chains look at what comes in: both have to let it pass.
RULESET = """#!/usr/sbin/nft -f
flush ruleset
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iif lo accept
        tcp dport 22 accept
    }
}
table ip early {
    chain in {
        type filter hook input priority -10;
        tcp dport { 1-21, 23-65535 } ct state new drop
    }
}
"""
# What the administrator's firewall is, file and rules; firewalld and Docker's own rules for names change theirs by themselves.
STATE = {
    "ipt": "cat /etc/iptables/rules.v4 /etc/iptables/rules.v6; iptables-save -t filter; ip6tables-save -t filter",
    "nft": "cat /etc/nftables.conf; nft list table inet filter; nft list table ip early",
    "fwd": "firewall-cmd --list-all; firewall-cmd --permanent --list-all",
    "ufw": "cat /etc/ufw/user.rules /etc/ufw/user6.rules; ufw status; ufw show added",
}
TRACES = "find /etc /usr /var /root -xdev -ipath '*skydive*' ! -path '/var/log/*' ! -path '*/.ansible*'"
VARIABLES = {"skydive_iptables_rules": True, "skydive_nic": "eth0", "skydive_etcd_insecure": True, "skydive_auth_type": "basic"}
TIMEOUT = 2


class Firewall(lab.Case):
    # Four analyzers whose etcd is one cluster: it comes up only if each lets the others in.
    HOSTS = {"ipt": "bookworm-iptables", "nft": "bookworm-nftables", "fwd": "bookworm-firewalld", "ufw": "bookworm-ufw"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.machines = [cls.ipt, cls.nft, cls.fwd, cls.ufw]
        cls.inventory = cls.lab.inventory(cls.machines, cls.machines, VARIABLES)

    def set_up_firewalls(self):
        self.ipt.write("/etc/iptables/rules.v4", RULES, "0640")
        self.ipt.write("/etc/iptables/rules.v6", "", "0640")
        self.ipt.run("systemctl restart netfilter-persistent")
        self.nft.write("/etc/nftables.conf", RULESET, "0755")
        self.nft.run("systemctl enable --now nftables")
        self.fwd.run("systemctl enable --now firewalld")
        self.ufw.run("ufw allow 22/tcp && ufw --force enable")

    def state(self):
        """Without the times and counters that some print."""
        return {name: re.sub(r"(?m)^# (Generated|Completed).*$|\[\d+:\d+\]", "", getattr(self, name).output(command)) for name, command in STATE.items()}

    def connects(self, host, port):
        """From this machine, which is none of the analyzers."""
        try:
            socket.create_connection((host.address, port), TIMEOUT).close()
            return True
        except OSError:
            return False

    def reaches(self, source, host, port):
        script = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), %d)" % TIMEOUT
        return source.succeeds("python3", "-c", script, host.address, str(port))

    def listener(self, host, port):
        """Something listens there until the test ends."""
        host.start("python3", "-m", "http.server", str(port))
        self.addCleanup(host.run, "pkill -f '[h]ttp.server %d'" % port, check=False)
        lab.wait(lambda: host.listens(port), 20, "a listener of %s" % host.name)

    def receives(self, host, port):
        """A datagram of this machine arrives at a receiver that is started there."""
        receiver = ("import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(30); s.bind(('', %d)); "
                    "print('ready', flush=True); s.recv(9); print('got', flush=True)" % port)
        host.start("exec python3 -c \"%s\" >/root/received" % receiver)
        lab.wait(lambda: "ready" in host.output("cat /root/received", check=False), 20, "a receiver of %s" % host.name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            def arrived():
                sender.sendto(b"x", (host.address, port))
                return "got" in host.output("cat /root/received")
            try:
                return lab.wait(arrived, TIMEOUT, "the datagram")
            except lab.Failed:
                return False
            finally:
                host.run("pkill -f 'SOCK_[D]GRAM'; rm -f /root/received", check=False)

    def assertOpenAndClosed(self):
        for number, host in enumerate(self.machines):
            for port, wanted in ((8082, True), (8081, True), (12379, False), (12380, False)):
                self.assertEqual(self.connects(host, port), wanted, "%s %d" % (host.name, port))
            for port in (12379, 12380):
                self.assertTrue(self.reaches(self.machines[number - 1], host, port), "%s %d from an analyzer" % (host.name, port))
            self.assertFalse(self.receives(host, 8082), "%s takes datagrams, though flows come by WebSocket" % host.name)
        for host, command in ((self.ipt, "iptables-save"), (self.nft, "nft list ruleset"), (self.ufw, "ufw show added"), (self.fwd, "cat /etc/skydive/firewalld")):
            self.assertIn("Skydive: API port", host.output(command))

    def test_1_what_cannot_be_done_is_refused(self):
        self.nft.run("nft add table inet x; nft add chain inet x input '{ type filter hook input priority 0; }'")
        play = self.lab.play(lab.PLAYBOOK, self.lab.inventory([self.nft], [self.nft], VARIABLES, name="unkept.json"), fails=True)
        self.assertIn("skydive_iptables_rules: this host filters packets, but nothing keeps the rules", " ".join(play.output.split()))
        self.nft.run("nft delete table inet x")
        self.assertFalse(self.nft.exists("/etc/skydive"))
        named = self.lab.inventory([self.ufw, self.nft], [], {**VARIABLES, "skydive_nic": ""},
                                   {"nft": {"skydive_analyzer_ip": "nft.example.org"}}, name="named.json")
        play = self.lab.play(lab.PLAYBOOK, named, tags=["preflight"], fails=True)
        self.assertIn("firewalls want addresses and nft.example.org is a name", " ".join(play.output.split()))

    def test_2_what_listens_is_let_in(self):
        self.set_up_firewalls()
        type(self).before = self.state()
        check = self.lab.play(lab.PLAYBOOK, self.inventory, check=True, tags=["iptables"])
        self.assertEqual(len(check.tasks), 4, check.end())
        self.assertEqual(self.state(), self.before)
        for host in self.machines:
            self.listener(host, 9082)
            self.assertFalse(self.connects(host, 9082), "%s is open before" % host.name)
        self.lab.play(lab.PLAYBOOK, self.inventory)  # ends when every agent is connected to every analyzer
        self.assertOpenAndClosed()

    def test_6_reset_takes_it_back(self):
        self.lab.play(lab.RESET, self.inventory, {"skydive_reset_data": True})
        self.assertEqual(self.state(), self.before)
        for host in self.machines:
            self.assertEqual(host.output(TRACES), "", host.name)
        self.assertUnchanged(self.lab.play(lab.RESET, self.inventory, {"skydive_reset_data": True}))


class Later(Firewall):
    """What a second run, a boot and other variables do."""

    SHORT = False

    def test_3_second_run_changes_nothing(self):
        self.assertUnchanged(self.lab.play(lab.PLAYBOOK, self.inventory))
        self.assertUnchanged(self.lab.play(lab.PLAYBOOK, self.inventory, check=True))

    def test_4_and_so_after_a_boot(self):
        for host in self.machines:
            lab.daemon()("restart", host.container)
        for host in self.machines:
            lab.wait(host.booted, 90, "boot of " + host.name)
            lab.wait(lambda: host.listens(8082) and host.listens(8081) and host.listens(12380), 60, "the services of " + host.name)
        self.assertOpenAndClosed()
        self.assertUnchanged(self.lab.play(lab.PLAYBOOK, self.inventory, tags=["iptables"]))

    def test_5_what_changes_moves(self):
        variables = {"skydive_agent_port": 8091, "skydive_flow_protocol": "udp"}
        play = self.lab.play(lab.PLAYBOOK, self.inventory, variables)
        self.assertEqual(len([task for task in play.tasks if "Firewall" in task]), 4, play.tasks)
        for host in self.machines:
            self.listener(host, 8081)
            self.assertFalse(self.connects(host, 8081), "the old port of %s is open" % host.name)
            self.assertTrue(self.connects(host, 8091), host.name)
            host.run("systemctl stop skydive-analyzer")  # which takes flows there itself
            self.assertTrue(self.receives(host, 8082), "%s takes no datagrams" % host.name)
            host.run("systemctl start skydive-analyzer")
        self.assertUnchanged(self.lab.play(lab.PLAYBOOK, self.inventory, variables))


if __name__ == "__main__":
    unittest.main()
