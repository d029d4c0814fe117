# Finds every process of an attempt, and ends them. Runs as the user the script runs as; wrapper.py hands it to the wrapper as text.
# Arguments: probe|end PID BORN MARK GRACE CAGE. `probe` exits with 10 if it is sure that no process is left, and with nothing else; `end`
# succeeds when none is (TERM, the grace in 1/100 s, KILL), and fails when some are left all the same. A process belongs to the attempt when it carries CHARGEHAND_ATTEMPT=MARK in its
# environment, is of the session or the group of PID, unless that number has passed to a process born later, or is in the cgroup CAGE.

action=$1 leader=$2 born=$3 mark=$4 grace=$5 cage=$6

# A process may be called anything, ") S 1" and line ends included: what counts stands behind the last ')'.
if [ -d "/proc/$leader" ]; then
    stat=
    while read -r line; do stat=$stat$line; done <"/proc/$leader/stat"
    stat=${stat##*") "}
    set -- $stat
    [ "${20}" = "$born" ] || leader=0
fi
in_session="\\) [^ZX] -?[0-9]+ ($leader -?[0-9]+|-?[0-9]+ $leader) [^)]*\$"
any_left() {
    left=
    for found in $(
        grep -lsF "CHARGEHAND_ATTEMPT=$mark" /proc/[0-9]*/environ
        [ "$leader" = 0 ] || grep -lsE "$in_session" /proc/[0-9]*/stat
    ); do
        found=${found#/proc/}
        left="$left ${found%/*}"
    done
    [ ! -d "$cage" ] || while read -r found; do
        case " $left " in
        *" $found "*) ;;
        *) left="$left $found" ;;
        esac
    done <"$cage/cgroup.procs"
    [ "$left" ]
}
clock() {
    read -r now rest </proc/uptime
    rest=1${now#*.}
    now=$((${now%.*} * 100 + rest - 100))
}
# Each process is asked once, and woken if it was stopped.
ask() {
    for found in $left; do
        case " $asked " in
        *" $found "*) continue ;;
        esac
        asked="$asked $found"
        kill -s TERM "$found"
        kill -s CONT "$found"
    done
}
force() {
    [ "$leader" = 0 ] || kill -s KILL -- "-$leader"
    [ ! -d "$cage" ] || echo 1 >"$cage/cgroup.kill"
    for found in $left; do kill -s KILL "$found"; done
}

command -v grep >/dev/null || exit 1
[ "$action" = end ] || {
    any_left || exit 10
    exit 0
}
clock
patient=$((now + grace)) asked= pause=0.02
while any_left; do
    clock
    if [ $now -lt $patient ]; then
        ask
    elif [ $now -lt $((patient + 300)) ]; then
        force
    else
        exit 1
    fi
    sleep $pause || sleep 1
    [ $pause = 0.2 ] || [ $((now - patient + grace)) -lt 20 ] || pause=0.2
done
exit 0
