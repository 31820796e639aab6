#!/usr/bin/env bash
# gpu.sh --build DIR [--simulated] [--driver PATH] [--out FILE]
# Compares simgpu with a real driver; see README.md. Exit codes: 0 done, 1 something failed, 2 wrong use, 3 no card.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
build='' simulated='' driver='' out=''
say() { printf 'gpu: %s\n' "$*"; }
die() { printf 'gpu: %s\n' "$*" >&2; exit "${code:-1}"; }
while [ $# -gt 0 ]; do
  case "$1" in
    --simulated) simulated=1; shift ;;
    --build|--driver|--out) [ $# -ge 2 ] || code=2 die "$1: expected a value"; printf -v "${1#--}" %s "$2"; shift 2 ;;
    *) code=2 die "\"$1\": expected --build DIR, --simulated, --driver PATH or --out FILE" ;;
  esac
done
[ -n "$build" ] || code=2 die "--build: expected a build folder"
for f in bin/simgpu bin/gpu-acceptance simgpu/trace/libcuda.so.1 simgpu/lib/libcuda.so.1; do
  [ -e "$build/$f" ] || die "$build/$f is not there: build simgpu_program, simgpu_trace and gpu-acceptance"
done
simgpu=$build/bin/simgpu acceptance=$build/bin/gpu-acceptance
tmp=$(mktemp -d /tmp/tessera-gpu.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
unset LD_PRELOAD SIMGPU_TRACE SIMGPU_FAULTS SIMGPU_SEED SIMGPU_CARDS CUDA_VISIBLE_DEVICES

if [ "$simulated" ]; then
  driver=$(readlink -f "$build/simgpu/lib/libcuda.so.1")
  export SIMGPU_STATE=$tmp/real-state SIMGPU_CARDS=A100-80
  mkdir "$SIMGPU_STATE"
elif [ -z "$driver" ]; then
  driver=$(ldconfig -p 2>/dev/null | sed -n 's/.*libcuda\.so\.1 .*x86-64.* => //p' | head -1)
  [ -n "$driver" ] || code=3 die "no GPU driver (libcuda.so.1) on this machine, so there is nothing to compare simgpu with"
fi
[ -r "$driver" ] || code=2 die "--driver: expected a file that can be read, not $driver"
# Ours says so; its answers must never pass for a card's.
if [ -z "$simulated" ] && grep -q simgpu_cuMemAlloc_v2 "$driver" 2>/dev/null; then
  code=3 die "$driver is simgpu's own driver, so there is no card to compare with (--simulated tests this script)"
fi

# real WHAT [TRACE]: on the real driver, behind the tracing library when a file is named.
real() {
  if [ $# -gt 1 ]; then
    LD_LIBRARY_PATH=$build/simgpu/trace SIMGPU_TRACE_DRIVER=$driver SIMGPU_TRACE=$2 "$acceptance" "$1"
  else
    LD_LIBRARY_PATH=$(dirname "$driver") "$acceptance" "$1"
  fi
}
card=$(real name) || code=3 die "the driver $driver finds no card: $card"
# The profile of the same name, or the default one, which the table then names.
model=$("$simgpu" cards --state shared | awk -v card="$card" 'index($0, card) && $1 !~ /models/ {print $1; exit}') || true
model=${model:-A100-80}
say "real side: $card${simulated:+ (simulated)}, $driver; simulated side: $model"
sim() { "$simgpu" run --cards "$model" --quiet "${@:2}" -- "$acceptance" "$1"; }

failed=0
real results "$tmp/real.trace" >"$tmp/real.out" || { failed=1; say "the programs failed on the real driver"; }
sim results --trace "$tmp/sim.trace" >"$tmp/sim.out" || { failed=1; say "the programs failed on simgpu"; }
real questions >"$tmp/real.answers" || { failed=1; say "the questions failed on the real driver"; }
sim questions >"$tmp/sim.answers" || { failed=1; say "the questions failed on simgpu"; }
results=0
diff "$tmp/real.out" "$tmp/sim.out" >"$tmp/results.diff" || results=$?
traces=0
"$simgpu" trace-diff "$tmp/real.trace" "$tmp/sim.trace" >"$tmp/trace.diff" || traces=$?
[ "$traces" -le 1 ] || failed=1

date=$(date +%Y-%m-%d)
if [ -z "$out" ]; then
  if [ "$simulated" ]; then out=$tmp/simulated.md
  else out=$root/docs/measurements/$(printf %s "$card" | tr -cs 'A-Za-z0-9' - | sed 's/-*$//')-$date.md; fi
fi
{
  if [ "$simulated" ]; then
    printf '# SIMULATED: simgpu against itself, %s\n\n' "$date"
    printf 'No card was there; this only shows that the script runs.\n\n'
  else
    printf '# %s against simgpu (%s), %s\n\n' "$card" "$model" "$date"
  fi
  printf 'Command: `./dev gpu%s`. Driver: `%s`. Left: the %s; right: simgpu %s.\n\n' \
    "${simulated:+ --simulated}" "$driver" "${simulated:+simulated }card" "$model"
  printf '## Results\n\n%s lines of results, ' "$(wc -l <"$tmp/real.out")"
  if [ "$results" -eq 0 ]; then printf 'all equal.\n\n'; else printf 'these differ:\n\n```\n'; cat "$tmp/results.diff"; printf '```\n\n'; fi
  printf '## Call traces after normalisation\n\n```\n'; cat "$tmp/trace.diff"; printf '```\n\n'
  printf '## What only a driver knows\n\n| question | %s | simgpu %s | |\n|---|---|---|---|\n' "$card" "$model"
  paste -d '|' "$tmp/real.answers" "$tmp/sim.answers" | awk -F '|' '
    { for (i = 1; i <= NF; ++i) gsub(/^ +| +$/, "", $i)
      printf "| %s | %s | %s | %s |\n", $1, $2, $4, $2 == $4 ? "" : "differs" }'
} >"$out"
say "results: $([ "$results" -eq 0 ] && echo equal || echo differ); $(tail -1 "$tmp/trace.diff")"
if [ "$simulated" ]; then
  # Against itself everything but what another process leaves must be equal.
  [ "$results" -eq 0 ] && [ "$traces" -eq 0 ] || { cat "$out"; die "simgpu differs from itself"; }
  [ "$out" = "$tmp/simulated.md" ] || say "wrote $out"
  grep -c '^| ' "$out" >/dev/null || die "the table is empty"
else
  say "wrote $out"
fi
exit $failed
