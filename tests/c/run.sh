#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# Builds the programs of this folder, runs each, and compares what it prints with NAME.out.
#
#   tests/c/run.sh [NAME...]
#
# TESTS_C_PREFIX   what a program is started with; "target/release/dmverbs run --" if unset, nothing if empty
# TESTS_C_OUT      where the programs are built; target/tests-c if unset
# TESTS_C_SECONDS  how long a program may take; 60 if unset
#
# A program that ends with status 77 after printing "skip: why" is skipped. Its standard error is shown only when it
# fails. VERBS_TEST_DEVICE, VERBS_TEST_GID and VERBS_TEST_LENIENT are for the programs: see rig.h.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
top=$(cd "$here/../.." && pwd) || exit 1
out=${TESTS_C_OUT:-$top/target/tests-c}
prefix=${TESTS_C_PREFIX-$top/target/release/dmverbs run --}
seconds=${TESTS_C_SECONDS:-60}

# One at a time: what is built and printed lies there.
mkdir -p "$out" && exec 9<"$out" && flock 9 || exit 1
make --silent --directory="$here" OUT="$out" || exit 1

if [ $# -gt 0 ]; then
	names=("$@")
else
	names=()
	for expected in "$here"/*.out; do
		names+=("$(basename "$expected" .out)")
	done
fi

# A program without an expected text would never run, and nobody would notice.
for program in $(make --silent --directory="$here" OUT="$out" names); do
	if [ ! -e "$here/$program.out" ]; then
		echo "$program.out is missing"
		exit 1
	fi
done

passed=0 failed=0 skipped=0
for name in "${names[@]}"; do
	started=$EPOCHREALTIME
	# The prefix is a command with its arguments, hence unquoted.
	timeout --kill-after=5 "$seconds" $prefix "$out/$name" >"$out/$name.stdout" 2>"$out/$name.stderr" </dev/null 9<&-
	status=$?
	took=$(((${EPOCHREALTIME/[.,]/} - ${started/[.,]/}) / 1000))
	if [ $status -eq 77 ]; then
		echo "skipped $name: $(sed -n 's/^skip: //p' "$out/$name.stdout")"
		skipped=$((skipped + 1))
	elif [ $status -eq 0 ] && cmp --quiet "$here/$name.out" "$out/$name.stdout"; then
		echo "ok $name ($took ms)"
		passed=$((passed + 1))
	else
		if [ $status -eq 124 ] || [ $status -eq 137 ]; then
			echo "FAILED $name (stopped after $seconds s)"
		else
			echo "FAILED $name (status $status)"
		fi
		diff --unified --label expected --label printed "$here/$name.out" "$out/$name.stdout"
		sed 's/^/stderr: /' "$out/$name.stderr" | head -40
		failed=$((failed + 1))
	fi
done

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
