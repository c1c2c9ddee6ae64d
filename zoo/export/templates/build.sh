#!/bin/sh
# Build an engine of $model with trtexec, and time it. Made for TensorRT $tensorrt on $device.
#   ./build.sh [$choices]     (default: $default)
set -eu
cd "$$(dirname "$$0")"
precision=$${1:-$default}
TRTEXEC=$${TRTEXEC:-$$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}
if [ ! -x "$$TRTEXEC" ]; then
  echo "trtexec is not at $$TRTEXEC; install it (sudo apt install libnvinfer-bin), set TRTEXEC, or run: python3 build_engine.py" >&2
  exit 1
fi
mkdir -p engines

case "$$precision" in
$cases
  *) echo "unknown precision $$precision; this bundle has $choices" >&2; exit 2 ;;
esac

"$$TRTEXEC" "$$@" $workspace \
  --minShapes=$input:1x3x${side}x$side --optShapes=$input:1x3x${side}x$side --maxShapes=$input:${batch}x3x${side}x$side \
  --timingCacheFile=engines/trtexec.timing --profilingVerbosity=detailed \
  $build_only --saveEngine="engines/$$precision.plan"
python3 build_engine.py "$$precision" --adopt

for batch in 1 $batch; do
  for copies in with without; do
    case "$$copies" in
      with) set -- $with_copies ;;
      *) set -- $without_copies ;;
    esac
    echo "== batch $$batch, $$copies copies"
    "$$TRTEXEC" --loadEngine="engines/$$precision.plan" --shapes=$input:$${batch}x3x${side}x$side "$$@" $measure \
      --warmUp=500 --duration=5 --percentile=99 | grep -E 'Throughput|Latency|GPU Compute Time|percentile' || true
  done
done
