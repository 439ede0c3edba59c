#!/bin/sh
# Lets Skydive's ports in, through whatever keeps the firewall of the host, now and after each boot. Prints "changed" when it did.
# usage: firewall.sh detect              firewalld, ufw, nftables, iptables, none, or unkept: rules are there, and nothing keeps them
#        firewall.sh apply|check TOOL NFTABLES IPTABLES IP6TABLES RULE...   check tells and changes nothing
#        firewall.sh remove "" NFTABLES IPTABLES IP6TABLES                   from every tool
# NFTABLES, IPTABLES, IP6TABLES: the files that the tool's service loads. RULE: "tcp|udp PORT any|ADDRESS WHAT"; WHAT is a comment.
# Our rules are known by their comment "Skydive: …"; those that are no longer wanted go. firewalld has no comments: there
# $state remembers what is ours.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
include=/etc/skydive/firewall.nft
state=/etc/skydive/firewalld

have() { command -v "$1" >/dev/null 2>&1; }
enabled() { have systemctl && { systemctl is-active -q "$1" || systemctl is-enabled -q "$1"; } 2>/dev/null; }
fail() { echo "$*" >&2; exit 1; }

detect() {
    if have firewall-cmd && firewall-cmd -q --state 2>/dev/null; then echo firewalld
    elif have ufw && ufw status | grep -q '^Status: active'; then echo ufw
    elif have nft && enabled nftables; then echo nftables
    elif have netfilter-persistent || enabled iptables; then echo iptables
    elif have nft && nft list chains 2>/dev/null | grep -q 'hook input'; then echo unkept
    elif have iptables && iptables -w -S INPUT 2>/dev/null | grep -qvx -e '-P INPUT ACCEPT'; then echo unkept
    else echo none; fi
}

# What is there and what should be, a line each; lines of the first that are not in the second.
minus() { grep -vxF -f "$2" "$1" || true; }

# A file is replaced as a whole: $work/file, with the mode and owner of the old one.
replace() {
    [ ! -e "$1" ] || { chmod --reference="$1" "$work/file"; chown --reference="$1" "$work/file"; }
    mkdir -p "${1%/*}"
    cat "$work/file" >"$1.skydive" && chmod --reference="$work/file" "$1.skydive" && chown --reference="$work/file" "$1.skydive"
    mv "$1.skydive" "$1"
}

changes() {
    echo changed
    [ "$mode" != check ]
}

# Rules of one address family: those from anywhere, and those from its own addresses.
rules_of() {
    case $1 in
    4) grep -v ' .*:.* ' "$work/rules" || true ;;
    6) grep -E '^[a-z]+ [0-9]+ (any|[0-9a-f]*:[0-9a-f:.]*) ' "$work/rules" || true ;;
    *) cat "$work/rules" ;;
    esac
}

apply_iptables() { # COMMAND FILE FAMILY
    have "$1" || return 0
    bits=32
    [ "$3" = 4 ] || bits=128
    rules_of "$3" | while read -r protocol port source what; do
        [ "$source" = any ] && source='' || source="-s $source/$bits "
        echo "-A INPUT $source-p $protocol -m $protocol --dport $port -m comment --comment \"Skydive: $what\" -j ACCEPT"
    done >"$work/want"
    "$1-save" -t filter | grep -F -- '--comment "Skydive: ' >"$work/have" || true
    if ! cmp -s "$work/want" "$work/have" && [ -n "$(minus "$work/want" "$work/have")$(minus "$work/have" "$work/want")" ] && changes; then
        {
            echo '*filter'
            minus "$work/have" "$work/want" | sed 's/^-A/-D/'
            minus "$work/want" "$work/have" | sed 's/^-A INPUT/-I INPUT/'
            echo COMMIT
        } | "$1-restore" -w --noflush
    fi
    grep -sF -- '--comment "Skydive: ' "$2" >"$work/have" || true
    ! cmp -s "$work/want" "$work/have" || return 0
    changes || return 0
    if [ -e "$2" ]; then cat "$2"; else echo "$ours_file"; fi >"$work/new"
    : >"$work/file"
    chmod 0600 "$work/file"
    # In front of the first rule of INPUT, in the table filter; where there is none we bring one.
    grep -vF -- '--comment "Skydive: ' "$work/new" | sed "/^$ours_table\$/,/^COMMIT/d" | awk -v want="$work/want" -v table="$ours_table" '
        function put(line) { while (!done && (getline line <want) > 0) print line; done = 1 }
        /^\*/ { filter = $0 == "*filter" }
        filter && (/^-A INPUT/ || /^COMMIT/) { put() }
        { print }
        END { if (!done && (getline line <want) > 0) { print table; print "*filter"; print line; put(); print "COMMIT" } }' >"$work/file"
    "$1-restore" --test <"$work/file" || fail "$2 would no longer be valid with Skydive's rules in it"
    if [ "$(cat "$work/file")" = "$ours_file" ]; then rm -f "$2"; else replace "$2"; fi
}

