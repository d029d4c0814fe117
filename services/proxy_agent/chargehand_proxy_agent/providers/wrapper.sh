# The host's side of an attempt: takes its lock, starts its script, watches its deadline, keeps its output, tells what is true of it.
# POSIX sh (dash, bash, busybox ash, ksh) on Linux. wrapper.py strips the comments, sets the variables named below, and sends it to
# `sh -s` over the connection; nothing is installed. The rules are those of docs/protocol.md, section 1, "Attempt on the host".
# Processes are dear (about 1 ms each), builtins are not: the usual short job costs three beside its own.
#
# Files of attempt N of job task T, in a directory only its owner may enter:
#   T.N      the record. It is made with O_EXCL (noclobber), and that is the lock and the point of no return in one: who makes it
#            either starts the script (first line `started`) or makes sure that nobody ever does (first line `tombstone`).
#            Lines are only appended, and of each kind the first whole one counts:
#              started BOOT SUPERVISOR BEGAN LIMIT   (boot id, pid, uptimes in 1/100 s)
#              tombstone WHY BY WORDS                (tombstone, late, fenced, barred, booted, aged; the attempt that fenced it,
#                                                     `later` for one that a later attempt closed, or -; why the user could not
#                                                     be had)
#              warden PID BORN                       (of an attempt that runs as another user: see warden.sh)
#              pid PID BORN                          (leader of the script's session and its start time)
#              cage PATH                             (the cgroup it was moved to, see adopt)
#              timed_out, cancelled                  (who began to end it)
#              ended STATUS SIGNAL CAUSE RAN AT .    (exit status or -, number or -; 1/100 s)
#              lengths STDOUT STDERR .               (bytes; fixed once, whatever its children write later)
#              anything else: what the shell says of a process that a signal ended
#   T.N.sh   the script; T.N.out and T.N.err what it wrote. Of an attempt that runs as another user they are sh, out and err in
#            T.N.SUPERVISOR.d, with what else that user must reach: it stands there before it becomes that user (warden.sh).
#
# Variables: boot locale has_locale parent leaf task attempt user method volatile grace cap head reap rare; for a start script
# filled interpreter argument not_after run_deadline timeout earlier unknown pipes tidy password patience warden; for a look old
# rebooted cancel at_out at_err.
# Times are in 1/100 s of uptime. `rare` is the second half of this file, read by the shell only when it is needed.

exec 2>/dev/null
name=$task.$attempt
files=$name.
mark=$attempt/$task
nl='
'
unset CDPATH

