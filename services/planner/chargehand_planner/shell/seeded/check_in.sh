#!/bin/sh
# Announces this host to the agent of its proxy, with the facts that facts/*.sh print. POSIX sh, and curl or wget.
#   check-in.sh             now
#   check-in.sh scheduled   after a delay that is this host's own: hosts that start all at once do not come all at once
#   check-in.sh facts       only print the facts
# Beside it: check-in.conf (address, host, key; for its owner only; `client wget` in it: not curl), facts/. What is secret is never in an argument.

umask 077
LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
unset CDPATH ENV
case $0 in
*/*) cd "${0%/*}" || exit 1 ;;
esac

say() { printf 'check-in: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

# limited SECONDS COMMAND...: end it, and what it started, after so long
limited() {
    span=$1
    shift
    if command -v setsid >/dev/null; then setsid "$@" & else "$@" & fi
    running=$!
    (
        trap 'kill $napping; exit' TERM
        sleep "$span" &
        napping=$!
        wait $napping
        kill -s KILL -- -$running || kill -s KILL $running
    ) >/dev/null 2>&1 &
    guard=$!
    wait $running
    result=$?
    kill $guard 2>/dev/null
    wait $guard 2>/dev/null
    return $result
}

# Every executable facts/*.sh: at most 32 of them, $fact_seconds and about 32 KiB each.
facts() {
    count=0
    for script in facts/*.sh; do
        [ -f "$script" ] && [ -x "$script" ] || continue
        count=$((count + 1))
        [ $count -le 32 ] || {
            say "more than 32 facts scripts: $script and those after it were not run"
            break
        }
        limited "$fact_seconds" /bin/sh -c 'ulimit -f 64; exec "$1"' check-in "./$script" >"$work/facts" 2>/dev/null </dev/null ||
            say "$script did not succeed within $fact_seconds s; what it printed until then counts"
        dd bs=16384 count=1 <"$work/facts" 2>/dev/null
        echo
    done
}

# What curl or wget was answered: status (0: nothing), retry_after.
send() {
    status=0 retry_after=
    : >"$work/answer" && : >"$work/head"
    case $client in
    curl)
        status=$(curl -q -sS --max-time 40 --connect-timeout 15 ${ca:+--cacert "$ca"} -H 'Content-Type: text/plain' -H 'Expect:' \
            --data-binary "@$work/body" -D "$work/head" -o "$work/answer" -w '%{http_code}' -- "$address" 2>"$work/trouble")
        ;;
    wget)
        wget --no-config -nv -S --tries=1 --timeout=40 --max-redirect=0 --content-on-error ${ca:+--ca-certificate="$ca"} \
            --header='Content-Type: text/plain' --post-file="$work/body" -O "$work/answer" -- "$address" >"$work/head" 2>&1
        cp "$work/head" "$work/trouble"
        ;;
    busybox)
        limited 40 wget -q -S --post-file "$work/body" -O "$work/answer" "$address" >"$work/head" 2>&1
        cp "$work/head" "$work/trouble"
        ;;
    esac
    [ "$client" = curl ] || status=$(sed -n 's/.*HTTP\/1\.[01] \([0-9][0-9][0-9]\).*/\1/p' "$work/head" | tail -n 1)
    retry_after=$(sed -n 's/^ *[Rr]etry-[Aa]fter: *\([0-9]\{1,4\}\).*/\1/p' "$work/head" | tail -n 1)
    case $status in
    [1-5][0-9][0-9]) ;;
    *) status=0 ;;
    esac
}

choose_client() {
    if [ "$client" ]; then
        :
    elif command -v curl >/dev/null; then
        client=curl
    elif command -v wget >/dev/null; then
        client=busybox
        case $(wget --version 2>/dev/null) in
        *GNU*) client=wget ;;
        esac
    fi
    [ "$client" ] || fail "there is neither curl nor wget"
    case $client$address in
    busyboxhttps:*) fail "busybox's wget does not check certificates, and the key is not given to just anybody: install curl" ;;
    *http://*) unset http_proxy HTTP_PROXY all_proxy ALL_PROXY ;;
    esac
}

address= host= key= ca= spread=120 fact_seconds=10 client=
while read -r name value; do
    case $name in
    address) address=$value ;;
    host) host=$value ;;
    key) key=$value ;;
    ca) ca=$value ;;
    spread) spread=$value ;;
    fact_seconds) fact_seconds=$value ;;
    client) client=$value ;;
    esac
done <check-in.conf
[ "$address" ] && [ "$host" ] && [ "$key" ] || fail "$PWD/check-in.conf cannot be read, or lacks address, host or key: install again"
case $address in
https://* | http://127.0.0.1[:/]* | "http://[::1]"[:/]* | http://localhost[:/]*) ;;
*) fail "$address is neither https nor on this machine: the key does not cross a network in clear" ;;
esac

# What a killed one has left behind.
for old in work.*; do
    [ -d "/proc/${old#work.}" ] || rm -rf "$old"
done
work=work.$$
rm -rf "$work"
mkdir "$work" || fail "$PWD cannot be written"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

case ${1-} in
facts)
    facts
    exit 0
    ;;
esac
choose_client

# The digest of the host's id, the same at every boot.
set -- "${1-}" $(printf %s "$host" | cksum)
[ "$1" != scheduled ] || [ "$spread" -le 0 ] || sleep $(($2 % spread))

facts >"$work/all"
{
    printf 'chargehand check-in 1\nhost=%s\nkey=%s\n\n' "$host" "$key"
    dd bs=30720 count=1 <"$work/all" 2>/dev/null
} >"$work/body"

# Whoever waits for it wants to know soon; else there is time.
tries=3 pause=2
[ "$1" != scheduled ] || tries=8
for try in 1 2 3 4 5 6 7 8; do
    send
    words=$(dd bs=400 count=1 <"$work/answer" 2>/dev/null | tr -dc '[:print:]')
    case $status in
    200)
        [ "$1" = scheduled ] || printf 'check-in: %s\n' "$words"
        exit 0
        ;;
    0 | 408 | 429 | 5??) ;;
    *) fail "$words (status $status from $address)" ;;
    esac
    [ "$status" != 0 ] || words="no answer: $(tail -n 1 "$work/trouble" | tr -dc '[:print:]')"
    [ $try != $tries ] || break
    # Not all again at the same instant: up to twice as long, by the digest.
    [ "${retry_after:-0}" -le $pause ] || pause=$retry_after
    sleep $((pause + $2 / try % (pause + 1)))
    [ $pause -ge 64 ] || pause=$((pause * 2))
done
fail "$words (status $status from $address); given up until the next time"