apply_nftables() { # FILE
    have nft || return 0
    # Chains that see what comes in. Those of iptables-nft are not ours to touch. A table of our own would not do: what one chain accepts
    # another may still drop.
    nft list chains | awk '$1 == "table" { table = $2 " " $3 } $1 == "chain" { chain = $2 }
        /type filter hook input/ && (table " " chain) !~ /^ip6? filter INPUT$/ { print table, chain }' >"$work/chains"
    : >"$work/file"
    while read -r family table chain; do
        case $family in ip) rules=$(rules_of 4) ;; ip6) rules=$(rules_of 6) ;; *) rules=$(rules_of all) ;; esac
        echo "$rules" | while read -r protocol port source what; do
            case $source in '') continue ;; any) source='' ;; *:*) source="ip6 saddr $source " ;; *) source="ip saddr $source " ;; esac
            echo "$source$protocol dport $port accept comment \"Skydive: $what\""
        done >"$work/want"
        nft -a list chain "$family" "$table" "$chain" | grep -F 'comment "Skydive: ' | sed 's/^[[:space:]]*//' >"$work/handles" || true
        sed 's/ # handle .*//' "$work/handles" >"$work/have"
        {
            minus "$work/have" "$work/want" | while read -r line; do
                echo "delete rule $family $table $chain handle $(grep -F "$line" "$work/handles" | sed 's/.* # handle //' | head -n 1)"
            done
            minus "$work/want" "$work/have" | sed "s/^/insert rule $family $table $chain /"
        } >>"$work/live"
        # The chain is declared so that a file of the administrator that no longer has it still loads.
        [ ! -s "$work/want" ] || { echo "add table $family $table"; echo "add chain $family $table $chain"; sed "s/^/insert rule $family $table $chain /" "$work/want"; } >>"$work/file"
    done <"$work/chains"
    if [ -s "$work/live" ] && changes; then nft -f "$work/live"; fi

    line="include \"${include%.nft}*.nft\" # Skydive"
    if [ ! -s "$work/file" ]; then
        [ ! -e "$include" ] || ! changes || rm "$include"
        grep -qsxF "$line" "$1" && changes || return 0
        grep -vxF "$line" "$1" >"$work/file" || true
        replace "$1"
        return
    fi
    if ! cmp -s "$work/file" "$include" && changes; then replace "$include"; fi
    if [ ! -e "$1" ]; then fail "skydive_iptables_rules: nftables is in use, but $1 does not exist"; fi
    if ! grep -qxF "$line" "$1" && changes; then
        { cat "$1"; echo "$line"; } >"$work/file"
        replace "$1"
    fi
    [ "$mode" = check ] || nft -c -f "$1" || fail "$1 is not valid with Skydive's rules in it"
}

apply_ufw() {
    have ufw || return 0
    while read -r protocol port source what; do
        [ "$source" = any ] && match="$port/$protocol" || match="from $source to any port $port proto $protocol"
        echo "ufw allow $match comment 'Skydive: $what'"
    done <"$work/rules" >"$work/want"
    ufw show added | grep -F "comment 'Skydive: " >"$work/have" || true
    { minus "$work/have" "$work/want" | sed "s/^ufw allow \(.*\) comment .*/ufw delete allow \1/"; minus "$work/want" "$work/have"; } >"$work/live"
    if [ -s "$work/live" ] && changes; then sh -e "$work/live" >&2; fi
}

apply_firewalld() {
    have firewall-cmd && firewall-cmd -q --state 2>/dev/null || return 0
    # An interface that nobody gave a zone is in the default one.
    { firewall-cmd --get-default-zone; firewall-cmd --get-active-zones | sed -n 's/^\([^ ][^ ]*\).*/\1/p'; } | sort -u | while read -r zone; do
        while read -r protocol port source what; do
            case $source in
            any) echo "$zone port=$port/$protocol # Skydive: $what"; continue ;;
            *:*) family=ipv6 ;;
            *) family=ipv4 ;;
            esac
            echo "$zone rich-rule=rule family=\"$family\" source address=\"$source\" port port=\"$port\" protocol=\"$protocol\" accept # Skydive: $what"
        done <"$work/rules"
    done >"$work/file"
    [ ! -e "$state" ] || minus "$state" "$work/file" | while read -r zone rule; do
        for where in --permanent ''; do
            firewall-cmd -q $where --zone="$zone" --query-"${rule%% # *}" || continue
            changes || continue
            firewall-cmd -q $where --zone="$zone" --remove-"${rule%% # *}"
        done
    done
    while read -r zone rule; do
        for where in --permanent ''; do
            firewall-cmd -q $where --zone="$zone" --query-"${rule%% # *}" && continue
            changes || continue
            firewall-cmd -q $where --zone="$zone" --add-"${rule%% # *}"
        done
    done <"$work/file"
    if [ ! -s "$work/file" ]; then
        [ ! -e "$state" ] || ! changes || rm "$state"
    elif ! cmp -s "$work/file" "$state" && changes; then
        replace "$state"
    fi
}

mode=$1
if [ "$mode" = detect ]; then
    detect
    exit
fi
tool=$2 nftables=$3 iptables=$4 ip6tables=$5
shift 5
ours_file='# Made for the rules of Skydive.'
ours_table='# Table made for the rules of Skydive.'
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/rules"
for rule; do echo "$rule"; done >"$work/rules"
case $tool in
firewalld) apply_firewalld ;;
ufw) apply_ufw ;;
nftables) apply_nftables "$nftables" ;;
iptables) apply_iptables iptables "$iptables" 4; apply_iptables ip6tables "$ip6tables" 6 ;;
none) ;;
'')
    apply_firewalld
    apply_ufw
    apply_nftables "$nftables"
    apply_iptables iptables "$iptables" 4
    apply_iptables ip6tables "$ip6tables" 6
    ;;
*) fail "firewall.sh does not know $tool" ;;
esac