rarely() {
    [ -z "$rare" ] || {
        eval "$rare"
        rare=
    }
    "$@"
}
say() { printf '%s\n' "$*"; }
last() {
    say "$@"
    exit 0
}
clock() {
    read -r now rest </proc/uptime
    rest=1${now#*.}
    now=$((${now%.*} * 100 + rest - 100))
}
# nap HUNDREDTHS: ends early when `stop` is set by a trap
nap() {
    case $1 in
    ?) span=0.0$1 ;;
    ??) span=0.$1 ;;
    *) span=$(($1 / 100)) ;;
    esac
    sleep $span &
    napping=$!
    [ "${stop-}" ] || wait $napping
    case ${stop-}$? in
    1 | 2) sleep 1 ;; # a sleep that knows no fractions
    stop*) kill $napping ;;
    esac
}
# Into the directory: the user's own, for nobody else, on a disk, no link in its place, all this known since the boot.
enter() {
    from_home
    cd -P "$parent" && at=${PWD%/}/$leaf && cd -P "$leaf" && [ "$PWD" = "$at" ] && [ -O . ] &&
        read -r known pruned <.ready && [ "$known" = "$boot" ] || rarely prepare
    clock
    age=$((now - pruned))
    [ $age -ge 0 ] && [ $age -lt 8640000 ] || rarely prune
}
from_home() {
    case $parent in
    /*) ;;
    *) cd "${HOME:-/}" || last refused bad_directory "the home directory cannot be entered: ${HOME-}" ;;
    esac
}
# inspect NAME: what its record says; state is absent, empty, tombstone, started or ended
inspect() {
    state=absent record_boot= supervisor=0 pid=0 born=0 warden_pid=0 cage= by= end= lengths= odd=
    [ -e "$1" ] || return 0
    state=empty
    while read -r word a b c d e f; do
        case $word in
        started) [ $state != empty ] || state=started record_boot=$a supervisor=$b began=$c limit=$d ;;
        tombstone) [ $state != empty ] || state=tombstone why=$a fence=$b words="$c $d $e $f" ;;
        warden) [ $warden_pid != 0 ] || warden_pid=$a warden_born=$b ;;
        pid) [ $pid != 0 ] || pid=$a born=$b ;;
        cage) cage=${cage:-$a} ;;
        timed_out | cancelled) by=${by:-$word} ;;
        ended) [ "$f" != . ] || [ "$end" ] || end="$a $b $c $d $e" state=ended ;;
        lengths) [ "$c" != . ] || [ "$lengths" ] || lengths="$a $b" ;;
        '') ;;
        *) odd=yes ;;
        esac
    done <"$1"
}
# claim NAME LINE: true for exactly one of all that ever try
claim() {
    set -C
    printf '%s\n' "$2" >"$1"
    set -- $?
    set +C
    return $1
}
position() { read -r rest spot <"/proc/$1/fdinfo/$2"; }
keep_lengths() {
    printf '\nlengths %s %s .\n' $1 $2 >>"$name"
    lengths="$1 $2"
}
# tell_end STATUS SIGNAL CAUSE RAN AT
tell_end() {
    tell_output
    clock
    ago=-
    [ "$record_boot" != "$boot" ] || ago=$((now - $5))
    say ended $1 $2 $3 $4 $ago $lengths
}
# Short text goes without another process. Only when every byte is accounted for: a NUL would be missing.
tell_output() {
    [ -z "$lengths" ] && [ "${own-}" ] && is_short || {
        rarely conclude_both
        return
    }
    keep_lengths $size_out $size_err
    [ $size_out = 0 ] || printf 'o 0 %s\n%s' $size_out "$text_out"
    [ $size_err = 0 ] || printf 'e 0 %s\n%s' $size_err "$text"
}
is_short() {
    position self 5
    [ $spot = 0 ] || return 1
    position self 6
    [ $spot = 0 ] || return 1
    position self 7
    size_out=$spot
    position self 8
    size_err=$spot
    [ $size_out -le 1024 ] && [ $size_err -le 1024 ] && [ $cap -ge 1024 ] || return 1
    slurp "${files}out"
    text_out=$text
    slurp "${files}err"
    [ ${#text_out} = $size_out ] && [ ${#text} = $size_err ]
}
slurp() {
    text=
    [ -s "$1" ] || return 0
    while IFS= read -r line; do text=$text$line$nl; done <"$1"
    text=$text$line
}

# --- a start

start() {
    trap : HUP INT QUIT TERM PIPE
    umask_line
    enter
    umask 077
    if [ ! -e "$name" ]; then
        [ -z "$earlier" ] || rarely fence
        [ -z "$user" ] || rarely become
        store_script
        clock
        [ $now -le $not_after ] || rarely bury late -
        limit=$((now + timeout))
        [ $limit -le $run_deadline ] || limit=$run_deadline
        began=$now
        ! claim "$name" "started $boot $$ $now $limit" || supervise
    fi
    rarely tell_of_another
}
umask_line() {
    {
        read -r rest
        read -r rest own_umask
    } </proc/self/status
    [ "$rest" = Umask: ] || own_umask=$(umask)
}
store_script() {
    [ -z "$user" ] || umask 0 # the directory above stays closed
    printf %s "$script" >"${files}sh" || rarely complain "${files}sh"
    printf '' >>"${files}out" || rarely complain "${files}out"
    printf '' >>"${files}err" || rarely complain "${files}err"
    umask 077
}
supervise() {
    own=yes record_boot=$boot state=started
    exec 5<"${files}out" 6<"${files}err" 7>>"${files}out" 8>>"${files}err"
    say started 0 0
    follow &
    follower=$!
    detach=
    if command -v setsid >/dev/null; then
        detach=setsid
    elif command -v perl >/dev/null; then
        detach='perl -MPOSIX=setsid -e setsid;exec(@ARGV)'
    fi
    to_out=7 to_err=8
    exec 2>>"$name"
    if [ "$pipes" ]; then rarely run_piped; else run; fi
    exec 2>/dev/null
    conclude_record
    kill $follower
    while kill -0 $follower; do wait $follower; done
    tell_end $end
    [ -z "$cage" ] || rmdir "$cage" </dev/null >/dev/null
    for name in $tidy; do
        for file in "$name".out "$name".err "$name".sh "$name".*.d/out "$name".*.d/err "$name".*.d/sh; do
            [ ! -s "$file" ] || printf '' >"$file"
        done
    done
    exit 0
}
# The script as a process of its own session, in the user's home, with the user's umask, and nothing of ours but its name.
run() {
    [ -z "$user" ] || {
        rarely run_by_warden
        return
    }
    (
        own_stat
        [ "$leader" != $$ ] || {
            ulimit -t unlimited # makes ksh fork: until then it only pretends to be a subshell
            own_stat
        }
        printf 'pid %s %s\n' $leader $born >&2
        umask $own_umask
        if [ "$has_locale" ]; then LC_ALL=$locale; else unset LC_ALL; fi
        exec 3<"${files}sh" >&$to_out 2>&$to_err
        [ -z "$filled" ] || rarely read_filled
        cd "${HOME:-/}" || cd /
        exec 4>&- 5<&- 6<&- 7>&- 8>&- 9>&-
        CHARGEHAND_ATTEMPT=$mark
        export CHARGEHAND_ATTEMPT
        exec $detach "$interpreter" ${argument:+"$argument"} /proc/self/fd/3 3<&3 </dev/null
    )
    status=$?
}
own_stat() {
    read -r leader rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest rest born rest \
        </proc/self/stat
}
conclude_record() {
    inspect "$name"
    signal=-
    if [ $status -gt 256 ]; then
        signal=$((status - 256)) status=-
    elif [ "$odd" ] && [ $status -gt 128 ]; then
        signal=$((status - 128)) status=-
    fi
    [ -z "$by" ] || until rarely reap end; do nap 500; done
    clock
    # The warden ends it when its time is over, and may be first to see that.
    [ "$by" ] || [ ! "$user" ] || [ $now -lt $limit ] || [ "$status" = 0 ] || by=timed_out
    end="$status $signal ${by:-exited} $((now - began)) $now"
    until printf '\nended %s .\n' "$end" >>"$name"; do nap 500; done
    [ -z "$user" ] || echo bye >&4
}
# Beside the script. Most scripts are over before it does anything.
follow() {
    stop=
    trap 'stop=stop' TERM
    trap : HUP
    heard=$now pause=4 looks=0 seen=
    nap $pause
    inspect "$name"
    [ -z "$stop" ] && [ $state = started ] || exit 0
    rarely follow_on
}

# --- rare

# --- what is wrong with the directory

trouble() {
    case $1 in
    *'o space'* | *uota*) last refused disk_full "$1" ;;
    *) last refused bad_directory "$1" ;;
    esac
}
# What the shell says when it cannot write a file there.
complain() { trouble "$( (echo "$boot" >>"$1.try" && rm -f "$1.try" && echo "$at: $1 cannot be written") 2>&1)"; }
wrong() { last refused bad_directory "$1"; }
prepare() {
    from_home
    said=$(umask 077 && mkdir -p "$parent" 2>&1) || trouble "$said"
    cd -P "$parent" || wrong "no way into the directory $parent"
    at=${PWD%/}/$leaf
    [ -d "$leaf" ] || said=$(mkdir -m 700 "$leaf" 2>&1) || [ -d "$leaf" ] || trouble "$said"
    [ ! -L "$leaf" ] && cd -P "$leaf" && [ "$PWD" = "$at" ] || wrong "$at is not a directory but a link or a file: remove it"
    [ -O . ] || wrong "$at belongs to another user: remove it, or name another directory"
    case $(ls -ldn .) in
    d???------*) ;;
    d????-??-*) chmod 700 . || wrong "$at can be read by others: chmod 700" ;;
    *) wrong "$at can be written by others: look what is in it, then chmod 700" ;;
    esac
    [ "$volatile" ] || on_disk
    pruned=-8640000
    echo "$boot $pruned" >.ready || complain .ready
}
on_disk() {
    filesystem=$(stat -f -c %T .) || filesystem=$(df -T .)
    case $filesystem in
    *tmpfs* | *ramfs*) wrong "$at is in memory (tmpfs): a reboot would forget what ran there; name a directory on a disk" ;;
    esac
}
# Kept for 14 days: longer than anything that could repeat the command (rule KEEP).
prune() {
    echo "$boot $now" >.ready
    make_cage "probe-$$.1"
    [ -z "$cage" ] || rmdir "${cage%/*}"/*-*.* </dev/null >/dev/null
    find . ! -name . -prune ! -name .ready -mtime +14 -exec rm -rf {} + </dev/null >/dev/null &
}

# --- records of others

# The same as inspect, patient with a record that is being made this instant.
settle() {
    inspect "$1"
    for pause in 2 5 20 50 100; do
        [ $state = empty ] || break
        nap $pause
        inspect "$1"
    done
}
supervised() { [ -d "/proc/$supervisor" ] && grep -qsF "$name" "/proc/$supervisor/cmdline"; }
is_running() { [ "$record_boot" = "$boot" ] && { supervised || any_left; }; }
# bury WHY BY: this attempt shall never start. If somebody was faster, theirs is the truth.
bury() {
    [ -z "$user" ] || dismiss
    ! claim "$name" "tombstone $1 $2" || last never $1 $2
    tell_of_another
}
tell_of_another() {
    [ -z "$user" ] || dismiss
    settle "$name"
    [ $state != absent ] || complain "$name"
    at_out=0 at_err=0 cancel=
    report
}
# Rule FENCE: earlier attempts get a tombstone, or are over and known to be; any other fences this one off.
fence() {
    for before in $earlier; do
        name=$task.$before mark=$before/$task fenced=
        settle "$name"
        [ $state != absent ] || claim "$name" 'tombstone tombstone later' || settle "$name"
        case $state in
        ended | empty) is_unknown && fenced=yes ;;
        started) { is_unknown || is_running; } && fenced=yes ;;
        esac
        name=$task.$attempt mark=$attempt/$task
        [ -z "$fenced" ] || bury fenced $before
    done
}
is_unknown() {
    case " $unknown " in
    *" $before "*) return 0 ;;
    esac
    return 1
}

# --- another user, and every process of the attempt

# What is filled in is in no file that has a name when the script starts, and so in no record of the attempt.
read_filled() {
    umask 077
    printf %s "$filled" >"$name.fl" && exec 3<"$name.fl" && rm "$name.fl" || {
        rm -f "$name.fl"
        say "chargehand: the script cannot be written to $at" >&2
        exit 126
    }
    umask $own_umask
}

# reap probe, reap end: see reap.sh. Who cannot look takes it that there are some.
any_left() {
    reap probe
    [ $? != 10 ]
}
reap() {
    if [ "$user" ] && is_all_over; then
        [ "$1" = end ] || return 10
    elif [ "$user" ] && is_warden_there; then
        [ "$1" = end ] && tell_warden
    elif [ "$user" ] && [ "${told-}" ]; then
        return 0 # it was there to its end, and nobody asked it for more
    elif [ "$user" ] && ! am_root; then
        as_user "$reap" "$1" "$pid" "$born" "$mark" "$grace" "$cage" </dev/null >/dev/null
    else
        (
            set -- "$1" "$pid" "$born" "$mark" "$grace" "$cage"
            eval "$reap"
        ) </dev/null >/dev/null
    fi
}

# --- output: descriptors 5 and 6 stand in stdout and stderr where sending goes on

sizes() { # of both files, as they are now; ksh at times hears nothing from a command that it has substituted
    for turn in 1 2 3 4 5 6 7 8 9; do
        set -- $(wc -c "${files}out" "${files}err")
        size_out=${1:-x} size_err=${3:-x}
        case $size_out$size_err in
        *[!0-9]*) ;;
        *) return 0 ;;
        esac
    done
    size_out=0 size_err=0
    return 1
}
# advance LETTER DESCRIPTOR TO
advance() {
    position self $2
    while [ "$spot" -lt "$3" ]; do
        count=$(($3 - spot))
        [ $count -le 1048576 ] || count=1048576
        say $1 $spot $count
        dd bs=$count count=1 <&$2
        spot=$((spot + count))
    done
}
pump() {
    sizes
    [ $size_out -le $head ] || size_out=$head
    [ $size_err -le $head ] || size_err=$head
    advance o 5 $size_out
    advance e 6 $size_err
}
# leave_out LETTER DESCRIPTOR TO
leave_out() {
    position self $2
    [ "$spot" -lt "$3" ] || return 0
    say omitted $1 $spot $3
    dd bs=1 count=0 skip=$(($3 - spot)) <&$2
}
# conclude LETTER DESCRIPTOR LENGTH SIZE: the rest, without the middle if it is beyond the cap
conclude() {
    there=$4
    [ $there -le $3 ] || there=$3
    if [ $3 -gt $cap ]; then
        [ $there -le $head ] || advance $1 $2 $head
        leave_out $1 $2 $(($3 - cap + head))
    fi
    advance $1 $2 $there
    leave_out $1 $2 $3
}
conclude_both() {
    # No length is taken for none while the files are there: what is not told is lost.
    until sizes || [ ! -e "${files}out" ] || [ ! -e "${files}err" ]; do nap 500; done
    [ "$lengths" ] || keep_lengths $size_out $size_err
    conclude o 5 ${lengths% *} $size_out
    conclude e 6 ${lengths#* } $size_err
}
pace() { # how long to nap between two looks, by the age of the attempt
    clock
    age=$((now - began))
    if [ $age -gt 60000 ]; then
        pause=100
    elif [ $age -gt 6000 ]; then
        pause=50
    elif [ $pause -lt 25 ]; then
        pause=$((pause + pause))
    fi
    [ $((now - heard)) -lt 1000 ] || {
        heard=$now
        say alive
    }
}
# grown PROCESS: cheap and nearly always right; every 20th look is made without asking
grown() {
    looks=$((looks + 1)) spot=
    position "$1" 7
    grew=$spot
    position "$1" 8
    grew=$grew/$spot
    [ "$grew" != "$seen" ] || [ $((looks % 20)) = 0 ]
}

# --- beside a script that runs

# A script that lasts is put into a cage, with what it has started: parents first, so that nobody is born outside meanwhile. Doing it
# before its first instruction would cost short scripts, which are most, a third more (docs/adr/0026).
adopt() {
    [ -z "$user$cage" ] && [ -d "/proc/$pid" ] || return
    make_cage "$name"
    [ "$cage" ] || return
    printf '\ncage %s\n' "$cage" >>"$name"
    set -- $pid
    while [ $# -gt 0 ]; do
        echo $1 >"$cage/cgroup.procs"
        kids=
        read -r kids <"/proc/$1/task/$1/children"
        shift
        set -- "$@" $kids
    done
}
# Sends what it writes, as it comes. It may be held up by whoever reads; the watch may not.
follow_on() {
    adopt
    watch </dev/null >/dev/null &
    watcher=$!
    while [ -z "$stop" ] && [ $state = started ]; do
        if grown self; then
            seen=$grew
            pump
        fi
        pace
        nap $pause
        inspect "$name"
    done
    kill $watcher
    exit 0
}
# Ends the attempt when its time is over, whoever else is still there.
watch() {
    trap 'kill $napping; exit 0' TERM
    trap : HUP PIPE
    touched=$now
    while clock && [ $now -lt $limit ]; do
        remaining=$((limit - now))
        [ $remaining -le 500 ] || remaining=500
        nap $remaining
        [ -d "/proc/$pid" ] || [ ! -d /proc/$$ ] || exit 0
        [ -d /proc/$$ ] || any_left || exit 0
        [ $((now - touched)) -lt 8640000 ] || {
            touched=$now
            touch -c "$name" "$name".*
        }
    done
    trap : TERM
    inspect "$name"
    [ $state = started ] || exit 0
    printf '\ntimed_out\n' >>"$name"
    until reap end; do nap 500; done
}
# For a script that opens /dev/stderr or the like by name: on a file that would cut off what was written before.
run_piped() {
    mkfifo -m 622 "${files}po" "${files}pe" || {
        run
        return
    }
    [ -z "$user" ] || {
        run_piped_as_user
        return
    }
    exec 4<>"${files}po" 9<>"${files}pe"
    cat <&4 >&7 4>&- 9>&- 2>/dev/null &
    copier_out=$!
    cat <&9 >&8 4>&- 9>&- 2>/dev/null &
    copier_err=$!
    to_out=4 to_err=9
    run
    exec 4>&- 9>&-
    drain $copier_out
    drain $copier_err
    rm -f "${files}po" "${files}pe"
}
# A copier that sleeps has nothing more to copy; it ends with the last process that holds its pipe.
drain() {
    turns=0
    while [ -d "/proc/$1" ] && read -r rest rest copying rest <"/proc/$1/stat" && [ "$copying" != S ] && [ "$copying" != Z ]; do
        turns=$((turns + 1))
        [ $turns -lt 50 ] || nap 1
    done
}

# --- a look

look() {
    trap : HUP
    enter
    settle "$name"
    if [ $state = absent ]; then
        # Also what may have run must not start hereafter: the clock that this look was reckoned by can step back.
        why=tombstone fence=- state=tombstone
        [ -z "$old" ] || why=aged
        [ -z "$rebooted" ] || why=booted
        claim "$name" "tombstone $why -" || settle "$name"
        [ $state != absent ] || complain "$name"
    fi
    report
}
# What the record says, to the end.
report() {
    [ $state != tombstone ] || tell_never
    files=$name.
    [ ! -d "$name.$supervisor.d" ] || files=$name.$supervisor.d/
    [ -e "${files}out" ] || printf '' >"${files}out"
    [ -e "${files}err" ] || printf '' >"${files}err"
    exec 5<"${files}out" 6<"${files}err"
    [ $at_out = 0 ] || dd bs=1 count=0 skip=$at_out <&5
    [ $at_err = 0 ] || dd bs=1 count=0 skip=$at_err <&6
    [ $state != started ] || ! is_running || attend
    [ $state = ended ] || inspect "$name"
    if [ $state = ended ]; then
        tell_end $end
        exit 0
    fi
    conclude_both
    [ $state != empty ] || last interrupted $lengths "its record is empty: the disk was full or the power went when it was made"
    [ "$record_boot" = "$boot" ] || last interrupted $lengths "the host booted while it ran: the boot id was $record_boot"
    last interrupted $lengths "its processes are gone without an exit record"
}
# What a later attempt has closed may have run, if the host has booted since: the boot can have taken its record away.
tell_never() {
    case $why in
    barred) last barred "$words" ;;
    booted) last interrupted 0 0 "the host booted after the attempt was issued, and has no record of it" ;;
    aged) last interrupted 0 0 "the attempt is older than the records kept on the host" ;;
    esac
    [ "$fence" = later ] || last never $why $fence
    [ -z "${rebooted-}" ] || last interrupted 0 0 "the host booted after the attempt was issued, and a later attempt has closed it"
    last never $why -
}
# It runs: follow it until it does not.
attend() {
    clock
    heard=$now pause=5 looks=0 seen=
    say started 1 $((now - began))
    [ -z "$cancel" ] || {
        end_it </dev/null >/dev/null &
        ender=$!
    }
    while [ $state = started ]; do
        if grown $supervisor; then
            seen=$grew
            pump
        fi
        pace
        nap $pause
        inspect "$name"
        [ $state != started ] || [ -d "/proc/$supervisor" ] || is_running || break
    done
    # With nobody else to say it, whoever ended it does.
    [ $state != started ] || [ -z "$cancel" ] || wait $ender
}
# Cancel: first it is written who ends it; whoever supervises says when nothing runs any more, or we do in its place.
end_it() {
    trap : HUP PIPE
    printf '\ncancelled\n' >>"$name"
    until inspect "$name" && reap end; do nap 500; done
    for pause in 10 20 50 100 200; do
        inspect "$name"
        [ $state = started ] && supervised || break
        nap $pause
    done
    [ $state != started ] || supervised || {
        clock
        printf '\nended - - %s %s %s .\n' ${by:-cancelled} $((now - began)) $now >>"$name"
    }
}
