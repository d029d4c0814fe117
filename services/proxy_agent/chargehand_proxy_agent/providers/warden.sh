# Starts the script of an attempt as another user, and can end all of it: who connects may not signal that user's processes. It is
# started by sudo, su, dzdo or doas in the directory T.N.SUPERVISOR.d, which nobody can name from outside, and speaks through it:
#   up    a pipe to the supervisor: up PID BORN, pid PID BORN, exited STATUS [odd]
#   go    a pipe from it: go LIMIT SUPERVISOR UMASK OUT ERR SCRIPT [=LOCALE], then `end` (also from a cancel, or our own watch) or `bye`
#   end   not empty once the end has begun; trace  what the shell says of a process that a signal ended
# Variables, set by wrapper.py: mark interpreter argument grace reap. Without a word nothing is started; a supervisor that died
# gives none. When the time limit is over everything is ended, whoever else is still there.

trap : HUP INT QUIT TERM PIPE
exec </dev/null >/dev/null 2>&1
born=0 leader=0
own_stat() {
    read -r leader rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest born rest \
        </proc/self/stat
}
clock() {
    read -r now rest </proc/uptime
    rest=1${now#*.}
    now=$((${now%.*} * 100 + rest - 100))
}
# Everything of the attempt; the script's own process is known by its number and the time of its birth.
end_all() {
    read -r pid pid_born cage <pid
    until (
        set -- end ${pid:-0} ${pid_born:-0} "$mark" "$grace" "$cage"
        eval "$reap"
    ); do sleep 5; done
}
listen() {
    trap - TERM
    while :; do
        word=
        read -r word <go
        case $word in
        end)
            echo end >>end
            end_all
            echo over >>end
            exit 0
            ;;
        bye) exit 0 ;;
        esac
    done
}
# A little later than the supervisor, which writes down that the time is over.
watch() {
    trap 'kill $!; exit 0' TERM
    while clock && [ $now -lt $((limit + 100)) ]; do
        [ ! -s end ] || exit 0
        remaining=$((limit + 100 - now))
        [ $remaining -le 500 ] || remaining=500
        sleep $(((remaining + 99) / 100)) &
        wait $!
    done
    echo end 1<>go
}
main() {
    own_stat
    echo up $leader $born >>up
    read -r word limit supervisor mask out err script locale <go || exit 0
    [ "$word" = go ] || exit 0
    listen &
    listener=$!
    watch &
    watcher=$!
    exec 2>>trace
    (
        own_stat
        [ "$leader" != $$ ] || {
            ulimit -t unlimited # makes ksh fork: until then it only pretends to be a subshell
            own_stat
        }
        make_cage "${mark#*/}.${mark%%/*}" 2>/dev/null
        [ -z "$cage" ] || echo 0 2>/dev/null >"$cage/cgroup.procs"
        exec 3<"$script" || exit 126
        echo $leader $born "$cage" >pid
        echo pid $leader $born >>up
        umask $mask
        if [ "$locale" ]; then
            LC_ALL=${locale#=}
            export LC_ALL
        else
            unset LC_ALL
        fi
        exec 4>>"$out" 5>>"$err"
        cd "${HOME:-/}" || cd /
        exec >&4 2>&5 4>&- 5>&-
        trap - HUP INT QUIT TERM PIPE
        CHARGEHAND_ATTEMPT=$mark
        export CHARGEHAND_ATTEMPT
        unset OLDPWD
        if command -v setsid >/dev/null; then
            exec setsid "$interpreter" ${argument:+"$argument"} /proc/self/fd/3
        fi
        exec "$interpreter" ${argument:+"$argument"} /proc/self/fd/3
    )
    status=$? odd=
    exec 2>/dev/null
    [ ! -s trace ] || odd=odd
    conclude
    [ -s end ] || echo bye >>end # a signal that comes before a new process has its own traps is lost
    kill $watcher
    wait
    read -r pid pid_born cage <pid
    [ -z "$cage" ] || rmdir "$cage"
    exit 0
}
# What ended by itself may leave children behind, if it was meant to; the supervisor knows.
conclude() {
    [ -s end ] || kill -s KILL $listener
    wait $listener
    if [ -s end ]; then
        end_all
        echo over >>end
        echo exited $status $odd >>up
        return
    fi
    echo exited $status $odd >>up
    [ -d "/proc/$supervisor" ] || return
    word=
    read -r word <go
    [ "$word" = end ] || return
    end_all
    echo over >>end
}
main
exit 0
