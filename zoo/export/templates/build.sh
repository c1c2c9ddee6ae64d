#!/bin/sh
# Build an engine of this bundle ($model) with trtexec, and time it. Made for TensorRT $tensorrt on $device.
#   ./build.sh [$choices]     (default: $default)
set -eu
cd "$$(dirname "$$0")"
engine=$${1:-$default}
TRTEXEC=$${TRTEXEC:-$$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}
if [ ! -x "$$TRTEXEC" ]; then
  echo "trtexec is not at $$TRTEXEC; install it (sudo apt install libnvinfer-bin), set TRTEXEC, or run: python3 build_engine.py" >&2
  exit 1
fi
mkdir -p engines

case "$$engine" in
$cases
  *) echo "unknown engine $$engine; this bundle has $choices" >&2; exit 2 ;;
esac

"$$TRTEXEC" "$$@" $workspace --timingCacheFile=engines/trtexec.timing --profilingVerbosity=detailed \
  $build_only --saveEngine="engines/$$engine.plan"
python3 build_engine.py "$$engine" --adopt

for shape in $$shapes; do
  for copies in with without; do
    case "$$copies" in
      with) set -- $with_copies ;;
      *) set -- $without_copies ;;
    esac
    echo "== $$shape, $$copies copies"
    if ! "$$TRTEXEC" --loadEngine="engines/$$engine.plan" --shapes="$$shape" "$$@" $measure \
        --warmUp=500 --duration=5 --percentile=99 > engines/trtexec.log; then
      echo "trtexec could not run the engine; its messages are in engines/trtexec.log" >&2
      exit 1
    fi
    grep -E 'Throughput|Latency|GPU Compute Time|percentile' engines/trtexec.log || true
  done
done
