#!/bin/sh
# Takes away what "Install check-in" has installed: as root for the machine, else for the user it runs as. Doing it again does no harm.
umask 077
unset CDPATH
said() { printf 'check-in: %s\n' "$*"; }
is_root=
[ "$(id -u)" != 0 ] || is_root=yes
if [ "$is_root" ]; then dir=/etc/chargehand/check-in; else dir=${HOME:?}/.chargehand/check-in; fi
failed=
trouble() {
    printf 'check-in: could not: %s\n' "$*" >&2
    failed=yes
}

remove_units() { # FOLDER OPTION
    [ -e "$1/chargehand-check-in.timer" ] || return 0
    systemctl $2 disable --now chargehand-check-in.timer >/dev/null 2>&1
    rm -f "$1/chargehand-check-in.timer" "$1/chargehand-check-in.service" || trouble "remove the timer from $1"
    systemctl $2 daemon-reload >/dev/null 2>&1
    said "removed the systemd timer"
}
if [ "$is_root" ]; then
    remove_units /etc/systemd/system ''
    [ ! -e /etc/local.d/chargehand-check-in.start ] || {
        rm -f /etc/local.d/chargehand-check-in.start && said "removed the hook at boot"
    }
else
    [ "${XDG_RUNTIME_DIR-}" ] || XDG_RUNTIME_DIR=/run/user/$(id -u)
    export XDG_RUNTIME_DIR
    remove_units "${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user" --user
fi
mark="# chargehand check-in $dir"
if command -v crontab >/dev/null && lines=$(crontab -l 2>/dev/null); then
    case $lines in
    *"$mark"*)
        rest=$(printf '%s\n' "$lines" | grep -vF "$mark")
        if if [ "$rest" ]; then printf '%s\n' "$rest" | crontab -; else crontab -r; fi; then
            said "removed the lines of cron"
        else
            trouble "change the crontab"
        fi
        ;;
    esac
fi
if [ -d "$dir" ] && [ ! -L "$dir" ]; then
    rm -rf "$dir" && said "removed $dir, facts and key included" || trouble "remove $dir"
else
    said "$dir is not there"
fi
[ -z "$failed" ]
