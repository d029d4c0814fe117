#!/bin/sh
# Installs the check-in on this host: a program, its key, and whatever this host has to run it: a systemd timer, else lines of cron
# and a hook at boot. As root for the whole machine, else for the user it runs as. Doing it again renews everything.
umask 077
unset CDPATH
credentials='__CHARGEHAND_CHECK_IN__'
address={{ input("address") | quote }}
interval={{ input("interval") | quote }}
spread={{ input("spread") | quote }}
ca={{ input("ca_file") | quote }}

fail() {
    printf 'check-in: %s\n' "$*" >&2
    exit 1
}
done_=
did() {
    done_=yes
    printf 'check-in: %s\n' "$*"
}
could_not() { printf 'check-in: could not: %s\n' "$*"; }
is_number() { # TEXT LEAST MOST
    case $1 in
    '' | *[!0-9]* | ??????*) return 1 ;;
    esac
    [ "$1" -ge "$2" ] && [ "$1" -le "$3" ]
}

# --- what was asked for

host=${credentials%% *} key=${credentials#* }
case $host/$key in
*CHARGEHAND* | */*[!0-9a-f]*) fail "this host was given no key: its proxy's agent has no check-in endpoint" ;;
esac
is_number "$interval" 1 1440 || fail "interval: '$interval' is no number of minutes from 1 to 1440"
is_number "$spread" 0 86400 || fail "spread: '$spread' is no number of seconds from 0 to 86400"
case $address in
*[!]A-Za-z0-9:/._%@[-]*) fail "address: '$address' is no address" ;;
https://?* | http://127.0.0.1[:/]* | "http://[::1]"[:/]* | http://localhost[:/]*) ;;
*) fail "address: '$address' is neither https://HOST:PORT nor on this machine: the key does not cross a network in clear" ;;
esac
address=${address%/}
address=${address%/check-in}/check-in
case $ca in
'') ;;
/*) [ -r "$ca" ] || fail "ca_file: $ca cannot be read on this host; bring it there first" ;;
*) fail "ca_file: '$ca' is no whole path" ;;
esac
command -v curl >/dev/null || command -v wget >/dev/null || fail "there is neither curl nor wget here; install one"

# --- the program and its key

is_root=
[ "$(id -u)" != 0 ] || is_root=yes
if [ "$is_root" ]; then
    top=/etc/chargehand
else
    top=${HOME:?}/.chargehand
fi
dir=$top/check-in
case $dir in
*[!A-Za-z0-9/._+@-]*) fail "the path $dir has characters that cron and systemd would take for something else" ;;
esac
[ "$is_root" ] && umask 022
mkdir -p "$top" || fail "$top cannot be made"
umask 077
mkdir -p "$dir/facts" || fail "$dir cannot be made"
[ ! -L "$dir" ] && [ -O "$dir" ] || fail "$dir is a link, or belongs to another user: remove it"
chmod 700 "$dir" "$dir/facts"
cd "$dir" || exit 1
put() { # FILE MODE: standard input, whole or not at all
    cat >".new.$$" && chmod "$2" ".new.$$" && mv -f ".new.$$" "$1" || {
        rm -f ".new.$$"
        fail "$1 cannot be written"
    }
}
put check-in.sh 700 <<'END_OF_PROGRAM'
@check_in.sh@
END_OF_PROGRAM
put facts/10-system.sh 700 <<'END_OF_PROGRAM'
@facts_system.sh@
END_OF_PROGRAM
put facts/20-packages.sh 700 <<'END_OF_PROGRAM'
@facts_packages.sh@
END_OF_PROGRAM
printf '%s\n' "address $address" "host $host" "key $key" "ca $ca" "spread $spread" "fact_seconds 10" | put check-in.conf 600
did "installed in $dir"
done_=

# --- who runs it

units() { # FOLDER
    mkdir -p "$1" || return 1
    chmod 755 "$1"
    printf '%s\n' '[Unit]' 'Description=Check in at the Chargehand proxy' 'After=network-online.target' '' \
        '[Service]' 'Type=oneshot' "ExecStart=/bin/sh $dir/check-in.sh scheduled" | put "$1/chargehand-check-in.service" 644
    printf '%s\n' '[Unit]' 'Description=Check in at the Chargehand proxy, at boot and from time to time' '' \
        '[Timer]' 'OnBootSec=1s' "OnUnitActiveSec=${interval}min" 'AccuracySec=1s' '' \
        '[Install]' 'WantedBy=timers.target' | put "$1/chargehand-check-in.timer" 644
}
no_systemd='systemd does not run this machine'
system_timer() {
    [ -d /run/systemd/system ] && command -v systemctl >/dev/null || {
        could_not "a systemd timer: $no_systemd"
        return 1
    }
    units /etc/systemd/system && said=$(systemctl daemon-reload 2>&1 && systemctl enable --now chargehand-check-in.timer 2>&1) || {
        could_not "a systemd timer: $said"
        return 1
    }
    did "a systemd timer runs it at boot and every $interval min: chargehand-check-in.timer"
}
user_timer() {
    [ "${XDG_RUNTIME_DIR-}" ] || XDG_RUNTIME_DIR=/run/user/$(id -u)
    export XDG_RUNTIME_DIR
    command -v systemctl >/dev/null && systemctl --user show-environment >/dev/null 2>&1 || {
        could_not "a systemd timer of this user: no systemd runs for the user"
        return 1
    }
    units "${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user" &&
        said=$(systemctl --user daemon-reload 2>&1 && systemctl --user enable --now chargehand-check-in.timer 2>&1) || {
        could_not "a systemd timer of this user: $said"
        return 1
    }
    did "a systemd timer of this user runs it every $interval min: chargehand-check-in.timer"
    case $(loginctl show-user "$(id -un)" -p Linger 2>/dev/null) in
    *yes*) ;;
    *)
        could_not "run while nobody is logged in, by systemd: an administrator allows it with loginctl enable-linger $(id -un)"
        return 1
        ;;
    esac
}
mark="# chargehand check-in $dir"
cron_lines() {
    command -v crontab >/dev/null || {
        could_not "lines of cron: there is no crontab here"
        return 1
    }
    case $(readlink -f "$(command -v crontab)") in
    *busybox*) at_boot= ;;
    *) at_boot="@reboot /bin/sh $dir/check-in.sh scheduled $mark" ;;
    esac
    if [ "$interval" -lt 60 ]; then when="*/$interval * * * *"; else when="0 */$((interval / 60)) * * *"; fi
    [ "$interval" -lt 1440 ] || when='0 0 * * *'
    {
        crontab -l 2>/dev/null | grep -vF "$mark"
        [ -z "$at_boot" ] || printf '%s\n' "$at_boot"
        printf '%s\n' "$when /bin/sh $dir/check-in.sh scheduled $mark"
    } >crontab.new
    said=$(crontab crontab.new 2>&1) || {
        rm -f crontab.new
        could_not "lines of cron: $said"
        return 1
    }
    rm -f crontab.new
    did "cron runs it (crontab -l)${at_boot:+ at boot and} by the line: $when"
}
boot_hook() {
    [ -d /etc/local.d ] || return 1
    printf '#!/bin/sh\n/bin/sh %s/check-in.sh scheduled >/dev/null 2>&1 &\n' "$dir" | put /etc/local.d/chargehand-check-in.start 755
    did "it runs at boot: /etc/local.d/chargehand-check-in.start"
}

if [ "$is_root" ]; then
    system_timer || {
        cron_lines
        boot_hook || could_not "a hook at boot: there is no /etc/local.d"
    }
else
    user_timer || cron_lines
    could_not "a hook at boot of the machine: this is not root (job option --user root)"
fi

# --- and now

said=$(/bin/sh "$dir/check-in.sh" 2>&1) || fail "it is installed, and the first check-in failed: ${said#check-in: }"
printf '%s\n' "$said"
[ "$done_" ] || fail "nothing on this host runs it from time to time: have cron or systemd, and install again"
