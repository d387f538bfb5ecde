#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# Memory of a GPU under verbs, between two processes on the loopback interface: its payload passes through the host.
# The programs have been built.
#
#   tests/gpu/run.sh gpu|stand-in
#
# With CUDA's driver, and all is skipped where that does not load; or with the stand-in of it (tests/c/standin/cuda.c), of
# whose bandwidth nothing is said.
set -u

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
case ${1-} in
gpu) driver=libcuda.so.1 least=0.8 ;;
stand-in) driver=$top/target/tests-c/libcuda.so.1 least=0 ;;
*)
	echo "tests/gpu/run.sh gpu|stand-in" >&2
	exit 2
	;;
esac
on=$1
devverbs=$top/target/tests-devmem/devverbs
run=(timeout --kill-after=5 300 "$top/target/release/dmverbs" run --)
address=127.0.0.1
export VERBS_TEST_CUDA=$driver
work=$(mktemp --directory) || exit 1
trap 'kill $(jobs -p) 2> /dev/null; rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0

skip() {
	echo "skipped $on-$1: $2"
	skipped=$((skipped + 1))
}

# try NAME COMMAND...: what it prints is shown if it fails, and its notes.
try() {
	if "${@:2}" > "$work/printed" 2>&1; then
		echo "ok $on-$1"
		passed=$((passed + 1))
	elif grep -q 'cuMemGetHandleForAddressRange: error 801 ' "$work/printed"; then
		skip "$1" "this driver has no dma-bufs of its memory (CUDA_ERROR_NOT_SUPPORTED)"
	else
		echo "FAILED $on-$1"
		sed 's/^/  /' "$work/printed"
		failed=$((failed + 1))
	fi
	grep '^summary: ' "$work/printed"
	# Those that wait for one that has failed.
	kill $(jobs -p) 2> "$work/ended"
	wait
}

# serve PORT PROGRAM [OPTION...]: leaves its pid in SERVER once it listens.
serve() {
	"${run[@]}" "${@:2}" &
	SERVER=$!
	local listening limit=$((SECONDS + 60))
	listening=$(printf ':%04X [0:]* 0A ' "$1")
	until grep -q "$listening" /proc/net/tcp /proc/net/tcp6; do
		[ $SECONDS -lt $limit ] && kill -0 $SERVER 2> "$work/ended" || return 1
		sleep 0.05
	done
}

# The C program, which says what it sees.
program() {
	"${run[@]}" "$top/target/tests-c/cuda" > "$work/said" && diff "$top/tests/c/cuda.out" "$work/said"
}

# check SERVER CLIENT: every operation, of all sizes, between memories of these kinds.
check() {
	serve 18600 "$devverbs" serve -d dmv_lo -m "$1" &&
		"${run[@]}" "$devverbs" check -d dmv_lo -m "$2" $address &&
		wait "$SERVER"
}

# open KIND PORT OPERATION: a client that measures when it is told to.
declare -A GO SAYS SERVERS
open() {
	local go says
	serve "$2" "$devverbs" serve -d dmv_lo -m "$1" -p "$2" || return
	SERVERS[$1]=$SERVER
	mkfifo "$work/$2".{go,says}
	"${run[@]}" "$devverbs" speed -d dmv_lo -m "$1" -p "$2" -o "$3" -n $((512 << 20)) -w $address \
		< "$work/$2.go" > "$work/$2.says" &
	exec {go}> "$work/$2.go" {says}< "$work/$2.says"
	GO[$1]=$go SAYS[$1]=$says
	read -rt 120 _ <&"$says"
}

# measure KIND: MB/s.
measure() {
	local said
	# Where nobody reads it, only the subshell ends by that.
	(echo again >&"${GO[$1]}") || return
	read -rt 120 said <&"${SAYS[$1]}" && read -rt 120 _ <&"${SAYS[$1]}" || return
	awk '/MB\/s/ { print $(NF - 1); found = 1 } END { exit !found }' <<< "$said"
}

close() {
	local go=${GO[$1]} says=${SAYS[$1]}
	(echo >&"$go") || return
	exec {go}>&- {says}<&-
	wait "${SERVERS[$1]}"
}

# pace OPERATION: messages of 1 MiB in the GPU's memory and in the host's, in turns.
pace() {
	rm -f "$work"/*.{go,says}
	open cuda 18601 "$1" && open host 18602 "$1" || return
	local gpu host
	for _ in 1 2 3 4 5 6 7; do
		gpu=$(measure cuda) && host=$(measure host) || return
		echo "$gpu $host"
	done > "$work/figures"
	close cuda && close host || return
	python3 - "$1" "$least" "$work/figures" <<-'END'
		import statistics, sys
		operation, least, figures = sys.argv[1], float(sys.argv[2]), sys.argv[3]
		gpu, host = zip(*((float(a), float(b)) for a, b in map(str.split, open(figures))))
		ratios = [a / b for a, b in zip(gpu, host)]
		figure = lambda of, form: f"{statistics.median(of):{form}} ({min(of):{form}} … {max(of):{form}})"
		print("summary: " * (least > 0) + f"{operation} of 1 MiB: memory of the GPU {figure(gpu, '.0f')} MB/s, of the host "
		      f"{figure(host, '.0f')} MB/s, ratio {figure(ratios, '.2f')}, at least {least}")
		sys.exit(statistics.median(ratios) < least)
	END
}

# Debian's perftest is built without CUDA; others are not.
perftest() {
	serve 18603 ib_write_bw -d dmv_lo -F -p 18603 -s 1048576 -n 1000 --use_cuda=0 &&
		"${run[@]}" ib_write_bw -d dmv_lo -F -p 18603 -s 1048576 -n 1000 --use_cuda=0 $address &&
		wait "$SERVER"
}

if why=$(python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$driver" 2>&1); then
	try program program
	for kinds in "cuda cuda" "cuda host" "host cuda" "cuda_dmabuf cuda_dmabuf"; do
		try "check-${kinds/ /-}" check $kinds
	done
	for operation in WRITE READ SEND; do
		try "pace-$operation" pace $operation
	done
	if ! command -v ib_write_bw > /dev/null; then
		skip perftest "ib_write_bw is not installed"
	elif ! ib_write_bw --help 2>&1 | grep -q -- --use_cuda=; then
		skip perftest "this ib_write_bw is built without CUDA"
	else
		try perftest perftest
	fi
else
	skip all "${why##*$'\n'}"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
